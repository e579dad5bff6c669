"""Responses written while they are generated: the client's leaving cancels the work, a slow one is dropped.

Knows ASGI and the framing of streams, no dialect.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from abaci.server.wire import compact_json, error_status

_LOG = logging.getLogger("abaci.server")

EVENT_STREAM: Final = "text/event-stream; charset=utf-8"
PING: Final = b": ping\n\n"
DONE: Final = b"data: [DONE]\n\n"

_STREAM_HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""The second keeps nginx from collecting a stream before it passes it on."""

SERVER_SEND: Final = "server_send"
"""Where a scope's state has the server's own `send`. Whatever wraps it on the way in looks at the start of a response
only, so the pieces of its body need not pass all that."""


class Sender:
    """Writes one HTTP response: either whole, or begun and then piece by piece."""

    def __init__(self, send: Send, send_body: Send, extra_headers: Mapping[str, str]) -> None:
        self._send = send
        self._send_body = send_body
        self._extra_headers = extra_headers
        self.is_started = False
        self.blocked_since: float | None = None
        """On `time.monotonic`: since when the client has taken nothing, if it is the client we wait for."""

    async def whole(self, document: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """A JSON document, and the end."""
        body = compact_json(document).encode()
        await self.start("application/json", status, {"content-length": str(len(body)), **(headers or {})})
        await self.piece(body, is_last=True)

    async def start(self, content_type: str, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Status and headers."""
        pairs = {"content-type": content_type, **self._extra_headers, **(headers or {})}
        self.is_started = True
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs.items()],
            }
        )

    async def piece(self, body: bytes, *, is_last: bool = False) -> None:
        """Some of the body."""
        self.blocked_since = monotonic()
        await self._send_body({"type": "http.response.body", "body": body, "more_body": not is_last})
        self.blocked_since = None

    @asynccontextmanager
    async def stream(self, content_type: str, error_piece: Callable[[Exception], bytes]) -> AsyncIterator[None]:
        """A streamed body: an error inside it is told in the stream, which then ends."""
        await self.start(content_type, headers=_STREAM_HEADERS)
        try:
            yield
        except Exception as error:
            if error_status(error) >= 500:
                _LOG.error("a stream failed", exc_info=error)
            await self.piece(error_piece(error), is_last=True)
        else:
            await self.piece(b"", is_last=True)


class Reply(Response):
    """A response whose `write` runs until it is done or the client is gone, whichever comes first."""

    def __init__(
        self,
        write: Callable[[Sender], Awaitable[None]],
        *,
        slow_reader_seconds: float,
        extra_headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._write = write
        self._slow_reader_seconds = slow_reader_seconds
        self._extra_headers = extra_headers or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises what `write` raises."""
        sender = Sender(send, scope["state"].get(SERVER_SEND, send), self._extra_headers)
        work = asyncio.ensure_future(self._write(sender))
        watch = asyncio.ensure_future(self._until_gone(receive, sender))
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.cancel()
            if not work.done():
                work.cancel()
            await asyncio.wait({work})
        if not work.cancelled():
            work.result()

    async def _until_gone(self, receive: Receive, sender: Sender) -> None:
        """Returns when the client has gone, or has taken nothing for too long."""
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            while True:
                done, _ = await asyncio.wait({gone}, timeout=self._slow_reader_seconds / 4)
                blocked = sender.blocked_since
                if done or (blocked is not None and monotonic() - blocked > self._slow_reader_seconds):
                    return
        finally:
            gone.cancel()


def server_sent_event(document: Any) -> bytes:
    """One event of a stream."""
    return f"data: {compact_json(document)}\n\n".encode()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
