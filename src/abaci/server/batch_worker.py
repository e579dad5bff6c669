"""Runs the lines of batches, as many at a time as told, and leads every batch to its end.

All it knows it reads from the database, so it may be killed at any moment and begins again where the rows say. It knows
nothing of models: how a line is answered is given as an `Execute`. Of several processes with one database, one works
and the others stand by; so they should serve the same models.
"""

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from abaci.errors import AbaciError, EngineClosedError, RateLimitedError, ResourceError
from abaci.server.batch_lines import answer_line
from abaci.server.batches import Batch, BatchMovedError, BatchStatus, BatchStore
from abaci.server.database import Database, DatabaseLock
from abaci.server.files import FileStore
from abaci.server.wire import error_document, error_status

_LOG = logging.getLogger("abaci.server")
_POSITIONS_PER_READ: Final = 1000
_HOLD_SECONDS: Final = 2.0
"""After an answer that says "not now" without saying when."""
_WRITE_AGAIN_SECONDS: Final = 2.0
_SWEEP_SECONDS: Final = 600.0
_COME_BACK_STATUSES: Final = frozenset({429, 503})

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class LineRequest:
    """One line to answer, as background work. `owner` is the id of its key, or what the batch was created with."""

    request_id: str
    owner: str
    url: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LineAnswer:
    """What an endpoint answered.

    With status 429 or 503 the line waits, for `retry_after_seconds` if given, and runs again.
    """

    status: int
    body: Any
    retry_after_seconds: float | None = None


Execute = Callable[[LineRequest], Awaitable[LineAnswer]]
"""Answers a line. What it raises becomes the answer, but for errors that pass (RateLimitedError, ResourceError,
EngineClosedError), after which the line runs again. Cancelled when its batch, or the server, ends."""


