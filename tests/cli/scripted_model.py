"""A model that answers from a script, as the command line sees one."""

from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from abaci.generation import FinishReason, SamplingParams, Usage


@dataclass(frozen=True)
class Event:
    text: str
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Info:
    name: str = "scripted"
    path: Path = Path("/models/scripted.gguf")
    num_threads: int = 2
    context_length: int = 128
    kernels: dict[str, str] = field(default_factory=lambda: {"Q4_1": "portable", "Q8_0": "portable", "F32": "float"})


USAGE = Usage(prompt_tokens=12, completion_tokens=5, cached_tokens=2, prefill_seconds=0.1, decode_seconds=0.2)
STOPPED_USAGE = Usage(prompt_tokens=12, completion_tokens=1, cached_tokens=2, prefill_seconds=0.1)


@dataclass
class ScriptedStream:
    model: "ScriptedModel"
    events: Generator[Event, None, None]

    def __iter__(self) -> "ScriptedStream":
        return self

    def __next__(self) -> Event:
        return next(self.events)

    def close(self) -> None:
        self.events.close()

    @property
    def usage(self) -> Usage:
        return STOPPED_USAGE if self.model.num_cancelled else USAGE


@dataclass
class ScriptedModel:
    """Each answer is the next of `answers`: pieces of text; an exception among them is raised in its place."""

    answers: list[list[str | BaseException]]
    info: Info = field(default_factory=Info)
    asked: list[tuple[Any, SamplingParams]] = field(default_factory=list)
    num_cancelled: int = 0

    def stream(self, prompt: Any, params: SamplingParams) -> "ScriptedStream":
        self.asked.append((prompt, params))
        return ScriptedStream(self, self._events(self.answers.pop(0)))

    def _events(self, pieces: list[str | BaseException]) -> Generator[Event, None, None]:
        ended = False
        try:
            for piece in pieces:
                if isinstance(piece, BaseException):
                    raise piece
                yield Event(piece)
            ended = True
            yield Event("", FinishReason.STOP)
        finally:
            self.num_cancelled += not ended

    def __enter__(self) -> "ScriptedModel":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to release."""
