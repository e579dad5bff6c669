"""The flag and the question with which a licence is accepted; what is decided is `hub/licences/gate.py`'s."""

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from abaci.cli.licence import applying
from abaci.cli.terminal import print_line

if TYPE_CHECKING:
    from abaci.hub import Catalog, ResolvedModel
    from abaci.hub.licences import LicenceReport

AcceptOption = Annotated[
    bool,
    typer.Option(
        "--accept-licence",
        envvar="ABACI_ACCEPT_LICENCE",
        help="Accept what the licence policy asks about; it is recorded.",
    ),
]


class Gate(Protocol):
    """What lets models through: see `abaci.hub.licences.gate.LicenceGate`."""

    def check_name(self, name: str) -> None:
        """Before a model is fetched."""

    def check_file(self, resolved: "ResolvedModel") -> None:
        """Once its file is here."""


class OpenGate:
    """Lets everything through: there is no policy."""

    def check_name(self, name: str) -> None:
        """Nothing."""

    def check_file(self, resolved: "ResolvedModel") -> None:
        """Nothing."""


def licence_gate(*, accept: bool, serves_others: bool = False) -> Gate:
    """The gate of this command: on a terminal it asks the person there. Without a policy nothing more is loaded."""
    from abaci.hub.licences import find_policy

    if find_policy(None) is None:
        return OpenGate()
    from abaci.hub.licences.gate import LicenceGate

    return LicenceGate(accept=accept, serves_others=serves_others, ask=_ask if somebody_is_there() else None)


def conditions_of(resolved: "ResolvedModel") -> str | None:
    """A remark for whoever has fetched a model whose licence not every use has; None for one that has no conditions."""
    from abaci.hub.licences import examine
    from abaci.hub.licences.model_facts import facts_of_origin

    report = examine(facts_of_origin(resolved), None)
    conditions = report.conditions
    if not conditions and not report.licences.doubts and all(record is not None for _, record in report.records):
        return None
    named = f" has conditions ({', '.join(conditions)})" if conditions else " is not certain"
    return f"its licence, {report.expression},{named}: abaci licence {resolved.name}"


def without_denied(catalog: "Catalog") -> "Catalog":
    """The catalog without the models that the licence policy denies; all of it where there is no policy."""
    from abaci.hub.licences import find_policy

    policy = find_policy(None)
    if policy is None:
        return catalog
    from abaci.hub.licences import Decision, examine
    from abaci.hub.licences.model_facts import facts_of_model

    models = {
        name: model
        for name, model in catalog.models.items()
        if examine(facts_of_model(model, name, catalog), policy).verdict.decision is not Decision.DENY
    }
    return replace(catalog, models=models)


def somebody_is_there() -> bool:
    """Whether a person at a terminal can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _ask(report: "LicenceReport") -> bool:
    from abaci.hub.licences import DISCLAIMER, Decision

    print_line(f"{report.model} comes under {report.expression}. The licence policy asks:")
    print_line(report.sentences(Decision.ASK))
    for obligation in applying(report):
        print_line(f"  you are to ({obligation.clause.where}): {obligation.clause.says}")
    for _, record in report.records:
        if record is not None:
            print_line(f"  read: {record.source.url}")
    print_line(f"{DISCLAIMER} What you accept is recorded.")
    return typer.confirm("Accept?", default=False, err=True)
