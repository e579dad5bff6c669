"""The smallest client that can measure: it notes when bytes come, and reads them when nothing is running any more.

Knows HTTP/1.1, server-sent events and OpenAI's chunks, as far as a benchmark must. One connection per request.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

Reads = Sequence[tuple[float, bytes]]
"""What came, and when (`time.perf_counter`)."""

_SHOWN_CHARACTERS = 200
_HEAD_END = b"\r\n\r\n"
_DONE = b"[DONE]"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its answer. Seconds are those of `time.perf_counter`."""

    sent_seconds: float
    token_seconds: tuple[float, ...]
    """When each piece of the answer's text came."""
    end_seconds: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    text: str
    error: str | None
    """What went wrong, if anything did; the other fields then say how far it came."""

    @property
    def first_token_seconds(self) -> float:
        """From sending to the first text. Only of an exchange without an error."""
        return self.token_seconds[0] - self.sent_seconds


@dataclass(frozen=True, slots=True)
class Transcript:
    """An exchange as it went over the wire."""

    sent_seconds: float
    reads: Reads
    end_seconds: float
    failure: str | None = None
    """Why the connection failed, if it did."""


async def post(host: str, port: int, path: str, document: Mapping[str, Any], *, limit_seconds: float) -> Transcript:
    """Send a request and listen until the server closes the connection. A failure is a part of the transcript."""
    body = json.dumps(document).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nAccept: text/event-stream\r\nConnection: close\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    listener = _Listener(loop.create_future())
    sent_seconds = perf_counter()
    failure = None
    try:
        async with asyncio.timeout(limit_seconds):
            transport, _ = await loop.create_connection(lambda: listener, host, port)
            try:
                transport.write(head.encode() + body)
                await listener.closed
            finally:
                transport.abort()
    except TimeoutError:
        failure = f"no end after {limit_seconds:g} s"
    except OSError as error:
        failure = f"connection: {error}"
    return Transcript(sent_seconds, tuple(listener.reads), perf_counter(), failure)


class _Listener(asyncio.Protocol):
    """All that runs while a server is measured."""

    def __init__(self, closed: asyncio.Future[None]) -> None:
        self.closed = closed
        self.reads: list[tuple[float, bytes]] = []

    def data_received(self, data: bytes) -> None:
        self.reads.append((perf_counter(), data))

    def connection_lost(self, error: Exception | None) -> None:
        if self.closed.done():
            return
        if error is None:
            self.closed.set_result(None)
        else:
            self.closed.set_exception(error if isinstance(error, OSError) else OSError(str(error)))


def read_transcript(transcript: Transcript) -> Exchange:
    """What was said."""
    answer = _Answer()
    error = transcript.failure
    try:
        for seconds, data in _body_pieces(transcript.reads):
            answer.take(seconds, data)
    except (ValueError, KeyError, IndexError, TypeError) as problem:
        error = error or f"not understood: {problem}"
    return Exchange(
        transcript.sent_seconds,
        tuple(answer.token_seconds),
        transcript.end_seconds,
        answer.prompt_tokens,
        answer.cached_tokens,
        answer.output_tokens,
        "".join(answer.texts),
        error or answer.problem(),
    )


class _Answer:
    """Puts a streamed chat completion together."""

    def __init__(self) -> None:
        self.token_seconds: list[float] = []
        self.texts: list[str] = []
        self.prompt_tokens = self.cached_tokens = self.output_tokens = 0
        self._error: str | None = None
        self._is_finished = self._is_done = False
        self._rest = b""

    def take(self, seconds: float, data: bytes) -> None:
        *events, self._rest = (self._rest + data).split(b"\n\n")
        for event in events:
            payload = event.removeprefix(b"data: ")
            if payload == _DONE:
                self._is_done = True
            elif payload is not event:  # what has no such prefix is a comment: a ping
                self._take_chunk(seconds, json.loads(payload))

    def problem(self) -> str | None:
        if self._error is not None:
            return self._error
        if not (self._is_finished and self._is_done):
            return "the stream broke off"
        if not self.token_seconds:
            return "an answer without text"
        return None

    def _take_chunk(self, seconds: float, chunk: Mapping[str, Any]) -> None:
        if "error" in chunk:
            self._error = _shown(json.dumps(chunk["error"]))
            return
        for choice in chunk["choices"]:
            text = choice["delta"].get("content")
            if text:
                self.texts.append(text)
                self.token_seconds.append(seconds)
            self._is_finished = self._is_finished or choice.get("finish_reason") is not None
        usage = chunk.get("usage")
        if usage:
            self.prompt_tokens = usage["prompt_tokens"]
            self.output_tokens = usage["completion_tokens"]
            self.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


def _body_pieces(reads: Reads) -> Iterator[tuple[float, bytes]]:
    """The body as it came, its framing taken off. Raises ValueError for a refusal, with its text."""
    pieces = iter(reads)
    head, seconds = b"", 0.0
    while _HEAD_END not in head:
        seconds, data = next(pieces, (0.0, b""))
        if not data:
            raise ValueError("the server closed the connection without an answer")
        head += data
    head, _, rest = head.partition(_HEAD_END)
    status = head.split(b" ", 2)[1]
    is_chunked = b"transfer-encoding: chunked" in head.lower()
    if status != b"200":
        text = rest + b"".join(data for _, data in pieces)
        raise ValueError(f"status {status.decode()}: {_shown(text.decode(errors='replace'))}")
    if not is_chunked:
        yield seconds, rest
        yield from pieces
        return
    rest, payload = _unchunked(rest)
    yield seconds, payload
    for seconds, data in pieces:
        rest, payload = _unchunked(rest + data)
        yield seconds, payload


def _unchunked(data: bytes) -> tuple[bytes, bytes]:
    """What is left of `data` behind its last whole chunk, and the chunks' contents."""
    payload, position = [], 0
    while True:
        line_end = data.find(b"\r\n", position)
        if line_end < 0:
            break
        begin = line_end + 2
        end = begin + int(data[position:line_end].split(b";")[0], 16)
        if len(data) < end + 2:
            break
        payload.append(data[begin:end])
        position = end + 2
    return data[position:], b"".join(payload)


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + " ..."
