"""One answer: tokens as they come, onto the screen, and the figures at its end. Knows no command-line flag."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from abaci.cli.interrupts import Interrupts
from abaci.generation import FinishReason, SamplingParams, Usage

Message = Mapping[str, str]
Prompt = str | Sequence[Message]
"""Text as it is, or a conversation for the model's chat template."""


class StreamEvent(Protocol):
    """New text; the last event has the reason for the end."""

    @property
    def text(self) -> str: ...

    @property
    def finish_reason(self) -> FinishReason | None: ...


class EventStream(Protocol):
    """The events of one answer."""

    def __iter__(self) -> Iterator[StreamEvent]: ...

    def __next__(self) -> StreamEvent: ...

    def close(self) -> None:
        """Cancel what is left of it."""

    @property
    def usage(self) -> Usage:
        """Tokens and seconds so far."""


class StreamingModel(Protocol):
    """What answers: the runtime's LLM, or a script in a test."""

    def stream(self, prompt: Prompt, params: SamplingParams) -> EventStream:
        """Begin an answer."""


class AnswerWriter(Protocol):
    """Where an answer's text goes while it grows."""

    def write(self, text: str) -> None:
        """More text."""

    def finish(self) -> None:
        """No more text; called once, also after an interruption."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a question; `usage` is None if it was stopped before its prompt was read."""

    text: str
    finish_reason: FinishReason
    usage: Usage | None
    seed: int


def stream_answer(
    model: StreamingModel, prompt: Prompt, params: SamplingParams, writer: AnswerWriter, interrupts: Interrupts
) -> Answer:
    """Ask, and write the answer as it comes. Ctrl-C cancels the answer and keeps what there is of it.

    A seed that is not given is drawn here, so that it is known of a cancelled answer too.
    """
    seed = secrets.randbits(64) if params.seed is None else params.seed
    pieces: list[str] = []
    finish_reason = FinishReason.CANCELLED
    events: EventStream | None = None
    try:
        events = interrupts.during(partial(model.stream, prompt, replace(params, seed=seed)))
        while (event := interrupts.during(partial(next, events, None))) is not None:
            pieces.append(event.text)
            writer.write(event.text)
            finish_reason = event.finish_reason or finish_reason
    except KeyboardInterrupt:
        pass  # said by the reason for the end
    finally:
        if events is not None:
            events.close()
        writer.finish()
    return Answer("".join(pieces), finish_reason, None if events is None else events.usage, seed)
