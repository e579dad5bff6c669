"""What an organisation accepts: its declared use, and which licences and obligations it allows, asks about or denies.

    [use]
    commercial = true             # absent: not declared, and asked about where a licence turns on it
    users_per_month = 50_000
    revenue_per_year = 2_000_000  # US dollars
    territory = "DE"              # or ["DE", "US"], "EU", "worldwide"
    serves_others = true          # absent: false, here and below
    redistributes = false
    trains_on_outputs = false

    [licences]                    # ids, short names, or patterns such as "LicenseRef-*"
    allow = ["Apache-2.0", "MIT"] # if given, every other licence is asked about
    ask = ["gemma"]
    deny = ["CC-BY-NC-4.0"]

    [obligations]                 # kinds of clauses that hold for the declared use
    ask = ["naming"]
    deny = ["remote-restriction"]

Read strictly: what is misspelt is refused, with the nearest right name. Knows no model.
"""

import difflib
import os
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from abaci.errors import UsageError
from abaci.hub.licences.expressions import is_spdx_id
from abaci.hub.licences.licence import Activity, ClauseKind, LicenceBook, plain_name

POLICY_VARIABLE: Final = "ABACI_LICENCE_POLICY"
WORLDWIDE: Final = "worldwide"
MAX_POLICY_BYTES: Final = 1 << 20

# Members of the European Union, ISO 3166-1 alpha-2.
EUROPEAN_UNION: Final = frozenset(
    {"AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU"}
    | {"IE", "IT", "LT", "LU", "LV", "MT", "NL", "PL", "PT", "RO", "SE", "SI", "SK"}
)

_BOOLEANS: Final = tuple(activity.value for activity in Activity)
_COUNTS: Final = ("users_per_month", "revenue_per_year")


