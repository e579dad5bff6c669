"""One answer: tokens as they come, onto the screen, and the figures at its end. Knows no command-line flag."""

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from abaci.generation import FinishReason, SamplingParams, Usage

Message = Mapping[str, str]
Prompt = str | Sequence[Message]
"""Text as it is, or a conversation for the model's chat template."""


class StreamEvent(Protocol):
    """New text; the last event has the reason for the end and the usage."""

    @property
    def text(self) -> str: ...

    @property
    def token_ids(self) -> tuple[int, ...]: ...

    @property
    def finish_reason(self) -> FinishReason | None: ...

    @property
    def usage(self) -> Usage | None: ...


class StreamingModel(Protocol):
    """What answers: the runtime's LLM, or a script in a test."""

    def stream(self, prompt: Prompt, params: SamplingParams) -> Iterator[StreamEvent]:
        """Events of one answer; closing the iterator cancels it."""


class AnswerWriter(Protocol):
    """Where an answer's text goes while it grows."""

    def write(self, text: str) -> None:
        """More text."""

    def finish(self) -> None:
        """No more text; called once, also after an interruption."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a question; `usage` is None if it was stopped before its end.

    num_tokens, seconds    what was seen of the answer, and the time from its first token to the last one.
    """

    text: str
    finish_reason: FinishReason
    usage: Usage | None
    seed: int
    num_tokens: int = 0
    seconds: float = 0.0


def stream_answer(model: StreamingModel, prompt: Prompt, params: SamplingParams, writer: AnswerWriter) -> Answer:
    """Ask, and write the answer as it comes. Ctrl-C cancels the answer and keeps what there is of it.

    A seed that is not given is drawn here, so that it is known of a cancelled answer too.
    """
    seed = secrets.randbits(64) if params.seed is None else params.seed
    pieces: list[str] = []
    finish_reason, usage = FinishReason.CANCELLED, None
    num_tokens, times = 0, []
    events = model.stream(prompt, replace(params, seed=seed))
    try:
        for event in events:
            times.append(time.perf_counter())
            num_tokens += len(event.token_ids)
            pieces.append(event.text)
            writer.write(event.text)
            if event.finish_reason is not None:
                finish_reason, usage = event.finish_reason, event.usage
    except KeyboardInterrupt:
        finish_reason = FinishReason.CANCELLED
    finally:
        _close(events)
        writer.finish()
    seconds = times[-1] - times[0] if times else 0.0
    return Answer("".join(pieces), finish_reason, usage, seed, num_tokens, seconds)


def _close(events: Iterator[StreamEvent]) -> None:
    close = getattr(events, "close", None)
    if close is not None:
        close()
