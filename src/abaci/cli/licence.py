"""`abaci licence`: what a model's licences want, and whether a policy lets it be used."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abaci.cli.terminal import JsonOption, ModelArgument, print_json, print_text

if TYPE_CHECKING:
    from abaci.hub.licences import LicenceReport
    from abaci.hub.licences.verdict import Obligation

EXIT_CODES = {"allow": 0, "ask": 3, "deny": 4}


def licence(
    model: ModelArgument,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A licence policy; else ABACI_LICENCE_POLICY or that of the settings."),
    ] = None,
    notice: Annotated[
        bool, typer.Option("--notice", help="Print the NOTICE file that goes with the model when you pass it on.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a model's licences allow and want. Ends with 0 for allow, 3 for ask, 4 for deny."""
    from abaci.hub.licences import examine, find_policy, write_notice
    from abaci.hub.licences.model_facts import facts_of_name

    report = examine(facts_of_name(model), find_policy(policy))
    if notice:
        print_text(write_notice(report).rstrip("\n"))
        return
    if as_json:
        print_json(report.as_json())
    else:
        print_text(_as_text(report))
    raise typer.Exit(EXIT_CODES[str(report.verdict.decision)])


def _as_text(report: "LicenceReport") -> str:
    from abaci.hub.licences import DISCLAIMER

    policy = f"by {report.policy_path}" if report.policy_path else "there is no policy: nothing is refused"
    blocks = [
        [f"{report.model}: {report.verdict.decision} ({policy})", f"licences: {report.expression}"],
        ["why", *(f"  {reason.text}" for reason in report.verdict.reasons)],
        ["you are to", *_obligations(report)],
        ["worth knowing", *_remarks(report)],
        ["read", *(f"  {record.name}: {record.source.url}" for _, record in report.records if record is not None)],
        [DISCLAIMER],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if len(block) > 1 or block[0] == DISCLAIMER)


def _obligations(report: "LicenceReport") -> list[str]:
    lines = []
    for obligation in applying(report):
        clause = obligation.clause
        wanted = [part for part in (clause.text, clause.prefix, clause.url) if part is not None]
        lines.append(f"  {clause.kind} ({obligation.licence}, {clause.where}): {clause.says}")
        lines.extend(f"    {part}" for part in wanted)
    return lines


def applying(report: "LicenceReport") -> "list[Obligation]":
    """The obligations that hold for the declared use."""
    return [obligation for obligation in report.verdict.obligations if obligation.applies]


def _remarks(report: "LicenceReport") -> list[str]:
    """Clauses that only tell, and conditions that do not hold for the declared use but might one day."""
    from abaci.hub.licences.licence import Effect

    shown = {obligation.clause for obligation in applying(report)}
    reasons = "\n".join(reason.text for reason in report.verdict.reasons)
    lines = []
    for licence_id, record in report.records:
        for clause in () if record is None else record.clauses:
            if clause in shown or clause.says in reasons:
                continue
            condition = "" if clause.effect is Effect.INFORMS else _condition(sorted(clause.when))
            lines.append(f"  {clause.kind} ({licence_id}, {clause.where}){condition}: {clause.says}")
    return lines


def _condition(activities: list[str]) -> str:
    words = {
        "commercial": "in commercial use",
        "redistributes": "when you pass it on",
        "serves_others": "when you serve others",
        "trains_on_outputs": "when you train on its outputs",
    }
    return ", " + " or ".join(words[activity] for activity in activities) if activities else ""
