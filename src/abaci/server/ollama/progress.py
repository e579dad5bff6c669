"""How far a download on a thread has come, told on the event loop. What nobody waits for any more is given up."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any


class _AbandonedError(Exception):
    """Nobody waits for the download any more."""


class PullProgress:
    """A `hub.DownloadListener`. Of several steps that nobody has read yet only the newest is told."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._news = asyncio.Event()
        self._step: dict[str, Any] | None = None
        self._notices: deque[str] = deque()
        self._is_finished = False
        self._is_abandoned = False

    def advanced(self, source: str, num_bytes: int, total_bytes: int) -> None:
        """On the download's thread. Raises where nobody waits any more: what has come is kept for the next time."""
        if self._is_abandoned:
            raise _AbandonedError
        self._step = {"total": total_bytes, "completed": num_bytes}
        self._tell()

    def noticed(self, message: str) -> None:
        """On the download's thread."""
        self._notices.append(message)
        self._tell()

    def finished(self, work: "asyncio.Future[Any]") -> None:
        """The download has ended, well or not."""
        self._is_finished = True
        self._news.set()
        if not work.cancelled():
            work.exception()  # who waits sees it; if nobody does, it is no news

    def abandon(self) -> None:
        """Nobody waits any more."""
        self._is_abandoned = True

    async def steps(self) -> AsyncIterator[dict[str, Any]]:
        """Until the download has ended."""
        while True:
            await self._news.wait()
            self._news.clear()
            is_finished = self._is_finished
            while self._notices:
                yield {"status": self._notices.popleft()}
            if self._step is not None:
                step, self._step = self._step, None
                yield step
            if is_finished:
                return

    def _tell(self) -> None:
        with suppress(RuntimeError):  # the loop has ended, and with it everyone who could be told
            self._loop.call_soon_threadsafe(self._news.set)