@dataclass(frozen=True, slots=True)
class Use:
    """What the models are for, as far as it is declared."""

    commercial: bool | None = None
    """None: not declared."""
    users_per_month: int = 0
    revenue_per_year: int = 0
    """US dollars."""
    territories: frozenset[str] | None = None
    """Two-letter codes of ISO 3166, EU, or `worldwide`; None: not declared."""
    serves_others: bool = False
    redistributes: bool = False
    trains_on_outputs: bool = False

    def does(self, activity: Activity) -> bool | None:
        """Whether the use does that; None: not declared."""
        answer: bool | None = getattr(self, activity.value)
        return answer

    def is_in(self, territories: Collection[str]) -> bool | None:
        """Whether it is, in part at least, in one of those; None: not declared."""
        if self.territories is None:
            return None
        return WORLDWIDE in self.territories or bool(_countries(self.territories) & _countries(territories))


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy, checked. Of patterns, each is an id or has a `*`."""

    use: Use = Use()
    allow: frozenset[str] | None = None
    """None: no list is given, so every licence is let through to its clauses."""
    ask: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()
    ask_obligations: frozenset[ClauseKind] = frozenset()
    deny_obligations: frozenset[ClauseKind] = frozenset()

    def serving(self) -> "Policy":
        """This policy for a use that serves others, whatever it declares."""
        return replace(self, use=replace(self.use, serves_others=True))


def lists(patterns: Collection[str], licence_id: str) -> bool:
    """Whether one of the patterns is that id or fits it; capitals do not count."""
    return any(fnmatchcase(licence_id.lower(), pattern.lower()) for pattern in patterns)


def find_policy(file: Path | None, environment: Mapping[str, str] | None = None) -> Path | None:
    """The policy's file: `file` if given, else ABACI_LICENCE_POLICY, else licence-policy.toml among the settings.

    None where neither is set and no such file is there.
    """
    variables = os.environ if environment is None else environment
    if file is not None:
        return file
    if named := variables.get(POLICY_VARIABLE):
        return Path(named).expanduser()
    settings = variables.get("XDG_CONFIG_HOME")
    path = (Path(settings) if settings else Path.home() / ".config") / "abaci" / "licence-policy.toml"
    return path if path.exists() else None


def read_policy(path: Path, book: LicenceBook) -> Policy:
    """A policy file. Raises UsageError that names the file, the place and the nearest right name."""
    try:
        if path.stat().st_size > MAX_POLICY_BYTES:
            raise UsageError(f"{path} is too large for a policy", hint="Give the path of a TOML file.")
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint="Give the path of a licence policy.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} is not valid TOML: {error}", hint="See docs/licences.md, which describes a policy."
        ) from error
    return _Reader(path, book).policy(document)


class _Reader:
    """Reads one document and says where it is wrong."""

    def __init__(self, path: Path, book: LicenceBook) -> None:
        self._path = path
        self._book = book

    def policy(self, document: dict[str, Any]) -> Policy:
        self._check_keys("", document, ("use", "licences", "obligations"))
        licences = self._table(document, "licences", ("allow", "ask", "deny"))
        obligations = self._table(document, "obligations", ("ask", "deny"))
        return Policy(
            use=self._use(self._table(document, "use", (*_BOOLEANS, *_COUNTS, "territory"))),
            allow=self._patterns(licences, "allow") if "allow" in licences else None,
            ask=self._patterns(licences, "ask"),
            deny=self._patterns(licences, "deny"),
            ask_obligations=self._kinds(obligations, "ask"),
            deny_obligations=self._kinds(obligations, "deny"),
        )

    def _use(self, table: dict[str, Any]) -> Use:
        values: dict[str, Any] = {}
        for name, value in table.items():
            if name in _BOOLEANS and not isinstance(value, bool):
                raise self._wrong(f"use.{name}", "must be true or false")
            if name in _COUNTS and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise self._wrong(f"use.{name}", "must be a whole number, 0 or more")
            if name == "territory":
                values["territories"] = self._territories(value)
            else:
                values[name] = value
        return Use(**values)

    def _territories(self, value: object) -> frozenset[str]:
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise self._wrong("use.territory", "must be a territory or a list of them")
        for name in names:
            if name != WORLDWIDE and not (len(name) == 2 and name.isascii() and name.isalpha() and name.isupper()):
                raise self._wrong(
                    "use.territory", f'{name!r} is none: write a two-letter code such as "DE", "EU", or "{WORLDWIDE}"'
                )
        return frozenset("GB" if name == "UK" else name for name in names)

    def _patterns(self, table: dict[str, Any], key: str) -> frozenset[str]:
        return frozenset(self._pattern(name, f"licences.{key}") for name in self._strings(table, key, "licences"))

    def _pattern(self, name: str, place: str) -> str:
        known = self._book.find(name)
        if known is not None:
            return known.id
        if "*" in name or name.startswith("LicenseRef-") or is_spdx_id(name):
            return name
        raise self._wrong(place, f"no licence is called {name!r}", _nearest(plain_name(name), self._book.ids_by_name))

    def _kinds(self, table: dict[str, Any], key: str) -> frozenset[ClauseKind]:
        names = self._strings(table, key, "obligations")
        known = [kind.value for kind in ClauseKind]
        for name in names:
            if name not in known:
                raise self._wrong(f"obligations.{key}", f"no obligation is called {name!r}", _nearest(name, known))
        return frozenset(ClauseKind(name) for name in names)

    def _strings(self, table: dict[str, Any], key: str, section: str) -> list[str]:
        names = table.get(key, [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self._wrong(f"{section}.{key}", "must be a list of names")
        return names

    def _table(self, document: dict[str, Any], name: str, keys: tuple[str, ...]) -> dict[str, Any]:
        table = document.get(name, {})
        if not isinstance(table, dict):
            raise self._wrong(name, f"must be a table, [{name}]")
        self._check_keys(f"{name}.", table, keys)
        return table

    def _check_keys(self, prefix: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for key in table:
            if key not in known:
                raise self._wrong(f"{prefix}{key}", "there is no such key", _nearest(key, known))

    def _wrong(self, place: str, message: str, hint: str | None = None) -> UsageError:
        return UsageError(
            f"{self._path}: {place}: {message}", hint=hint or "See docs/licences.md, which describes a policy."
        )


def _nearest(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(sorted(known)[:20])}."


def _countries(territories: Collection[str]) -> frozenset[str]:
    """Codes, with the Union as its members: who is in one of them is in it, and it is where they are."""
    countries = frozenset(territories)
    return countries | EUROPEAN_UNION if "EU" in countries else countries
