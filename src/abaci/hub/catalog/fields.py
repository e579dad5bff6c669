"""Tables of a catalog document, read field by field: every value checked, every key that nobody asked for refused."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from abaci.errors import FileFormatError

WRONG = "Its publisher has to put it right; a catalog of a later form needs a newer version of Abaci."

_MAX_TEXT_CHARACTERS = 2_000
_MAX_ITEMS = 10_000
_MAX_INTEGER = 1 << 62
_ADDRESS = re.compile(r"https://[A-Za-z0-9.-]+(?::[0-9]+)?/[!-~]*")

Value = TypeVar("Value")


class Table:
    """One table of a document. `where` says which, for messages. Every method raises FileFormatError."""

    def __init__(self, fields: object, where: str) -> None:
        if not isinstance(fields, Mapping):
            raise FileFormatError(f"catalog: {where} is not a table", hint=WRONG)
        self._left = dict(fields)
        self._where = where

    def text(self, key: str, pattern: str | None = None) -> str:
        """A line of text, of that pattern as a whole."""
        value = self._take(key)
        if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT_CHARACTERS or not value.isprintable():
            raise self.wrong(key, "a line of text")
        if pattern is not None and re.fullmatch(pattern, value) is None:
            raise self.wrong(key, f"of the form {pattern}")
        return value

    def address(self, key: str) -> str:
        """An https address."""
        value = self.text(key)
        if _ADDRESS.fullmatch(value) is None:
            raise self.wrong(key, "an https address")
        return value

    def integer(self, key: str, lowest: int = 1) -> int:
        """A whole number, at least `lowest`."""
        value = self._take(key)
        if type(value) is not int or not lowest <= value <= _MAX_INTEGER:
            raise self.wrong(key, f"a whole number from {lowest}")
        return value

    def number(self, key: str, highest: float) -> float:
        """A number from 0 to `highest`."""
        value = self._take(key)
        if type(value) not in (int, float) or not 0 <= value <= highest:
            raise self.wrong(key, f"a number from 0 to {highest:g}")
        return float(value)

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self._take(key)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def table(self, key: str) -> "Table":
        """A table within this one."""
        return Table(self._take(key), f"{self._where}, {key}")

    def tables(self, key: str) -> "list[Table]":
        """Tables within this one."""
        return [Table(item, f"{self._where}, {key} {index}") for index, item in enumerate(self._items(key), start=1)]

    def texts(self, key: str, pattern: str) -> tuple[str, ...]:
        """Texts of that pattern, none twice."""
        values = self._items(key)
        for value in values:
            if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
                raise self.wrong(key, f"a list of texts of the form {pattern}")
        if len(set(values)) != len(values):
            raise self.wrong(key, "free of repetitions")
        return tuple(values)

    def unread(self) -> tuple[str, ...]:
        """Keys that have not been read yet."""
        return tuple(self._left)

    def optional(self, key: str, read: Callable[[str], Value]) -> Value | None:
        """What `read` gives, or None where the key is absent."""
        return read(key) if key in self._left else None

    def convert(self, key: str, read: Callable[[str], Value], what: str) -> Value:
        """A text through a constructor that raises ValueError."""
        try:
            return read(self.text(key))
        except ValueError as error:
            raise self.wrong(key, what) from error

    def end(self) -> None:
        """Refuses what has not been read."""
        if self._left:
            fields = ", ".join(map(repr, self._left))
            raise FileFormatError(f"catalog: {self._where} has unknown fields: {fields}", hint=WRONG)

    def wrong(self, key: str, wanted: str) -> FileFormatError:
        """The error for a value that is not what it must be."""
        return FileFormatError(f"catalog: {self._where}: {key!r} is not {wanted}", hint=WRONG)

    def _items(self, key: str) -> Sequence[Any]:
        value = self._take(key)
        if not isinstance(value, list) or len(value) > _MAX_ITEMS:
            raise self.wrong(key, "a list")
        return value

    def _take(self, key: str) -> Any:
        if key not in self._left:
            raise FileFormatError(f"catalog: {self._where} has no {key!r}", hint=WRONG)
        return self._left.pop(key)
