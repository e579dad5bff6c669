"""The records of `records/*.toml`, read strictly: a misspelt field is an error, never ignored."""

import hashlib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from abaci.hub.licences.licence import (
    Activity,
    Clause,
    ClauseKind,
    Confidence,
    Effect,
    Licence,
    LicenceBook,
    Permissions,
    Source,
    plain_name,
)


@cache
def load_licences() -> LicenceBook:
    """The records that come with the package."""
    folder = Path(__file__).with_name("records")
    return make_book(read_licence(path.read_bytes(), path.stem) for path in sorted(folder.glob("*.toml")))


def make_book(licences: Iterable[Licence]) -> LicenceBook:
    """Licences by id and by name. Raises ValueError where two claim the same name."""
    by_id: dict[str, Licence] = {}
    ids_by_name: dict[str, str] = {}
    for licence in licences:
        by_id[licence.id] = licence
        for name in {plain_name(name) for name in (licence.id, licence.name, *licence.also_known_as)}:
            if name in ids_by_name:
                raise ValueError(f"{licence.id} and {ids_by_name[name]} are both called {name!r}")
            ids_by_name[name] = licence.id
    return LicenceBook(MappingProxyType(by_id), MappingProxyType(ids_by_name))


def read_licence(content: bytes, short_name: str) -> Licence:
    """One record; `short_name`, its file's, is one more name of the licence. Raises ValueError."""
    document = tomllib.loads(content.decode("utf-8"))
    also_known_as = dict.fromkeys((short_name, *document.pop("also_known_as", ())))
    return Licence(
        confidence=Confidence(document.pop("confidence")),
        source=_make(Source, document.pop("source")),
        permissions=_make(Permissions, document.pop("permissions")),
        clauses=tuple(_clause(clause) for clause in document.pop("clauses")),
        sha256=hashlib.sha256(content).hexdigest(),
        also_known_as=tuple(also_known_as),
        **_known(Licence, document),
    )


def _clause(table: dict[str, Any]) -> Clause:
    return Clause(
        kind=ClauseKind(table.pop("kind")),
        effect=Effect(table.pop("effect")),
        when=frozenset(Activity(activity) for activity in table.pop("when", ())),
        territories=tuple(table.pop("territories", ())),
        **_known(Clause, table),
    )


def _make(kind: type[Any], table: Mapping[str, Any]) -> Any:
    return kind(**_known(kind, table))


def _known(kind: type[Any], table: Mapping[str, Any]) -> Mapping[str, Any]:
    unknown = set(table) - {field.name for field in fields(kind)}
    if unknown:
        raise ValueError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
    return table
