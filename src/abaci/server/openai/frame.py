"""Chunks of a stream, in which all but the choice is the same: that is encoded once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from abaci.server.wire import compact_json


@dataclass(frozen=True, slots=True)
class Frame:
    """What every chunk of a stream has in common, encoded."""

    head: str
    tail: str

    @classmethod
    def make(cls, identity: Mapping[str, Any], *, has_usage: bool) -> Self:
        """`identity` is what stands before the choices; with `has_usage` a null `usage` stands behind them."""
        head = compact_json(identity)[:-1]
        return cls(f'{head},"choices":[', '],"usage":null}' if has_usage else "]}")

    def chunk(self, choice: str) -> bytes:
        """The event for a choice, which is JSON already."""
        return f"data: {self.head}{choice}{self.tail}\n\n".encode()
