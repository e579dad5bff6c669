"""Whether a use is licensed: a policy held against what a model's licences say, clause by clause.

Verdicts are ordered, allow < ask < deny, and joined by taking the stricter one; only a choice between licences (OR)
takes the milder. So one more denial, one more licence joined with AND, or one more thing the use does never makes a
verdict milder. Nothing here is legal advice.
"""

from dataclasses import dataclass
from enum import IntEnum

from abaci.hub.licences.closure import ModelLicences
from abaci.hub.licences.expressions import NO_ASSERTION, AllOf, AnyOf, Expression, LicenceId, write_expression
from abaci.hub.licences.licence import Clause, Effect, Licence, LicenceBook
from abaci.hub.licences.policy import Policy, Use, lists


class Decision(IntEnum):
    """What to do, the mildest first."""

    ALLOW = 0
    ASK = 1
    DENY = 2

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Obligation:
    """Something that a licence wants to be done."""

    licence: str
    clause: Clause
    applies: bool
    """Whether its conditions hold, or may, for the declared use; else it would for another."""


@dataclass(frozen=True, slots=True)
class Reason:
    """A sentence, and the decision it brings by itself."""

    decision: Decision
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome, with what has to be done and why."""

    decision: Decision
    obligations: tuple[Obligation, ...] = ()
    reasons: tuple[Reason, ...] = ()
    """The strictest first."""


def judge(licences: ModelLicences, policy: Policy, book: LicenceBook, *, multimodal: bool | None = None) -> Verdict:
    """Whether a model may be used as the policy declares; what is in doubt about its licences makes at least ask."""
    doubts = tuple(Reason(Decision.ASK, doubt) for doubt in licences.doubts)
    remarks = tuple(Reason(Decision.ALLOW, remark) for remark in licences.remarks)
    return _join([_judge(licences.expression, policy, book, multimodal), _of_reasons((*doubts, *remarks))])


def holds(clause: Clause, use: Use, *, multimodal: bool | None) -> bool | None:
    """Whether all conditions of a clause hold for a use; None: that depends on what is not known."""
    conditions: list[bool | None] = [
        use.users_per_month > clause.above_users if clause.above_users is not None else True,
        use.revenue_per_year > clause.above_revenue_per_year if clause.above_revenue_per_year is not None else True,
        use.is_in(clause.territories) if clause.territories else True,
        multimodal if clause.multimodal_only else True,
        _any([use.does(activity) for activity in clause.when]) if clause.when else True,
    ]
    if False in conditions:
        return False
    return None if None in conditions else True


def _judge(expression: Expression, policy: Policy, book: LicenceBook, multimodal: bool | None) -> Verdict:
    match expression:
        case LicenceId(licence_id):
            return _judge_licence(licence_id, policy, book, multimodal)
        case AllOf(parts):
            return _join([_judge(part, policy, book, multimodal) for part in parts])
        case AnyOf(parts):
            verdicts = [(part, _judge(part, policy, book, multimodal)) for part in parts]
            chosen, verdict = min(verdicts, key=lambda judged: judged[1].decision)
            choice = Reason(Decision.ALLOW, f"of {write_expression(expression)}, {write_expression(chosen)} is chosen")
            return _join([verdict, _of_reasons((choice,))])


def _judge_licence(licence_id: str, policy: Policy, book: LicenceBook, multimodal: bool | None) -> Verdict:
    licence = book.by_id.get(licence_id)
    by_list = _of_reasons(_reasons_of_lists(licence_id, policy))
    if licence is not None:
        return _join([by_list, *(_judge_clause(licence, clause, policy, multimodal) for clause in licence.clauses)])
    if policy.allow is not None and lists(policy.allow, licence_id):
        return by_list
    return _join([by_list, _of_reasons((Reason(Decision.ASK, _not_known(licence_id)),))])


def _reasons_of_lists(licence_id: str, policy: Policy) -> tuple[Reason, ...]:
    reasons = []
    if lists(policy.deny, licence_id):
        reasons.append(Reason(Decision.DENY, f"the policy denies {licence_id}"))
    if lists(policy.ask, licence_id):
        reasons.append(Reason(Decision.ASK, f"the policy asks about {licence_id}"))
    if policy.allow is not None and not lists(policy.allow | policy.ask | policy.deny, licence_id):
        reasons.append(Reason(Decision.ASK, f"the policy does not list {licence_id} among those it allows"))
    return tuple(reasons)


def _judge_clause(licence: Licence, clause: Clause, policy: Policy, multimodal: bool | None) -> Verdict:
    applies = holds(clause, policy.use, multimodal=multimodal)
    if applies is False:
        return Verdict(Decision.ALLOW, _obligations(licence, clause, applies=False))
    place = f"{licence.name}, {clause.where}: {clause.says}"
    reasons = []
    if clause.effect in (Effect.FORBIDS, Effect.ASKS):
        strict = Decision.DENY if clause.effect is Effect.FORBIDS and applies else Decision.ASK
        reasons.append(Reason(strict, place if applies else f"{place} ({_undeclared(clause, policy.use)})"))
    if clause.kind in policy.deny_obligations:
        reasons.append(Reason(Decision.DENY, f"the policy denies obligations of the kind {clause.kind}. {place}"))
    if clause.kind in policy.ask_obligations:
        reasons.append(Reason(Decision.ASK, f"the policy asks about obligations of the kind {clause.kind}. {place}"))
    verdict = _of_reasons(tuple(reasons))
    return Verdict(verdict.decision, _obligations(licence, clause, applies=True), verdict.reasons)


def _obligations(licence: Licence, clause: Clause, *, applies: bool) -> tuple[Obligation, ...]:
    return (Obligation(licence.id, clause, applies),) if clause.effect is Effect.OBLIGES else ()


def _undeclared(clause: Clause, use: Use) -> str:
    """What a policy would have to declare for the clause to be decided."""
    missing = [str(activity) for activity in sorted(clause.when) if use.does(activity) is None]
    if clause.territories and use.territories is None:
        missing.append("territory")
    if not missing:
        return "whether the model reads more than text is not known"
    return f"not declared: {' and '.join(missing)}"


def _not_known(licence_id: str) -> str:
    if licence_id == NO_ASSERTION:
        return "nothing says under which licence this model comes"
    return f"there is no record of what {licence_id} says: read its text"


def _of_reasons(reasons: tuple[Reason, ...]) -> Verdict:
    return Verdict(max((reason.decision for reason in reasons), default=Decision.ALLOW), (), reasons)


def _join(verdicts: list[Verdict]) -> Verdict:
    """All of them hold: the strictest decides, and what each wants is wanted."""
    obligations = dict.fromkeys(obligation for verdict in verdicts for obligation in verdict.obligations)
    reasons = dict.fromkeys(reason for verdict in verdicts for reason in verdict.reasons)
    return Verdict(
        max((verdict.decision for verdict in verdicts), default=Decision.ALLOW),
        tuple(obligations),
        tuple(sorted(reasons, key=lambda reason: -reason.decision)),
    )


def _any(answers: list[bool | None]) -> bool | None:
    if True in answers:
        return True
    return None if None in answers else False
