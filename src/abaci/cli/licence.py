"""`abaci licence`: what a model's licences want, and whether a policy lets it be used."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abaci.cli.terminal import JsonOption, ModelArgument, OfflineOption, print_error, print_json, print_text, wrapped
from abaci.errors import AbaciError

if TYPE_CHECKING:
    from abaci.hub.licences import LicenceReport
    from abaci.hub.licences.licence import Clause
    from abaci.hub.licences.verdict import Obligation

EXIT_CODES = {"allow": 0, "ask": 3, "deny": 4}
NO_DECISION = AbaciError.exit_code
"""Of an error whose own exit code would be taken for a decision."""


def licence(
    model: ModelArgument,
    *,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A licence policy; else ABACI_LICENCE_POLICY or that of the settings."),
    ] = None,
    notice: Annotated[
        bool, typer.Option("--notice", help="Print the NOTICE file that goes with the model when you pass it on.")
    ] = False,
    offline: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a model's licences allow and want.

    Ends with 0 for allow, 3 for ask, 4 for deny; with another code where there is no decision.
    """
    from abaci.hub.licences import examine, find_policy, write_notice
    from abaci.hub.licences.model_facts import facts_of_name

    try:
        report = examine(facts_of_name(model), find_policy(policy))
    except AbaciError as error:
        if error.exit_code not in EXIT_CODES.values():
            raise
        print_error(error)
        raise typer.Exit(NO_DECISION) from error
    if notice:
        print_text(write_notice(report).rstrip("\n"))
        return
    if as_json:
        print_json(report.as_json())
    else:
        print_text(_as_text(report))
    raise typer.Exit(EXIT_CODES[str(report.verdict.decision)])


def applying(report: "LicenceReport") -> "list[Obligation]":
    """The obligations that hold for the declared use."""
    return [obligation for obligation in report.verdict.obligations if obligation.applies]


def _as_text(report: "LicenceReport") -> str:
    from abaci.hub.licences import DISCLAIMER

    policy = f"by {report.policy_path}" if report.policy_path else "there is no policy: nothing is refused"
    wanted = {(obligation.licence, obligation.clause) for obligation in applying(report)}
    told = report.verdict.reasons
    others = {
        (record.id, clause)
        for _, record in report.records
        if record is not None
        for clause in record.clauses
        if (record.id, clause) not in wanted and not any(clause.says in reason.text for reason in told)
    }
    blocks = [
        [f"{report.model}: {report.verdict.decision} ({policy})", f"licences: {report.expression}"],
        ["why", *(f"  {reason.text}" for reason in told)],
        ["you are to", *_clauses(report, wanted, conditions=False)],
        ["worth knowing, or for other uses", *_clauses(report, others, conditions=True)],
        ["read", *(f"  {record.name}: {record.source.url}" for _, record in report.records if record is not None)],
    ]
    paragraphs = ["\n".join(wrapped(line) for line in block) for block in blocks if len(block) > 1]
    return "\n\n".join([*paragraphs, DISCLAIMER])


def _clauses(report: "LicenceReport", shown: "set[tuple[str, Clause]]", *, conditions: bool) -> list[str]:
    """The clauses to show, under the names of their licences."""
    lines = []
    for _, record in report.records:
        clauses = [clause for clause in record.clauses if (record.id, clause) in shown] if record is not None else []
        if record is not None and clauses:
            lines.append(f"  {record.name}")
        for clause in clauses:
            condition = _condition(sorted(clause.when)) if conditions else ""
            lines.append(f"    {clause.kind}{condition} ({clause.where}): {clause.says}")
            lines.extend(f"      {part}" for part in (clause.text, clause.prefix, clause.url) if part is not None)
    return lines


def _condition(activities: list[str]) -> str:
    words = {
        "commercial": "in commercial use",
        "redistributes": "when you pass it on",
        "serves_others": "when you serve others",
        "trains_on_outputs": "when you train on its outputs",
    }
    return ", " + " or ".join(words[activity] for activity in activities) if activities else ""
