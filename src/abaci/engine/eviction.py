"""In which order what nobody uses gives way: what was merely passed through first, then the least recently used."""

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class EvictionOrder(Generic[T]):
    """Things in the order in which they are given up.

    A long prompt passes through many places, and where it ends a conversation goes on later. Without two classes one
    such prompt would push out the ends of all other conversations.
    """

    __slots__ = ("_ends", "_passed")

    def __init__(self) -> None:
        self._passed: OrderedDict[T, None] = OrderedDict()
        self._ends: OrderedDict[T, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._passed) + len(self._ends)

    def __contains__(self, item: T) -> bool:
        return item in self._passed or item in self._ends

    @property
    def num_passed(self) -> int:
        """Of those that go first."""
        return len(self._passed)

    def push(self, item: T, *, is_end: bool) -> None:
        """Add as the last of its class: `is_end` where something ended, or others went on, that may be wanted again."""
        (self._ends if is_end else self._passed)[item] = None

    def first(self) -> T:
        """Who is next. There must be one."""
        return next(iter(self._passed or self._ends))

    def discard(self, item: T) -> None:
        """Take out, if it is in."""
        self._passed.pop(item, None)
        self._ends.pop(item, None)

    def demote(self, item: T) -> None:
        """What was an end has become a place on the way, if it is in at all."""
        if item in self._ends:
            del self._ends[item]
            self._passed[item] = None
