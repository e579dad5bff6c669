"""Carries events from the generators' threads to coroutines of the event loop.

A step of the engine publishes an event for each of its sequences; the loop is woken once for all of them.
"""

import asyncio
from collections import deque
from time import perf_counter

from abaci.generation import TokenEvent, TokenSink


class EventInbox:
    """Events of the requests that one HTTP call waits for, with the time each was published. One reader."""

    __slots__ = ("_events", "_waiter")

    def __init__(self) -> None:
        self._events: deque[tuple[float, TokenEvent]] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, seconds: float, event: TokenEvent) -> None:
        """On the event loop."""
        self._events.append((seconds, event))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def has_events(self) -> bool:
        """Whether `take` would give one."""
        return bool(self._events)

    def take(self) -> tuple[float, TokenEvent] | None:
        """The next event if one is here."""
        return self._events.popleft() if self._events else None

    async def wait(self, timeout_seconds: float) -> bool:
        """Wait until there is an event; False if none came in time."""
        if self._events:
            return True
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(timeout_seconds, _give_up, self._waiter)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None
        return bool(self._events)


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


def _give_up(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
