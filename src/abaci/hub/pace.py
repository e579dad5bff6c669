"""How fast and how often: the bandwidth a user allows, and the waits between attempts."""

import email.utils
import math
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from abaci.errors import UsageError

MOST_PATIENCE_SECONDS: Final = 60.0
"""A server that wants to be left alone for longer is given up."""
_FIRST_WAIT_SECONDS: Final = 0.5
_LONGEST_OWN_WAIT_SECONDS: Final = 30.0
_BURST_SECONDS: Final = 0.25
_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
_RATE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)([kmg]i?)?b?(?:/s)?", re.IGNORECASE)


def read_rate(text: str) -> int:
    """Bytes per second out of `500k`, `2.5M`, `1GiB/s`. Raises UsageError."""
    match = _RATE.fullmatch(text.strip())
    rate = 0 if match is None else int(float(match[1]) * _UNITS[(match[2] or "").lower()])
    if rate < 1:
        raise UsageError(f"{text[:40]!r} is not a rate", hint="Give bytes per second, like 500k, 2.5M or 1G.")
    return rate


class RateLimit:
    """One budget of bytes per second for all who download; None is no limit. Safe from many threads."""

    def __init__(
        self,
        bytes_per_second: int | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.bytes_per_second = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._paid_until_seconds = -math.inf

    def piece_bytes(self, most_bytes: int) -> int:
        """How much to read at once, so that a low limit does not come in gusts."""
        if self.bytes_per_second is None:
            return most_bytes
        return max(1, min(most_bytes, int(self.bytes_per_second * _BURST_SECONDS)))

    def take(self, num_bytes: int) -> None:
        """Wait until `num_bytes` more may have been read."""
        if self.bytes_per_second is None:
            return
        with self._lock:
            now = self._clock()
            begin = max(now, self._paid_until_seconds)
            self._paid_until_seconds = begin + num_bytes / self.bytes_per_second
            wait = self._paid_until_seconds - now
        if wait > 0:
            self._sleep(wait)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait before attempt after attempt. Waits double and vary, so that many clients do not return at once.

    (Full jitter, as in M. Brooker, "Exponential Backoff And Jitter", 2015.)
    """

    num_attempts: int = 6
    first_wait_seconds: float = _FIRST_WAIT_SECONDS
    draw: Callable[[], float] = field(default=random.random)
    """A number from 0 to 1."""

    def wait_seconds(self, num_failures: int, asked_seconds: float | None) -> float:
        """Before the next attempt, after `num_failures` (1 or more) of them; never less than the server asked for."""
        ceiling = min(_LONGEST_OWN_WAIT_SECONDS, self.first_wait_seconds * 2.0 ** (num_failures - 1))
        return (asked_seconds or 0.0) + self.draw() * ceiling


def retry_after_seconds(header: str | None, now_seconds: float | None = None) -> float | None:
    """What a `Retry-After` header asks for (RFC 9110, 10.2.3: seconds or a date); None where it says nothing usable."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return float(text)
    try:
        date = email.utils.parsedate_to_datetime(text)
        return max(0.0, date.timestamp() - (time.time() if now_seconds is None else now_seconds))
    except (ValueError, OverflowError, TypeError):
        return None
