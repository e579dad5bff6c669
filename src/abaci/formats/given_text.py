"""Text that knows which of its characters were given by someone and which a chat template wrote itself.

The names of special tokens count only where the template wrote every character of them. Texts of messages may be cut,
replaced, joined and sent through filters on their way into a prompt, so that what was given is known character by
character and through every operation: `GivenText` is a text like any other, and what is made of it knows the same of
its own characters. Where an operation does not say which character became which, all of its result counts as given.

Knows nothing of tokens, of messages or of how templates are run.
"""

import re
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any, Final, SupportsIndex, cast

from markupsafe import Markup

_OWN: Final = b"\x00"
_GIVEN: Final = b"\x01"
_RUNS: Final = re.compile(rb"\x00+|\x01+")
_MOST_REPLACED: Final = 1 << 20
_FIELD: Final = re.compile(r"%(?:\((?P<name>[^()]*)\))?[#0 +-]*\d*(?:\.\d*)?[hlL]?[a-zA-Z%]")


class GivenText(str):
    """A text with a mark for each of its characters: 1 if it was given, 0 if it is the template's own."""

    __slots__ = ("marks",)

    marks: bytes

    def __new__(cls, text: str, marks: bytes | None = None) -> "GivenText":
        """Wholly given, unless `marks` say otherwise."""
        made = super().__new__(cls, text)
        made.marks = _GIVEN * len(made) if marks is None else marks
        return made

    def __str__(self) -> str:
        return self

    def plain(self) -> str:
        """The mere text."""
        return super().__str__()

    def __getitem__(self, key: SupportsIndex | slice) -> "GivenText":
        text = super().__getitem__(key)
        return GivenText(text, self.marks[key] if isinstance(key, slice) else self.marks[key : key + 1 or None])  # type: ignore[operator]

    def __iter__(self) -> "Iterator[GivenText]":
        return (
            GivenText(character, _GIVEN if mark else _OWN)
            for character, mark in zip(self.plain(), self.marks, strict=True)
        )

    def __add__(self, other: str) -> str:
        if not isinstance(other, str):
            return NotImplemented
        return GivenText(self.plain() + other) if isinstance(other, Markup) else joined("", (self, other))

    def __radd__(self, other: str) -> str:
        return joined("", (other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, times: SupportsIndex) -> "GivenText":
        return GivenText(super().__mul__(times), self.marks * times)

    __rmul__ = __mul__

    def lstrip(self, chars: str | None = None, /) -> "GivenText":
        """As of any text."""
        return self[len(self) - len(super().lstrip(chars)) :]

    def rstrip(self, chars: str | None = None, /) -> "GivenText":
        """As of any text."""
        return self[: len(super().rstrip(chars))]

    def strip(self, chars: str | None = None, /) -> "GivenText":
        """As of any text."""
        return self.lstrip(chars).rstrip(chars)

    def removeprefix(self, prefix: str, /) -> "GivenText":
        """As of any text."""
        return self[len(self) - len(super().removeprefix(prefix)) :]

    def removesuffix(self, suffix: str, /) -> "GivenText":
        """As of any text."""
        return self[: len(super().removesuffix(suffix))]

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        """As of any text."""
        return self._located(super().split(sep, maxsplit), len(sep or ""))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        """As of any text."""
        return self._located(super().rsplit(sep, maxsplit), len(sep or ""))

    def splitlines(self, keepends: bool = False) -> list[str]:
        """As of any text."""
        return self._located(super().splitlines(keepends), 0)

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        """As of any text."""
        return cast("tuple[str, str, str]", tuple(self._located(super().partition(sep), 0)))

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        """As of any text."""
        return cast("tuple[str, str, str]", tuple(self._located(super().rpartition(sep), 0)))

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> "GivenText":
        """As of any text."""
        text = super().replace(old, new, count)
        if _OWN not in self.marks and _OWN not in marks_of(new):
            return GivenText(text)
        begins = [] if not old or super().count(old) > _MOST_REPLACED else list(self._places(old, int(count)))
        if not begins:
            return GivenText(text, self.marks if text == self else None)
        ends = [0, *(begin + len(old) for begin in begins)]
        kept = (self.marks[end:begin] for end, begin in zip(ends, [*begins, len(self)], strict=True))
        return GivenText(text, marks_of(new).join(kept))

    def join(self, parts: Iterable[str], /) -> str:
        """As of any text."""
        return joined(self, list(parts))

    def lower(self) -> "GivenText":
        """As of any text."""
        return self._in_place(super().lower())

    def upper(self) -> "GivenText":
        """As of any text."""
        return self._in_place(super().upper())

    def casefold(self) -> "GivenText":
        """As of any text."""
        return self._in_place(super().casefold())

    def swapcase(self) -> "GivenText":
        """As of any text."""
        return self._in_place(super().swapcase())

    def capitalize(self) -> "GivenText":
        """As of any text."""
        return self._in_place(super().capitalize())

    def title(self) -> "GivenText":
        """As of any text."""
        return self._in_place(super().title())

    def _in_place(self, text: str) -> "GivenText":
        """Of a change of letters, each of which becomes one or more."""
        return GivenText(text, self.marks if len(text) == len(self) else None)

    def _located(self, parts: Iterable[str], num_between: int) -> list[str]:
        """The parts, found again in order: between two of them are so many characters, or what no part begins with."""
        found: list[str] = []
        end = 0
        for part in parts:
            begin = self.index(part, end)
            found.append(self[begin : begin + len(part)])
            end = begin + len(part) + num_between
        return found

    def _places(self, sought: str, count: int) -> Iterator[int]:
        begin = self.find(sought)
        while begin >= 0 and count != 0:
            yield begin
            begin = self.find(sought, begin + len(sought))
            count -= 1


def given(value: Any) -> Any:
    """A copy of `value` in which every text, keys of mappings too, is marked as given."""
    if isinstance(value, str):
        return value if isinstance(value, GivenText) else GivenText(value)
    if isinstance(value, Mapping):
        return {given(key): given(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [given(item) for item in value]
    return value


def is_given(value: object) -> bool:
    """Whether anything in a value was given; every part of it is looked at once, however often it occurs."""
    pending = [value]
    seen: dict[int, object] = {}  # with the objects, so that no other gets the identity of one of them
    while pending:
        item = pending.pop()
        if isinstance(item, GivenText):
            return True
        if isinstance(item, str) or id(item) in seen:
            continue
        seen[id(item)] = item
        if isinstance(item, Mapping):
            pending += item.keys()
            pending += item.values()
        elif isinstance(item, list | tuple | KeysView | ItemsView | ValuesView):
            pending += item
    return False


def made_of(result: Any, *sources: object) -> Any:
    """What an operation made that does not say which character became which: given, if anything in its sources is."""
    if not isinstance(result, str) or isinstance(result, GivenText) or not is_given(sources):
        return result
    return sources[0] if sources == (result,) else GivenText(result)


def plain(value: Any) -> Any:
    """A text without its marks, and any other value as it is: for what makes a new text of texts by itself."""
    return value.plain() if isinstance(value, GivenText) else value


def marks_of(text: str) -> bytes:
    """One byte per character."""
    return text.marks if isinstance(text, GivenText) else _OWN * len(text)


def joined(separator: str, texts: list[str] | tuple[str, ...]) -> str:
    """`separator.join(texts)`."""
    if not isinstance(separator, GivenText) and not any(isinstance(text, GivenText) for text in texts):
        return separator.join(texts)
    text = str.join(separator, texts) if isinstance(separator, GivenText) else separator.join(texts)
    marks = marks_of(separator).join(map(marks_of, texts))
    return GivenText(text, marks if len(marks) == len(text) else None)  # text that is marked as HTML escapes others


def formatted(layout: str, values: tuple[Any, ...] | Mapping[str, Any]) -> str:
    """`layout % values`."""
    text = layout % values
    if isinstance(layout, GivenText):
        return GivenText(text)
    if not is_given(values):
        return text
    try:
        return as_parted(text, list(_formatted_parts(layout, values)))
    except (TypeError, ValueError, LookupError):  # a layout that cannot be taken apart
        return GivenText(text)


def _formatted_parts(layout: str, values: tuple[Any, ...] | Mapping[str, Any]) -> Iterator[str]:
    end = 0
    following = iter(() if isinstance(values, Mapping) else values)
    for field in _FIELD.finditer(layout):
        yield layout[end : field.start()]
        end = field.end()
        if field[0] == "%%":
            yield "%"
        elif isinstance(values, Mapping):
            named = {field["name"]: values[field["name"]]}
            yield made_of(field[0] % named, named)
        else:
            value = next(following, None)
            yield made_of(field[0] % (value,), value)
    yield layout[end:]


def as_parted(text: str, parts: list[str]) -> str:
    """`text` with the marks of its parts, if it is what they make together; else it counts as given."""
    together = joined("", parts)
    return together if together == text else GivenText(text)


def runs(text: str) -> Iterator[tuple[str, bool]]:
    """The text in pieces that are wholly given or wholly not, and which of the two."""
    if not isinstance(text, GivenText):
        yield text, False
        return
    plain = text.plain()
    for run in _RUNS.finditer(text.marks):
        yield plain[run.start() : run.end()], run[0].startswith(_GIVEN)
