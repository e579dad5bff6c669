"""What one licence says, as data: what it permits, and its clauses, each a condition on a use and what follows from it.

    [[clauses]]                       kind     what it is about, as a policy may name it
    kind = "monthly-users"            where    the place in the licence's text
    where = "section 4"               says     the clause in plain words
    says = "A commercial service ..." effect   what follows when the conditions hold
    effect = "forbids"                when     any of these must be done; absent: it always holds
    when = ["commercial"]             above_*, territories, multimodal_only: these must hold too
    above_users = 100_000_000         text, prefix, url: what to show, how to name, where to read

Nothing here is legal advice: a record is a reading of a text, and `source` says which. Knows no model and no policy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum


class ClauseKind(StrEnum):
    """What a clause is about. A policy asks or denies by these."""

    COMMERCIAL_USE = "commercial-use"
    MONTHLY_USERS = "monthly-users"
    REVENUE = "revenue"
    TERRITORY = "territory"
    OUTPUTS_TRAINING = "outputs-training"
    ACCEPTABLE_USE = "acceptable-use"
    PASS_ON_RESTRICTIONS = "pass-on-restrictions"  # noqa: S105  (no password)
    LICENCE_COPY = "licence-copy"
    NOTICE_FILE = "notice-file"
    ATTRIBUTION = "attribution"
    STATE_CHANGES = "state-changes"
    NAMING = "naming"
    REMOTE_RESTRICTION = "remote-restriction"
    TRADEMARK = "trademark"
    TERMINATION = "termination"


class Effect(StrEnum):
    """What follows where a clause holds."""

    INFORMS = "informs"
    """Worth knowing; nothing is to be done."""
    OBLIGES = "obliges"
    """Something is to be done."""
    ASKS = "asks"
    """Something must be settled with the licensor first, which anybody can."""
    FORBIDS = "forbids"
    """Not licensed."""


class Activity(StrEnum):
    """What a use may do, as a policy declares it."""

    COMMERCIAL = "commercial"
    SERVES_OTHERS = "serves_others"
    REDISTRIBUTES = "redistributes"
    TRAINS_ON_OUTPUTS = "trains_on_outputs"


class Confidence(StrEnum):
    """How the record came about."""

    TEXT = "text"
    """The licence's text was read."""
    QUOTED = "quoted"
    """The clauses were read where others quote them."""


@dataclass(frozen=True, slots=True)
class Clause:
    """A condition and what follows from it. See the module's drawing for the fields."""

    kind: ClauseKind
    where: str
    says: str
    effect: Effect
    when: frozenset[Activity] = frozenset()
    above_users: int | None = None
    """Monthly active users."""
    above_revenue_per_year: int | None = None
    """US dollars."""
    territories: tuple[str, ...] = ()
    """Two-letter codes of ISO 3166, or EU."""
    multimodal_only: bool = False
    """Whether it holds only for models that read more than text."""
    text: str | None = None
    prefix: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where the licence's own text is, and which text that was."""

    url: str
    dated: date | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Permissions:
    """What the licence permits, in short; None where the record does not say."""

    commercial_use: str
    """`allowed`, `forbidden` or `on registration`."""
    redistribution: bool | None = None
    outputs_for_training: str | None = None
    """`free`, `attribution`, `naming rule`, `same terms`, `non-commercial` or `own family only`."""
    patent_grant: bool | None = None
    hosting_counts_as_distribution: bool | None = None


@dataclass(frozen=True, slots=True)
class Licence:
    """One licence."""

    id: str
    """An SPDX identifier, or a LicenseRef of ScanCode's list or our own."""
    name: str
    confidence: Confidence
    source: Source
    permissions: Permissions
    clauses: tuple[Clause, ...]
    sha256: str
    """Of this record: another reading of the licence is another record."""
    also_known_as: tuple[str, ...] = ()
    version: str | None = None


@dataclass(frozen=True, slots=True)
class LicenceBook:
    """Every licence there is a record of."""

    by_id: Mapping[str, Licence]
    ids_by_name: Mapping[str, str]
    """Names and short names, as `plain_name` makes them, to ids."""

    def find(self, name: str) -> Licence | None:
        """The licence of that id, short name or full name, whatever its capitals and spaces."""
        licence_id = self.ids_by_name.get(plain_name(name))
        return None if licence_id is None else self.by_id[licence_id]


def plain_name(name: str) -> str:
    """A name without what writers differ in: capitals, spaces, underscores."""
    return "-".join(name.lower().replace("_", " ").replace("-", " ").split())
