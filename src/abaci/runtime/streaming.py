"""One answer as it grows, for a thread that waits for it."""

import queue
from collections.abc import Callable, Generator
from typing import Self

from abaci.generation import Usage
from abaci.runtime.batch import Batch
from abaci.runtime.results import StreamEvent, TimedEvent


class AnswerStream:
    """An iterator of events. Nothing runs before the first is asked for; `close`, or Ctrl-C, cancels the request.

    `end` is called with the batch when it is over, whatever ended it.
    """

    def __init__(self, batch: Batch, end: Callable[[Batch], None]) -> None:
        self._batch = batch
        self._events = _events(batch, end)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StreamEvent:
        return next(self._events)

    def close(self) -> None:
        """Cancel what is left. Idempotent."""
        self._events.close()

    @property
    def usage(self) -> Usage:
        """Tokens and seconds so far, of a cancelled answer too."""
        usages = self._batch.usages()
        return usages[0] if usages else Usage(prompt_tokens=0, completion_tokens=0)


def _events(batch: Batch, end: Callable[[Batch], None]) -> Generator[StreamEvent, None, None]:
    events: queue.SimpleQueue[TimedEvent] = queue.SimpleQueue()
    try:
        batch.submit(events.put)
        while not batch.is_done:
            event = batch.push(events.get())
            if event is not None:
                yield event
        batch.raise_error()
    finally:
        end(batch)
