"""Carries events from the generators' threads to coroutines of the event loop.

A step of the engine publishes an event for each of its sequences; the loop is woken once for all of them.
"""

import asyncio
from collections import deque
from time import perf_counter

from abaci.generation import TokenEvent, TokenSink


class EventInbox:
    """Events of the requests that one HTTP call waits for, with the time each was published. One reader."""

    __slots__ = ("_events", "_loop", "_timer", "_waiter", "_waiting_since")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._events: deque[tuple[float, TokenEvent]] = deque()
        self._waiter: asyncio.Future[bool] | None = None
        self._waiting_since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def has_events(self) -> bool:
        """Whether `take` would give one."""
        return bool(self._events)

    def put(self, seconds: float, event: TokenEvent) -> None:
        """On the event loop."""
        self._events.append((seconds, event))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(True)

    def take(self) -> tuple[float, TokenEvent] | None:
        """The next event if one is here."""
        return self._events.popleft() if self._events else None

    async def wait(self, timeout_seconds: float) -> bool:
        """Wait until there is an event; False if none came in time."""
        if self._events:
            return True
        loop = self._loop
        if loop is None:  # asked for once: it costs a system call
            loop = self._loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        self._waiting_since = loop.time()
        if self._timer is None:  # one for many waits: most end long before it, and a timer for each would cost more
            self._timer = loop.call_later(timeout_seconds, self._look, timeout_seconds)
        try:
            return await self._waiter
        finally:
            self._waiter = None

    def close(self) -> None:
        """Nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, timeout_seconds: float) -> None:
        """Whether the wait that is on now has lasted long enough; if not, when it will have."""
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        loop = asyncio.get_running_loop()
        left = self._waiting_since + timeout_seconds - loop.time()
        if left <= 0:
            self._waiter.set_result(False)
        else:
            self._timer = loop.call_later(left, self._look, timeout_seconds)


class EventBridge:
    """One per event loop. `sink` may be called on any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._events: deque[tuple[EventInbox, float, TokenEvent]] = deque()
        self._is_waking = False

    def sink(self, inbox: EventInbox) -> TokenSink:
        """Where a generator is to put the events meant for `inbox`."""

        def put(event: TokenEvent) -> None:
            self._events.append((inbox, perf_counter(), event))
            if not self._is_waking:
                self._is_waking = True
                try:
                    self._loop.call_soon_threadsafe(self._deliver)
                except RuntimeError:  # the loop has ended, and with it everyone who could read this
                    self._events.clear()

        return put

    def _deliver(self) -> None:
        self._is_waking = False  # first: what is appended from now on wakes again
        while self._events:
            inbox, seconds, event = self._events.popleft()
            inbox.put(seconds, event)
