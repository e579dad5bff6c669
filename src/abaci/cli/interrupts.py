"""Ctrl-C as something that is waited for, in place of an exception out of any line. Knows no model and no screen."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TypeVar

_T = TypeVar("_T")


class Interrupts:
    """While it is entered, Ctrl-C raises KeyboardInterrupt in `during` alone; what comes elsewhere waits for the next.

    Not entered it changes nothing: KeyboardInterrupt comes wherever the program is. A process that was started with
    Ctrl-C ignored, or that has a handler of its own, keeps that. For the main thread.
    """

    def __init__(self) -> None:
        self._is_awaited = False
        self._is_kept = False
        self._is_installed = False

    def __enter__(self) -> "Interrupts":
        self._is_installed = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._is_installed:
            signal.signal(signal.SIGINT, self._pressed)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        if self._is_installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def during(self, action: Callable[[], _T]) -> _T:
        """What `action` gives. Raises KeyboardInterrupt, once, for a press that is kept or that comes meanwhile."""
        self._is_awaited = True
        try:
            if self._is_kept:
                self._is_kept = False
                raise KeyboardInterrupt
            return action()
        finally:
            self._is_awaited = False

    def forget(self) -> None:
        """What was pressed so far meant something that is over."""
        self._is_kept = False

    def _pressed(self, number: int, frame: FrameType | None) -> None:
        if not self._is_awaited:
            self._is_kept = True
            return
        self._is_awaited = False  # what cleans up after the first press is not disturbed by a second
        raise KeyboardInterrupt
