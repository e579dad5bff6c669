"""Reasoning between two tags, before the answer: `<think>` (DeepSeek-R1, Qwen3, GLM) and the channel of Gemma 4.

Either the prompt has opened the thought already, or the model opens it with its first word. White space around the tags
belongs to neither thought nor answer. A thought that is never closed is all thought.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from abaci.chat.parsers.pieces import Content, Piece, Thought


@dataclass(frozen=True, slots=True)
class ThoughtTags:
    """What a thought stands between."""

    begin: str
    end: str
    marker: str
    """What of the beginning may be a token of its own."""


THINK: Final = ThoughtTags("<think>", "</think>", marker="<think>")
GEMMA: Final = ThoughtTags("<|channel>thought", "<channel|>", marker="<|channel>")


class _Place(Enum):
    START = auto()
    """Nothing but space so far; a thought may begin."""
    THOUGHT = auto()
    AFTER_THOUGHT = auto()
    """Space before the answer."""
    ANSWER = auto()


class ThinkParser:
    """Splits text into thought and content; a `pieces.Parser`."""

    __slots__ = ("_has_text", "_held", "_is_open", "_place", "_tags", "has_thought")

    def __init__(self, *, is_open: bool, tags: ThoughtTags = THINK) -> None:
        """`is_open`: the prompt has opened the thought."""
        self._tags = tags
        self._is_open = is_open
        self._place = _Place.START
        self._held = ""
        self._has_text = False
        self.has_thought = is_open
        """Whether there is a thought at all, as far as is known."""

    @property
    def has_ended(self) -> bool:
        """Whether the thought is over, or there is none."""
        return self._place in (_Place.AFTER_THOUGHT, _Place.ANSWER)

    def push(self, text: str) -> Sequence[Piece]:
        """What became certain with this text."""
        self._held += text
        pieces: list[Piece] = []
        while self._advance(pieces):
            pass
        return pieces

    def finish(self) -> Sequence[Piece]:
        """What was held back, as the text ends here."""
        held, self._held = self._held, ""
        if not held or self._place is _Place.AFTER_THOUGHT:
            return []
        if self._place is _Place.ANSWER or not self.has_thought:
            return [Content(held)]
        thought = held.rstrip() if self._has_text else held.strip()
        return [Thought(thought)] if thought else []

    def _advance(self, pieces: list[Piece]) -> bool:
        """Go to the next place, if the text allows; whether it did."""
        if self._place is _Place.START:
            return self._start()
        if self._place is _Place.THOUGHT:
            return self._think(pieces)
        if self._place is _Place.AFTER_THOUGHT:
            self._held = self._held.lstrip()
            if self._held:
                self._place = _Place.ANSWER
            return bool(self._held)
        if self._held:
            pieces.append(Content(self._held))
            self._held = ""
        return False

    def _start(self) -> bool:
        text = self._held.lstrip()
        if text.startswith(self._tags.begin):
            self._place = _Place.THOUGHT
            self.has_thought = True
            self._held = text[len(self._tags.begin) :]
            return True
        if self._tags.begin.startswith(text):
            return False
        self._place = _Place.THOUGHT if self._is_open else _Place.ANSWER
        return True

    def _think(self, pieces: list[Piece]) -> bool:
        if not self._has_text:
            self._held = self._held.lstrip()
        thought, tag, rest = self._held.partition(self._tags.end)
        certain = thought.rstrip() if tag else self._held[: self._certain_length()]
        if certain:
            self._has_text = True
            pieces.append(Thought(certain))
        if tag:
            self._place = _Place.AFTER_THOUGHT
        self._held = rest if tag else self._held[len(certain) :]
        return bool(tag)

    def _certain_length(self) -> int:
        """Length of the thought without the beginning of its end, and without white space before that."""
        text = self._held
        for begin in range(max(0, len(text) - len(self._tags.end) + 1), len(text)):
            if self._tags.end.startswith(text[begin:]):
                return len(text[:begin].rstrip())
        return len(text.rstrip())
