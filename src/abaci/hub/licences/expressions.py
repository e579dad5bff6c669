"""Expressions over licences: from what files and hubs write to one form, and that form put together and written.

Parsing is license-expression's (SPDX 2.3, annex D). Knows names and structure, not what a licence says.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from abaci.hub.licences.licence import LicenceBook

if TYPE_CHECKING:
    from license_expression import Licensing

NO_ASSERTION = "NOASSERTION"
"""SPDX's word for: nothing is known."""

MAX_EXPRESSION_CHARACTERS = 1_000
_NOT_IN_AN_ID = re.compile(r"[^A-Za-z0-9.]+")


@dataclass(frozen=True, slots=True)
class LicenceId:
    """One licence: an id of SPDX or a LicenseRef; an exception stays part of it (`... WITH ...`)."""

    id: str


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part holds."""

    parts: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The user may choose one of the parts."""

    parts: "tuple[Expression, ...]"


Expression = LicenceId | AllOf | AnyOf


def read_expression(text: str, book: LicenceBook) -> Expression:
    """What somebody wrote for a licence: a name of the book, an SPDX expression, else a LicenseRef made from the words.

    Never fails: whatever is not understood becomes an id of its own that no record knows.
    """
    known = book.find(text)
    if known is not None:
        return LicenceId(known.id)
    if len(text) > MAX_EXPRESSION_CHARACTERS:
        return _reference(text[:40])
    from license_expression import ExpressionError, ExpressionParseError

    try:
        tree = _licensing().parse(text)
    except (ExpressionError, ExpressionParseError):
        return _reference(text)
    return _reference(text) if tree is None else _convert(tree, book)


def all_of(parts: "list[Expression]") -> Expression:
    """Their conjunction, flat, each part once; of none: nothing known."""
    flat: dict[Expression, None] = {}
    for part in parts:
        flat.update(dict.fromkeys(part.parts if isinstance(part, AllOf) else (part,)))
    if len(flat) > 1:
        flat.pop(LicenceId(NO_ASSERTION), None)
    if not flat:
        return LicenceId(NO_ASSERTION)
    return AllOf(tuple(flat)) if len(flat) > 1 else next(iter(flat))


def ids_of(expression: Expression) -> tuple[str, ...]:
    """Every licence in it, in order, once."""
    if isinstance(expression, LicenceId):
        return (expression.id,)
    return tuple(dict.fromkeys(licence_id for part in expression.parts for licence_id in ids_of(part)))


def write_expression(expression: Expression) -> str:
    """As SPDX writes it."""
    match expression:
        case LicenceId(licence_id):
            return licence_id
        case AllOf(parts):
            return " AND ".join(_bracketed(part) for part in parts)
        case AnyOf(parts):
            return " OR ".join(_bracketed(part) for part in parts)


def is_spdx_id(name: str) -> bool:
    """Whether SPDX or ScanCode list a licence of exactly that id."""
    return name in _licensing().known_symbols


@cache
def _licensing() -> "Licensing":
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


def _convert(tree: Any, book: LicenceBook) -> Expression:
    operands = tuple(_convert(part, book) for part in tree.args)
    match tree.__class__.__name__:
        case "AND":
            return all_of(list(operands))
        case "OR":
            return AnyOf(tuple(dict.fromkeys(operands)))
    key = str(tree.render("{symbol.key}"))
    known = book.find(key)
    if known is not None:
        return LicenceId(known.id)
    listed = all(is_spdx_id(symbol) for symbol in key.split(" WITH "))
    return LicenceId(key) if listed or key == NO_ASSERTION else _reference(key)


def _reference(words: str) -> LicenceId:
    """Words as an id: `LicenseRef-` and what of them may stand in one."""
    name = _NOT_IN_AN_ID.sub("-", words.strip().removeprefix("LicenseRef-")).strip("-.")
    return LicenceId(f"LicenseRef-{name}" if name else NO_ASSERTION)


def _bracketed(part: Expression) -> str:
    text = write_expression(part)
    return text if isinstance(part, LicenceId) else f"({text})"
