"""Requests of one HTTP call while they run: submitted, listened to, cancelled when nobody listens, booked at the end.

Every dialect uses it; it knows tokens and models, no wire.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Final, Protocol, TypeVar

from abaci.chat.answer import AnswerDelta, ChatRequest
from abaci.chat.preparing import prepare
from abaci.chat.reading import AnswerReader
from abaci.chat.served import ServedModel
from abaci.errors import AbaciError, OverloadedError, RateLimitedError, UsageError
from abaci.generation import FinishReason, GenerationRequest, Generator, TokenEvent
from abaci.server.auth import Caller
from abaci.server.bridge import EventInbox
from abaci.server.limits import Ticket
from abaci.server.replies import Sender
from abaci.server.services import Services
from abaci.server.traces import TRACE_PARENT

_LOG = logging.getLogger("abaci.server")
_T = TypeVar("_T")

_LONG_TEXT: Final = 16_384
"""Characters beyond which a prompt is put together beside the event loop."""


@dataclass(slots=True)
class RequestRecord:
    """What one generation request took: times on `time.perf_counter`, tokens."""

    request: GenerationRequest
    arrival_seconds: float
    scheduled_seconds: float | None = None
    first_seconds: float | None = None
    last_seconds: float = 0.0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    finish_reasons: list[FinishReason] = field(default_factory=list)
    open_samples: set[int] = field(default_factory=set)
    sample_seconds: list[float] = field(default_factory=list)
    """When each sample's newest token came."""
    trace_parent: str | None = None
    ticket: Ticket | None = None
    """The caller's place within its limits."""

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.prompt_token_ids)


@dataclass(frozen=True, slots=True)
class Used:
    """Tokens and seconds of everything one HTTP call ran."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    prefill_seconds: float
    decode_seconds: float


class Generation:
    """The requests of one HTTP call on one model. Made by `generation`; one coroutine drives it."""

    def __init__(self, services: Services, caller: Caller, model: ServedModel, call_id: str) -> None:
        self.model = model
        self.caller = caller
        self._services = services
        self._call_id = call_id
        self._token_times = services.metrics.token_times(model)
        self._inbox = EventInbox()
        self._records: dict[str, RequestRecord] = {}
        self._num_open = 0
        self._arrival_seconds = perf_counter()
        self.newest_seconds = self._arrival_seconds
        """When the generator published the event handed out last, on `time.perf_counter`."""

    @property
    def has_events(self) -> bool:
        """Whether the next event is already here."""
        return self._inbox.has_events

    @property
    def records(self) -> Sequence[RequestRecord]:
        """Of the requests submitted, in order."""
        return tuple(self._records.values())

    def new_id(self) -> str:
        """An id for the next request of this call."""
        return f"{self._call_id}-{len(self._records)}"

    async def submit(self, request: GenerationRequest) -> None:
        """Start a request in the caller's name; a grammar is compiled beside the event loop.

        Raises UsageError where it can never run, OverloadedError where too many wait, RateLimitedError where the caller
        has used up what it may.
        """
        if request.num_samples > self._services.config.max_samples:
            raise UsageError(
                f"n is {request.num_samples}",
                hint=f"Ask for at most {self._services.config.max_samples}, the server's max_samples, in one request.",
            )
        own_salt = self.caller.cache_salt
        request = replace(
            request,
            tenant=self.caller.key_id or "",
            # Never the salt of another caller alone, whatever a request says.
            cache_salt=f"{own_salt}\n{request.cache_salt}" if request.cache_salt else own_salt,
            is_background=self.caller.is_background,
        )
        ticket = self._enter(request)
        self._num_open += 1
        record = self._records[request.request_id] = RequestRecord(
            request,
            self._arrival_seconds,
            open_samples=set(range(request.num_samples)),
            sample_seconds=[0.0] * request.num_samples,
            trace_parent=TRACE_PARENT.get(),
            ticket=ticket,
        )
        if self._services.config.log_prompts:
            prompt = self.model.text.tokenizer.decode(request.prompt_token_ids, skip_special=False)
            _LOG.info("prompt", extra={"request_id": request.request_id, "prompt": prompt})
        try:
            await self._hand_over(request)
        except AbaciError:  # it never ran
            self._services.queue.leave()
            self._num_open -= 1
            record.open_samples.clear()
            _leave(ticket, 0)
            raise

    async def _hand_over(self, request: GenerationRequest) -> None:
        generator, sink = self.model.generator, self._services.bridge.sink(self._inbox)
        if request.constraint is None:
            generator.submit(request, sink)
            return
        submitting = asyncio.ensure_future(asyncio.to_thread(generator.submit, request, sink))
        try:
            await asyncio.shield(submitting)
        except asyncio.CancelledError:  # the client has gone, but a thread cannot be stopped: cancel what it submits
            submitting.add_done_callback(lambda done: _cancel_unless_refused(done, generator, request.request_id))
            raise

    def _enter(self, request: GenerationRequest) -> Ticket | None:
        """A place within the caller's limits and in the queue."""
        services, ticket = self._services, None
        try:
            ticket = services.accounts.enter(
                self.caller, len(request.prompt_token_ids), request.max_tokens * request.num_samples
            )
            services.queue.enter(self.model)
        except RateLimitedError as error:
            reason = "queue full" if isinstance(error, OverloadedError) else "key limit"
            services.metrics.rejected(self.model.status.name, reason)
            _leave(ticket, 0)
            raise
        return ticket

    async def events(self) -> AsyncIterator[TokenEvent | None]:
        """What the requests give, until all have ended; None whenever nothing came for a ping's time."""
        while self._num_open:
            item = self._inbox.take()
            if item is None:
                if not await self._inbox.wait(self._services.config.ping_seconds):
                    yield None
                continue
            if self._note(*item):
                yield item[1]

    async def deliver(self, sender: Sender, piece: bytes) -> None:
        """Send what came of the events handed out so far, and note how long after the engine's commit that was."""
        await sender.piece(piece)
        self._token_times.delivery.observe(perf_counter() - self.newest_seconds)

    def end_sample(self, request_id: str, sample_index: int) -> None:
        """A sample's text has ended before its tokens: stop it, and hand out nothing more of it."""
        self.model.generator.cancel(request_id, sample_index)
        self._close_sample(self._records[request_id], sample_index, FinishReason.STOP)

    def used(self) -> Used:
        """So far, all requests together."""
        records = self.records
        first = max((record.first_seconds or record.last_seconds for record in records), default=0.0)
        last = max((record.last_seconds for record in records), default=0.0)
        return Used(
            prompt_tokens=sum(record.prompt_tokens for record in records),
            completion_tokens=sum(record.completion_tokens for record in records),
            cached_tokens=sum(record.cached_tokens for record in records),
            reasoning_tokens=sum(record.reasoning_tokens for record in records),
            prefill_seconds=max(0.0, first - self._arrival_seconds),
            decode_seconds=max(0.0, last - first),
        )

    def close(self) -> None:
        """Cancel what still runs and book everything."""
        self._inbox.close()
        for record in self._records.values():
            if record.open_samples:
                self.model.generator.cancel(record.request.request_id)
                for index in tuple(record.open_samples):
                    self._close_sample(record, index, FinishReason.CANCELLED)

    def _note(self, seconds: float, event: TokenEvent) -> bool:
        """Book an event; False for one of a sample that has ended already."""
        record = self._records.get(event.request_id)
        if record is None or event.sample_index not in record.open_samples:
            return False
        self.newest_seconds = seconds
        if event.num_cached_tokens:
            record.cached_tokens = max(record.cached_tokens, event.num_cached_tokens)
        if event.scheduled_seconds is not None and record.scheduled_seconds is None:
            record.scheduled_seconds = event.scheduled_seconds
        if event.token_ids:
            previous = record.sample_seconds[event.sample_index]
            if record.first_seconds is None:
                record.first_seconds = seconds
                self._token_times.first.observe(seconds - record.arrival_seconds)
            elif previous:
                self._token_times.next.observe(seconds - previous)
            record.sample_seconds[event.sample_index] = seconds
            record.completion_tokens += len(event.token_ids)
        record.last_seconds = seconds
        if event.finish_reason is not None:
            self._close_sample(record, event.sample_index, event.finish_reason)
        return True

    def _close_sample(self, record: RequestRecord, sample_index: int, reason: FinishReason) -> None:
        record.open_samples.remove(sample_index)
        record.finish_reasons.append(reason)
        if record.open_samples:
            return
        self._num_open -= 1
        self._services.queue.leave()
        _leave(record.ticket, record.prompt_tokens + record.completion_tokens)
        self._services.book(self.caller, self.model, record)


