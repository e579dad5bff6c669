"""One model's licences examined: records, closure and policy put together, and the outcome as JSON has it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abaci.hub.licences.acceptance import Question
from abaci.hub.licences.closure import ModelFacts, ModelLicences, find_licences
from abaci.hub.licences.expressions import ids_of, write_expression
from abaci.hub.licences.licence import Effect, Licence, LicenceBook
from abaci.hub.licences.policy import Policy, read_policy
from abaci.hub.licences.publishers import load_publishers
from abaci.hub.licences.reading import load_licences
from abaci.hub.licences.verdict import Decision, Obligation, Verdict, judge

DISCLAIMER = "This is a reading of the licences' texts by a program, and no legal advice."


@dataclass(frozen=True, slots=True)
class LicenceReport:
    """What holds for a model, and whether the policy lets it be used."""

    model: str
    licences: ModelLicences
    verdict: Verdict
    records: tuple[tuple[str, Licence | None], ...]
    """Every licence by id, with its record if there is one."""
    policy_path: Path | None

    @property
    def expression(self) -> str:
        """As SPDX writes it."""
        return write_expression(self.licences.expression)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Kinds of clauses that keep some uses out."""
        clauses = (clause for _, record in self.records if record is not None for clause in record.clauses)
        kinds = (str(clause.kind) for clause in clauses if clause.effect in (Effect.ASKS, Effect.FORBIDS))
        return tuple(dict.fromkeys(kinds))

    def sentences(self, decision: Decision) -> str:
        """The reasons that bring a decision, a line each."""
        return "\n".join(f"  {reason.text}" for reason in self.verdict.reasons if reason.decision is decision)

    @property
    def question(self) -> Question:
        """What is to be accepted where the decision is to ask."""
        return Question(
            model=self.model,
            licences=self.expression,
            terms=tuple(
                (licence_id, record.version, record.sha256) if record is not None else (licence_id, None, None)
                for licence_id, record in self.records
            ),
            reasons=tuple(reason.text for reason in self.verdict.reasons if reason.decision is not Decision.ALLOW),
        )

    def as_json(self) -> dict[str, Any]:
        """What `abaci licence --json` prints."""
        return {
            "model": self.model,
            "decision": str(self.verdict.decision),
            "licences": self.expression,
            "obligations": [_obligation(obligation) for obligation in self.verdict.obligations],
            "reasons": [reason.text for reason in self.verdict.reasons],
            "terms": [_terms(licence_id, record) for licence_id, record in self.records],
            "base_models": [{"name": base.name, "licences": base.licence} for base in self.licences.base_models],
            "policy": None if self.policy_path is None else str(self.policy_path),
            "disclaimer": DISCLAIMER,
        }


def examine(facts: ModelFacts, policy_path: Path | None, *, serves_others: bool = False) -> LicenceReport:
    """The report for a model under a policy's file; None: under no policy, which declares and forbids nothing.

    `serves_others` adds to what the policy declares. Raises UsageError for a policy that cannot be read.
    """
    book = load_licences()
    policy = Policy() if policy_path is None else read_policy(policy_path, book)
    return examine_with(facts, policy.serving() if serves_others else policy, book, policy_path)


def examine_with(facts: ModelFacts, policy: Policy, book: LicenceBook, policy_path: Path | None) -> LicenceReport:
    """The report for a model under a policy."""
    licences = find_licences(facts, book, load_publishers())
    ids = ids_of(licences.expression)
    return LicenceReport(
        model=facts.name,
        licences=licences,
        verdict=judge(licences, policy, book, multimodal=facts.multimodal),
        records=tuple((licence_id, book.by_id.get(licence_id)) for licence_id in ids),
        policy_path=policy_path,
    )


def _obligation(obligation: Obligation) -> dict[str, Any]:
    clause = obligation.clause
    fields = {
        "kind": str(clause.kind),
        "applies": obligation.applies,
        "licence": obligation.licence,
        "clause": clause.where,
        "says": clause.says,
        "when": [str(activity) for activity in sorted(clause.when)] or ["always"],
        "text": clause.text,
        "name_begins_with": clause.prefix,
        "url": clause.url,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _terms(licence_id: str, record: Licence | None) -> dict[str, Any]:
    if record is None:
        return {"id": licence_id, "known": False}
    permissions = record.permissions
    return {
        "id": licence_id,
        "known": True,
        "name": record.name,
        "version": record.version,
        "commercial_use": permissions.commercial_use,
        "redistribution": permissions.redistribution,
        "outputs_for_training": permissions.outputs_for_training,
        "patent_grant": permissions.patent_grant,
        "hosting_counts_as_distribution": permissions.hosting_counts_as_distribution,
        "source": record.source.url,
        "confidence": str(record.confidence),
        "record_sha256": record.sha256,
    }
