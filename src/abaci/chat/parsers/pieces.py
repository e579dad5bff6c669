"""What a parser makes of an answer's text. Plain values: knows nothing of tokens, wires or dialects."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Content:
    """Text of the answer itself."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """Text of the reasoning before the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call of the function `name`; its arguments follow, in one piece or several."""

    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the JSON object of the arguments of the call that has begun."""

    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The arguments of the call are complete."""


Piece = Content | Thought | CallBegun | CallArguments | CallEnded


class Parser(Protocol):
    """Text in, pieces out. However the text is cut, the pieces joined are the same."""

    def push(self, text: str) -> Sequence[Piece]:
        """What became certain with this text."""

    def finish(self) -> Sequence[Piece]:
        """What was held back, as the text ends here."""
