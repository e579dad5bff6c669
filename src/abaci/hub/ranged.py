"""One file over several connections to several sources at once, written in order.

The file is cut into chunks. Connections fetch different ones, all within a window that begins at the first byte
missing, so that what arrives too early waits in memory and the partial file grows at its end only: whatever stops the
download, what is on the disk is a beginning that any source can continue. A chunk that holds the others up is fetched a
second time, from where it stands, by whoever is idle, and the slower one is dropped. Who sent wrong bytes is not known
here: the hash is judged by the caller.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from abaci.hub.network import Answer, HttpStatusError, Request
from abaci.hub.pace import MOST_PATIENCE_SECONDS, Patience
from abaci.hub.reach import GIVE_WAY_SECONDS, REACH_SECONDS, SourceUnavailableError
from abaci.hub.sources import HttpSource, Transfer
from abaci.hub.streamed import UnfitError, check_size, fetch_stream, range_begin

_PIECE_BYTES: Final = 1 << 18
_CHUNKS_PER_FILE: Final = 64
_LEAST_CHUNK_BYTES: Final = 1 << 20
_MOST_CHUNK_BYTES: Final = 8 << 20
_MOST_CONNECTIONS: Final = 8
_LOOK_AGAIN_SECONDS: Final = 0.1
_LEAST_REACH_SECONDS: Final = 0.5
_STALE: Final = frozenset({401, 403, 404, 410})
"""What a server answers where a signed address has run out."""


@dataclass(frozen=True, slots=True)
class Parallelism:
    """How many connections, and when one counts as too slow."""

    connections_per_source: int = 4
    chunk_bytes: int | None = None
    """None: by the size of the file."""
    slow_seconds: float = 3.0
    """A chunk that holds the others up for less is left alone."""
    slow_factor: float = 3.0
    """So many times as long as chunks take on average is too long."""
    most_losses: int = 3
    """A source that was overtaken so often is dropped, where there is another."""
    patience: Patience = field(default_factory=Patience)


def fetch_ranges(
    sources: Sequence[HttpSource], transfer: Transfer, parallelism: Parallelism | None = None
) -> tuple[HttpSource, ...]:
    """Append what is missing, from all of `sources` at once. Returns those that delivered something.

    Raises SourceUnavailableError with every source's reason if the file is not complete in the end, and what the
    partial file raises. Sources that do not know ranges are asked one after the other when no other is left.
    """
    download = _Download(transfer, parallelism or Parallelism())
    lines = [_Line(source, source.request(transfer.file_name)) for source in sources]
    download.run(lines)
    for line in lines:
        if line.ignores_ranges and not download.is_complete:
            _stream(line, transfer, download.parallelism.patience)
    if not download.is_complete:
        reasons = [(line.source.label, line.reason or "gave up") for line in lines]
        raise SourceUnavailableError(
            reasons[0][1] if len(reasons) == 1 else "; ".join(f"{label}: {reason}" for label, reason in reasons)
        )
    return tuple(line.source for line in lines if line.num_bytes)


def _stream(line: "_Line", transfer: Transfer, patience: Patience) -> None:
    before = transfer.partial.num_bytes
    try:
        fetch_stream(line.request, transfer, patience)
    except SourceUnavailableError as error:
        line.reason = str(error)
    line.num_bytes += transfer.partial.num_bytes - before


class _CancelledError(Exception):
    """Somebody else has this chunk, or the download has ended."""


class _RangesIgnoredError(SourceUnavailableError):
    """The source sends the whole file whatever is asked for."""


@dataclass(eq=False, slots=True)
class _Line:
    """One source as this download sees it. Changed under the download's lock."""

    source: HttpSource
    request: Request
    resolved_url: str | None = None
    """Where redirects led: asked directly until it runs out."""
    began_seconds: float = field(default_factory=time.monotonic)
    is_proven: bool = False
    """It has sent a range: further connections may come."""
    ignores_ranges: bool = False
    reason: str | None = None
    """Why it was dropped."""
    etag: str | None = None
    """What its file was called when the first part came."""
    num_losses: int = 0
    num_bytes: int = 0

    @property
    def reach_seconds(self) -> float:
        """How long its next answer may take while it is unproven: a second try has what the first has left."""
        left = self.began_seconds + GIVE_WAY_SECONDS - time.monotonic()
        return max(_LEAST_REACH_SECONDS, min(REACH_SECONDS, left))


@dataclass(eq=False, slots=True)
class _Flight:
    """One connection's attempt at a chunk."""

    line: _Line
    index: int
    begin: int
    end: int
    began_seconds: float
    data: bytearray = field(default_factory=bytearray)
    is_cancelled: bool = False

    @property
    def position(self) -> int:
        """The next byte it wants."""
        return self.begin + len(self.data)


