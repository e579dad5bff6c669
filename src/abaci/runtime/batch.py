"""Requests that run together, whoever waits for them: a thread on a queue or a task on an event loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from abaci.chat.text import TextAssembler
from abaci.errors import UsageError
from abaci.generation import GenerationRequest, Generator, TokenEvent, Usage
from abaci.runtime.results import Answer, GenerationResult, StreamEvent, TimedEvent, failed


@dataclass(frozen=True, slots=True)
class TextRequest:
    """A request, and how its tokens become text."""

    request: GenerationRequest
    new_assembler: Callable[[], TextAssembler]


class Batch:
    """Results in the order of what was asked; what cannot run is a failed result among the others.

    Use: `submit`, then `push` every event until `is_done`; `cancel` in any case.
    """

    def __init__(self, generator: Generator, asked: Sequence[TextRequest | GenerationResult]) -> None:
        self._generator = generator
        self._asked = asked
        self._results: list[GenerationResult | None] = [
            entry if isinstance(entry, GenerationResult) else None for entry in asked
        ]
        self._answers: dict[str, Answer] = {}
        self._started: list[Answer] = []
        self._places: dict[str, int] = {}

    @property
    def is_done(self) -> bool:
        """Whether nothing more will come."""
        return not self._answers

    def submit(self, put: Callable[[TimedEvent], None]) -> None:
        """Start everything; events go to `put`, on the generator's thread. Raises EngineClosedError."""

        def sink(event: TokenEvent) -> None:
            put(TimedEvent(perf_counter(), event))

        for place, entry in enumerate(self._asked):
            if isinstance(entry, GenerationResult):
                continue
            request = entry.request
            self._answers[request.request_id] = self._new_answer(entry)
            self._places[request.request_id] = place
            try:
                self._generator.submit(request, sink)
            except UsageError as error:
                del self._answers[request.request_id]
                self._results[place] = failed(error, request.prompt_token_ids)
            else:
                self._started.append(self._answers[request.request_id])

    def push(self, timed: TimedEvent) -> StreamEvent | None:
        """Take an event; what a reader of a stream should see of it, if anything."""
        request_id = timed.event.request_id
        answer = self._answers.get(request_id)
        if answer is None:
            return None  # an echo of a sample whose text ended first
        event = answer.push(timed)
        if answer.is_done:
            del self._answers[request_id]
            self._results[self._places[request_id]] = answer.result()
        return event

    def results(self) -> list[GenerationResult]:
        """All results, once done."""
        return [result for result in self._results if result is not None]

    def raise_error(self) -> None:
        """Raise the first error there is, if any."""
        for result in self._results:
            if result is not None and result.error is not None:
                raise result.error

    def usages(self) -> list[Usage]:
        """What each request that ran has used so far."""
        return [answer.usage() for answer in self._started]

    def cancel(self) -> None:
        """Stop what is still running."""
        for request_id in self._answers:
            self._generator.cancel(request_id)
        self._answers = {}

    def _new_answer(self, entry: TextRequest) -> Answer:
        request = entry.request
        return Answer(
            request,
            new_assembler=entry.new_assembler,
            cancel_sample=lambda index: self._generator.cancel(request.request_id, index),
            submitted_seconds=perf_counter(),
        )