@asynccontextmanager
async def generation(
    services: Services, caller: Caller, model_name: str | None, call_id: str
) -> AsyncIterator[Generation]:
    """A model, leased for one call of a caller; what still runs at the end is cancelled."""
    async with services.pool.lease(services.model_name(caller, model_name)) as model:
        running = Generation(services, caller, model, call_id)
        try:
            yield running
        finally:
            running.close()


async def beside_loop(text_length: int, work: Callable[[], _T]) -> _T:
    """Do it at once if the text is short, on a thread if it would hold up the event loop."""
    return work() if text_length < _LONG_TEXT else await asyncio.to_thread(work)


def _cancel_unless_refused(submitting: asyncio.Future[None], generator: Generator, request_id: str) -> None:
    if submitting.exception() is None:
        generator.cancel(request_id)


def _leave(ticket: Ticket | None, num_tokens: int) -> None:
    if ticket is not None:
        ticket.settle(num_tokens)
        ticket.leave()


class Prepared(Protocol):
    """A request ready to submit, and how its answers are read."""

    @property
    def request(self) -> GenerationRequest: ...

    def new_reader(self, sample_index: int) -> AnswerReader: ...


class ChatGeneration:
    """A chat on its way: prepared, submitted, read back as deltas."""

    def __init__(self, running: Generation, prepared: Prepared) -> None:
        self.prepared = prepared
        self.running = running
        self._readers: list[AnswerReader] = [
            prepared.new_reader(index) for index in range(prepared.request.num_samples)
        ]

    @classmethod
    async def start(cls, running: Generation, request: ChatRequest, **changes: object) -> "ChatGeneration":
        """Prepare and submit. Raises UsageError, ContextLengthError; `changes` are fields of the GenerationRequest."""
        length = sum(len(str(message)) for message in request.messages) + sum(len(str(tool)) for tool in request.tools)
        text, request_id = running.model.text, running.new_id()
        prepared = await beside_loop(length, lambda: prepare(text, request, request_id))
        if changes:
            prepared = replace(prepared, request=replace(prepared.request, **changes))  # type: ignore[arg-type]
        await running.submit(prepared.request)
        return cls(running, prepared)

    async def deltas(self) -> AsyncIterator[tuple[AnswerDelta, TokenEvent] | None]:
        """What is new, sample by sample, with the event it came from; None whenever a ping is due.

        Raises what a failed step raised.
        """
        async for event in self.running.events():
            if event is None:
                yield None
                continue
            if event.error is not None:
                raise event.error
            reader = self._readers[event.sample_index]
            delta = reader.push(event)
            if delta.finish_reason is not None:
                self.running.records[0].reasoning_tokens += reader.num_reasoning_tokens
                if event.finish_reason is None:
                    self.running.end_sample(event.request_id, event.sample_index)
            yield delta, event