class _Download:
    """Who fetches what. Every method takes the one lock; bytes are written by whoever brings the next one missing."""

    def __init__(self, transfer: Transfer, parallelism: Parallelism) -> None:
        self.parallelism = parallelism
        self._transfer = transfer
        self._partial = transfer.partial
        self._start = transfer.partial.num_bytes
        self._end = transfer.total_bytes
        size = (self._end - self._start) // _CHUNKS_PER_FILE
        self._chunk_bytes = parallelism.chunk_bytes or min(max(size, _LEAST_CHUNK_BYTES), _MOST_CHUNK_BYTES)
        self._num_chunks = -(-(self._end - self._start) // self._chunk_bytes)
        self._changed = threading.Condition()
        self._next_index = 0
        self._returned: set[int] = set()
        self._flights: dict[int, list[_Flight]] = {}
        self._ready: dict[int, bytearray] = {}
        self._num_live = 0
        self._window = 0
        """How many chunks, from the first byte missing on, may be on their way or waiting in memory."""
        self._failure: BaseException | None = None
        self._has_ended = False
        self._chunk_seconds: float | None = None
        """What a chunk takes, averaged."""

    @property
    def is_complete(self) -> bool:
        """Whether every byte is in the partial file."""
        return self._partial.num_bytes == self._end

    def run(self, lines: list[_Line]) -> None:
        """Work until the file is complete or no source is left. Raises what stopped the writing."""
        share = max(1, _MOST_CONNECTIONS // max(1, len(lines)))
        connections = min(self.parallelism.connections_per_source, share, max(1, self._num_chunks))
        self._window = 2 * connections * len(lines)
        self._num_live = len(lines)
        threads = [
            threading.Thread(target=self._serve, args=(line, number), daemon=True)
            for line in lines
            for number in range(connections)
        ]
        try:
            for thread in threads:
                thread.start()
            with self._changed:
                while not self._is_over():
                    self._changed.wait(_LOOK_AGAIN_SECONDS)
        finally:
            with self._changed:
                self._has_ended = True  # from here on no thread writes; those that hang in a read are abandoned
                self._changed.notify_all()
        if self._failure is not None:
            raise self._failure

    def _is_over(self) -> bool:
        return self._has_ended or self._failure is not None or self.is_complete or self._num_live == 0

    def _serve(self, line: _Line, number: int) -> None:
        """The life of one connection."""
        try:
            while (flight := self._take(line, number)) is not None:
                try:
                    self._fetch(flight)
                except _CancelledError:
                    continue
                except SourceUnavailableError as error:
                    self._drop(line, error)
                finally:
                    self._give_back(flight)
        except BaseException as error:
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify_all()

    def _take(self, line: _Line, number: int) -> _Flight | None:
        """The next chunk to fetch; waits for one. None when this connection is not needed any more."""
        with self._changed:
            while not self._is_over() and line.reason is None:
                if number == 0 or line.is_proven:
                    flight = self._new_flight(line)
                    if flight is not None:
                        self._flights.setdefault(flight.index, []).append(flight)
                        return flight
                self._changed.wait(_LOOK_AGAIN_SECONDS)
            return None

    def _new_flight(self, line: _Line) -> _Flight | None:
        now = time.monotonic()
        if self._returned:
            index = min(self._returned)
            self._returned.remove(index)
        elif self._next_index < min(self._num_chunks, self._head + self._window):
            index = self._next_index
            self._next_index += 1
        elif self._head_is_slow(line, now):
            index = self._head
        else:
            return None
        begin, end = self._bounds(index)
        return _Flight(line, index, max(begin, self._partial.num_bytes), end, now)

    def _head_is_slow(self, line: _Line, now: float) -> bool:
        """Whether all wait for one chunk that another connection has had for too long."""
        flights = self._flights.get(self._head, [])
        if len(flights) != 1 or (flights[0].line is line and self._num_live > 1):
            return False
        usual = self.parallelism.slow_factor * (self._chunk_seconds or 0.0)
        return now - flights[0].began_seconds > max(self.parallelism.slow_seconds, usual)

    @property
    def _head(self) -> int:
        """The chunk that holds the first byte missing."""
        return (self._partial.num_bytes - self._start) // self._chunk_bytes

    def _bounds(self, index: int) -> tuple[int, int]:
        begin = self._start + index * self._chunk_bytes
        return begin, min(begin + self._chunk_bytes, self._end)

    def _fetch(self, flight: _Flight) -> None:
        """Read a chunk to its end, through whatever passes. Raises SourceUnavailableError, _CancelledError."""
        line, patience, num_failures = flight.line, self.parallelism.patience, 0
        while True:
            position, asked_seconds = flight.position, None
            try:
                self._read(flight)
                return
            except (UnfitError, _RangesIgnoredError):
                raise
            except HttpStatusError as error:
                if self._forget_resolved(line, error):
                    continue
                if not error.may_pass:
                    raise
                asked_seconds, failure = error.retry_after_seconds, error
            except SourceUnavailableError as error:
                if not line.is_proven and (num_failures or time.monotonic() - line.began_seconds >= REACH_SECONDS):
                    raise  # nothing of it has been seen yet: one quick second try
                failure = error  # type: ignore[assignment]
            num_failures = 1 if flight.position > position else num_failures + 1
            if num_failures >= patience.num_attempts or (asked_seconds or 0.0) > MOST_PATIENCE_SECONDS:
                raise failure
            self._pause(flight, patience.wait_seconds(num_failures, asked_seconds))

    def _read(self, flight: _Flight) -> None:
        line = flight.line
        request = replace(
            line.request,
            url=line.resolved_url or line.request.url,
            sign=line.request.sign if line.resolved_url is None else None,
            begin=flight.position,
            end=flight.end,
            stall_seconds=line.request.stall_seconds if line.is_proven else line.reach_seconds,
        )
        with self._transfer.network.open(request) as answer:
            self._check(answer, flight)
            while flight.position < flight.end:
                piece = answer.read(min(_PIECE_BYTES, flight.end - flight.position))
                if not piece:
                    raise SourceUnavailableError(f"ended {flight.end - flight.position:,} bytes early")
                self._arrived(flight, piece)

    def _check(self, answer: Answer, flight: _Flight) -> None:
        """Hold an answer against what was asked for, and learn from it."""
        if answer.status == 200 and (flight.position, flight.end) != (0, self._end):
            raise _RangesIgnoredError("it does not send parts of files")
        check_size(answer, self._end)
        if answer.status == 206 and range_begin(answer) != flight.position:
            raise UnfitError("it sends another part of the file than asked for")
        etag = answer.headers.get("etag")
        if None not in (etag, flight.line.etag) and etag != flight.line.etag:
            raise UnfitError("its file was changed while it was fetched")
        with self._changed:
            flight.line.etag = etag
            flight.line.is_proven = True
            flight.line.resolved_url = answer.url if answer.hops else flight.line.resolved_url
            self._changed.notify_all()

    def _forget_resolved(self, line: _Line, error: HttpStatusError) -> bool:
        with self._changed:
            was_stale = line.resolved_url is not None and error.status in _STALE
            line.resolved_url = None if was_stale else line.resolved_url
            return was_stale

    def _pause(self, flight: _Flight, seconds: float) -> None:
        if seconds >= 2:
            self._transfer.notice(f"{flight.line.source.label} is busy; waiting {seconds:.0f} s")
        until = time.monotonic() + seconds
        with self._changed:
            while (left := until - time.monotonic()) > 0:
                if self._is_over() or flight.is_cancelled:
                    raise _CancelledError
                self._changed.wait(min(left, 1.0))

    def _arrived(self, flight: _Flight, piece: bytes) -> None:
        with self._changed:
            if self._is_over() or flight.is_cancelled:
                raise _CancelledError
            flight.data += piece
            flight.line.num_bytes += len(piece)
            if flight.position == flight.end:
                self._land(flight)
            if flight.index == self._head:
                self._write_head()
            self._transfer.show_bytes(self._num_bytes_here())

    def _land(self, flight: _Flight) -> None:
        """A chunk is whole: nobody else needs to fetch it."""
        taken = time.monotonic() - flight.began_seconds
        self._chunk_seconds = taken if self._chunk_seconds is None else 0.7 * self._chunk_seconds + 0.3 * taken
        for other in self._flights.get(flight.index, []):
            if other is not flight:
                other.is_cancelled = True
                self._overtaken(other.line)
        if flight.index != self._head:
            self._ready[flight.index] = flight.data

    def _overtaken(self, line: _Line) -> None:
        line.num_losses += 1
        if line.num_losses >= self.parallelism.most_losses and self._num_live > 1 and line.reason is None:
            self._drop_locked(line, "slower than the others")

    def _write_head(self) -> None:
        """Write what is here from the first byte missing on."""
        while True:
            before, head = self._partial.num_bytes, self._head
            whole = self._ready.pop(head, None)
            if whole is not None:
                self._partial.write(bytes(memoryview(whole)[before - self._bounds(head)[0] :]))
            for flight in self._flights.get(head, []):
                self._write(flight)
            if self._partial.num_bytes == before:
                self._changed.notify_all()
                return

    def _write(self, flight: _Flight) -> None:
        offset = self._partial.num_bytes - flight.begin
        if 0 <= offset < len(flight.data):
            self._partial.write(bytes(memoryview(flight.data)[offset:]))

    def _num_bytes_here(self) -> int:
        early = sum(len(data) for data in self._ready.values())
        head = self._head
        flying = sum(len(flights[0].data) for index, flights in self._flights.items() if flights and index > head)
        return min(self._end, self._partial.num_bytes + early + flying)

    def _give_back(self, flight: _Flight) -> None:
        """The end of a flight, good or bad; a chunk that nobody has any more is free again."""
        with self._changed:
            flights = self._flights[flight.index]
            flights.remove(flight)
            missing = self._bounds(flight.index)[1] > self._partial.num_bytes and flight.index not in self._ready
            if not flights:
                del self._flights[flight.index]
                if missing:
                    self._returned.add(flight.index)
            self._changed.notify_all()

    def _drop(self, line: _Line, error: Exception) -> None:
        with self._changed:
            if line.reason is None:
                line.ignores_ranges = isinstance(error, _RangesIgnoredError)
                self._drop_locked(line, str(error))

    def _drop_locked(self, line: _Line, reason: str) -> None:
        line.reason = reason
        self._num_live -= 1
        if self._num_live:
            self._transfer.notice(f"{line.source.label}: {reason}; going on with the others")
        self._changed.notify_all()
