"""The flag and the question with which a licence is accepted; what is decided is `hub/licences/gate.py`'s."""

import sys
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from abaci.cli.licence import applying
from abaci.cli.terminal import print_line

if TYPE_CHECKING:
    from abaci.hub import ResolvedModel
    from abaci.hub.licences import LicenceReport

AcceptOption = Annotated[
    bool, typer.Option("--accept-licence", help="Accept what the licence policy asks about; it is recorded.")
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


def somebody_is_there() -> bool:
    """Whether a person at a terminal can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _ask(report: "LicenceReport") -> bool:
    from abaci.hub.licences import DISCLAIMER, Decision

    print_line(f"{report.model} comes under {report.expression}. The licence policy asks:")
    print_line(report.sentences(Decision.ASK))
    for obligation in applying(report):
        print_line(f"  you are to ({obligation.clause.where}): {obligation.clause.says}")
    print_line(DISCLAIMER)
    return typer.confirm("Accept?", default=False, err=True)
