"""What the rendering of a chat template may use, and the meter that holds it to that.

Knows values and their sizes, nothing of Jinja's programs.
"""

import sys
import time
from collections.abc import ItemsView, Iterable, Iterator, KeysView, ValuesView
from dataclasses import dataclass
from typing import Any, Final

from jinja2.utils import Namespace

from abaci.formats.given_text import joined

_MAX_INTEGER_BITS: Final = 4096
_MAX_SOUGHT_CHARACTERS: Final = 256
_BYTES_PER_COST: Final = 256
_ITEMS_PER_COST: Final = 32
_LINE_ENDS: Final = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


@dataclass(frozen=True, slots=True)
class TemplateLimits:
    """What one rendering may use. The defaults stop a hostile template within seconds and leave an honest one room for
    a conversation of a million tokens."""

    max_characters: int = 1 << 23
    """Of the prompt, and of every value on the way there."""
    max_items: int = 1 << 20
    """Of a list, with all lists in it."""
    max_cost: int = 1 << 19
    """Operations; one that makes something long counts for several."""
    max_seconds: float = 5.0
    """Second line of defence, where operations are slower than their count says."""


class LimitError(Exception):
    """A template wants more time or space than it may have."""


class Meter:
    """What the current rendering has used. Every method raises LimitError where that is too much.

    The `check_` methods stand before an operation that would make or do something large; `charge` pays for one.
    """

    __slots__ = ("_cost", "_deadline_seconds", "limits")

    def __init__(self, limits: TemplateLimits) -> None:
        self.limits = limits
        self.restart()

    def restart(self) -> None:
        """Begin another rendering."""
        self._cost = 0
        self._deadline_seconds = time.monotonic() + self.limits.max_seconds

    def charge(self, value: object = None) -> None:
        """Pay for an operation that made `value`."""
        self._cost += 1 + self._size_cost(value)
        if self._cost > self.limits.max_cost:
            raise LimitError("runs too long")
        self.check_time()

    def each(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items, each paid for as it is taken."""
        for item in items:
            self.charge()
            yield item

    def check_time(self) -> None:
        """For operations that make nothing, but may take long."""
        if time.monotonic() > self._deadline_seconds:
            raise LimitError("runs too long")

    def check_characters(self, num_characters: int) -> None:
        """Before so many characters are made."""
        if num_characters > self.limits.max_characters:
            raise LimitError("makes too much text")

    def check_items(self, num_items: int) -> None:
        """Before so many items are made."""
        if num_items > self.limits.max_items:
            raise LimitError("makes too many values")

    def check_integer(self, num_bits: int) -> None:
        """Before an integer of so many bits is made."""
        if num_bits > _MAX_INTEGER_BITS:
            raise LimitError("computes too large a number")

    def check_sought(self, sought: object) -> None:
        """Before something is sought in a way that takes the product of both lengths."""
        if isinstance(sought, str) and len(sought) > _MAX_SOUGHT_CHARACTERS:
            raise LimitError("looks for too long a text")

    def join(self, separator: str, parts: Iterable[str]) -> str:
        """`separator.join(parts)`, stopped before it is too long."""
        texts: list[str] = []
        length = 0
        for part in parts:
            length += len(part) + len(separator)
            self.check_characters(length)
            texts.append(part)
        return joined(separator, texts)

    def _size_cost(self, value: object) -> int:
        """For a value, all the way down: lists that share parts count as if written out."""
        if isinstance(value, str):
            self.check_characters(len(value))
            return sys.getsizeof(value) // _BYTES_PER_COST
        if isinstance(value, int):
            self.check_integer(value.bit_length())
        if value is None or isinstance(value, int | float):
            return 0
        num_characters = num_items = 0
        pending = [value]
        while pending:
            item = pending.pop()
            if isinstance(item, str):
                num_characters += len(item)
                continue
            if isinstance(item, dict):
                pending += item.keys()
                pending += item.values()
            elif isinstance(item, list | tuple | KeysView | ItemsView | ValuesView):
                pending += item
            elif isinstance(item, Namespace) and item is not value:
                raise LimitError("puts a namespace into a list")
            num_items += 1
            self.check_items(num_items + len(pending))
            self.check_characters(num_characters)
        return num_characters // _BYTES_PER_COST + num_items // _ITEMS_PER_COST


def most_lines(text: str) -> int:
    """At least as many as `splitlines` makes of a text."""
    return 1 + sum(map(text.count, _LINE_ENDS))