class BatchWorker:
    """Leads open batches on, from `run`. Between batches, the one with the fewest lines running goes first."""

    def __init__(
        self,
        database: Database,
        batches: BatchStore,
        files: FileStore,
        execute: Execute,
        *,
        concurrency: int = 8,
        poll_seconds: float = 1.0,
        monotonic: Clock = time.monotonic,
        wall: Clock = time.time,
    ) -> None:
        self._database = database
        self._batches = batches
        self._files = files
        self._execute = execute
        self._concurrency = concurrency
        self._poll_seconds = poll_seconds
        self._monotonic = monotonic
        self._wall = wall
        self._lanes: dict[str, _Lane] = {}
        self._news = asyncio.Event()
        self._next_sweep = 0.0

    def wake(self) -> None:
        """Look at the database now: a batch was created or cancelled."""
        self._news.set()

    async def run(self) -> None:
        """Work for ever. Cancel it to end: lines that run are cancelled and stay to be answered."""
        lock = await self._lock()
        try:
            await self._work()
        finally:
            for lane in self._lanes.values():
                await lane.stop()
            lock.release()

    async def _lock(self) -> DatabaseLock:
        is_waiting = False
        while True:
            try:
                if (lock := await self._database.run(self._database.try_lock, "batches")) is not None:
                    return lock
                if not is_waiting:
                    _LOG.info("another server with this database runs its batches; this one stands by")
            except AbaciError as error:
                _tell(error, "batches stand still", is_new=not is_waiting)
            is_waiting = True
            await asyncio.sleep(self._poll_seconds)

    async def _work(self) -> None:
        is_failing = False
        while True:
            self._news.clear()
            try:
                await self._advance()
                is_failing = False
            except Exception as error:
                _tell(error, "batches stand still", is_new=not is_failing)
                is_failing = True
            await self._wait(is_failing or any(lane.is_failing for lane in self._lanes.values()))

    async def _wait(self, is_failing: bool) -> None:
        """For news, or until it is time to look anyway; after a failure news do not count."""
        if is_failing:
            await asyncio.sleep(self._poll_seconds)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._poll_seconds):
                await self._news.wait()

    async def _advance(self) -> None:
        open_batches = await self._database.run(self._batches.open_batches)
        for batch in open_batches:
            lane = self._lanes.setdefault(batch.id, _Lane(batch, self._deadline(batch)))
            lane.batch = batch
            try:
                await self._advance_one(lane)
                lane.is_failing = False
            except BatchMovedError:
                self.wake()
            except Exception as error:  # the other batches go on
                _tell(error, f"{batch.id} stands still", is_new=not lane.is_failing)
                lane.is_failing = True
        for batch_id in self._lanes.keys() - {batch.id for batch in open_batches}:
            await self._lanes.pop(batch_id).stop()
        self._start_lines()
        if self._monotonic() >= self._next_sweep:
            self._next_sweep = self._monotonic() + _SWEEP_SECONDS
            await self._database.run(self._files.delete_expired)

    def _deadline(self, batch: Batch) -> float:
        """When it expires, on the monotonic clock: once a batch is known here, setting the clock does nothing to it."""
        return self._monotonic() + batch.expires_seconds - self._wall()

    async def _advance_one(self, lane: "_Lane") -> None:
        batch, status = lane.batch, lane.batch.status
        run = self._database.run
        if status is BatchStatus.CANCELLING:
            await lane.stop()
            await run(self._batches.end_cancelled, batch)
        elif status is BatchStatus.FINALIZING:
            await run(self._batches.complete, batch)
        elif self._monotonic() >= lane.deadline:
            await lane.stop()
            await run(self._batches.end_expired, batch)
        elif status is BatchStatus.VALIDATING:
            await run(self._batches.validate, batch)
            self.wake()
        elif not lane.waiting:
            await self._refill(lane)

    async def _refill(self, lane: "_Lane") -> None:
        """Find the next lines; where there are none and none is running, all are answered."""
        found = await self._database.run(
            self._batches.pending_positions, lane.batch.id, lane.last_position, _POSITIONS_PER_READ
        )
        if found:
            lane.waiting.extend(found)
            lane.last_position = found[-1]
        elif not lane.running and not lane.waiting:
            lane.last_position = -1
            await self._database.run(self._batches.finalize, lane.batch)
            self.wake()

    def _start_lines(self) -> None:
        num_running = sum(len(lane.running) for lane in self._lanes.values())
        now = self._monotonic()
        while num_running < self._concurrency:
            ready = [lane for lane in self._lanes.values() if lane.waiting and lane.held_until <= now]
            if not ready:
                return
            lane = min(ready, key=lambda lane: len(lane.running))
            task = asyncio.create_task(self._run_line(lane, lane.waiting.popleft()))
            lane.running.add(task)
            task.add_done_callback(lane.running.discard)
            task.add_done_callback(lambda _: self.wake())
            num_running += 1

    async def _run_line(self, lane: "_Lane", position: int) -> None:
        try:
            wait_seconds = await self._try_line(lane.batch, position)
        except Exception as error:
            _tell(error, f"line {position + 1} of {lane.batch.id} runs again", is_new=True)
            wait_seconds = _HOLD_SECONDS
        if wait_seconds is not None:
            lane.held_until = self._monotonic() + wait_seconds
            lane.waiting.appendleft(position)

    async def _try_line(self, batch: Batch, position: int) -> float | None:
        """Answer a line; or the seconds to wait before trying again."""
        line = await self._database.run(self._batches.pending_line, batch.id, position)
        if line is None:
            return None
        request = LineRequest(f"batch-{secrets.token_hex(12)}", batch.owner, batch.endpoint, json.loads(line.body))
        answer = await self._answer(request)
        if answer.status in _COME_BACK_STATUSES:
            return _HOLD_SECONDS if answer.retry_after_seconds is None else answer.retry_after_seconds
        result = answer_line(line.custom_id, request.request_id, answer.status, answer.body)
        await self._write(batch, position, result, is_success=200 <= answer.status < 300)
        return None

    async def _answer(self, request: LineRequest) -> LineAnswer:
        try:
            return await self._execute(request)
        except RateLimitedError as error:
            return LineAnswer(429, None, error.retry_after_seconds)
        except (ResourceError, EngineClosedError):
            return LineAnswer(503, None)
        except Exception as error:
            if error_status(error) >= 500:
                _LOG.error("line %s of a batch failed", request.request_id, exc_info=error)
            return LineAnswer(error_status(error), error_document(error, request.url))

    async def _write(self, batch: Batch, position: int, result: bytes, *, is_success: bool) -> None:
        """Keep the answer; while the database refuses it, it is kept here."""
        is_failing = False
        while True:
            try:
                await self._database.run(self._batches.answer, batch, position, result, is_success=is_success)
                return
            except AbaciError as error:
                _tell(error, f"an answer of {batch.id} cannot be written yet", is_new=not is_failing)
                is_failing = True
                await asyncio.sleep(_WRITE_AGAIN_SECONDS)


def _tell(error: Exception, what: str, *, is_new: bool) -> None:
    """Log a failure once: in a sentence where it is meant for people, else with its trace."""
    if not is_new:
        return
    if isinstance(error, AbaciError):
        _LOG.error("%s: %s", what, error.message)
    else:
        _LOG.error("%s", what, exc_info=error)


@dataclass(slots=True)
class _Lane:
    """One open batch: what it waits for. Times are of the monotonic clock."""

    batch: Batch
    deadline: float
    waiting: deque[int] = field(default_factory=deque)
    """Positions of lines to start next."""
    running: set[asyncio.Task[None]] = field(default_factory=set)
    last_position: int = -1
    """Of those that were put to wait."""
    held_until: float = 0.0
    is_failing: bool = False

    async def stop(self) -> None:
        """End its lines where they are."""
        self.waiting.clear()
        running = list(self.running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
