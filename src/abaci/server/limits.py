"""Whether a request may enter now, by the limits of its key. Pure bookkeeping: clocks are given, nothing waits.

Rates are buckets that drain by a monotonic clock, so a clock that is set does nothing to them. The day is the UTC date
of the wall clock; a date that comes again finds what was used on it, and a step back keeps what was used so far, so no
jump of the clock gives a second quota. Belongs to one thread.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from types import TracebackType
from typing import Self

from abaci.errors import RateLimitedError
from abaci.server.keys import Key

_MINUTE_SECONDS = 60.0
_RETRY_WHEN_BUSY_SECONDS = 1.0
_SHORTEST_RETRY_SECONDS = 0.001
_MAX_REMEMBERED_DATES = 64
_TOLERANCE = 1e-6
"""Of a unit: what draining in floating point may leave of a bucket that is empty in truth."""

Clock = Callable[[], float]


class Admission:
    """Lets requests in and counts what they use.

    monotonic  seconds that only ever go up.
    wall       Unix seconds, which people and time servers may set.
    """

    def __init__(self, monotonic: Clock = time.monotonic, wall: Clock = time.time) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._accounts: dict[str, _Account] = {}

    def enter(self, key: Key, estimated_tokens: int) -> "Ticket":
        """Let one request of `key` in; use the ticket as a context manager around it.

        `estimated_tokens` is what it may cost at most: its prompt and the longest answer asked for. They are charged
        now, and `Ticket.settle` puts the truth in their place. A request estimated above a limit enters when nothing
        else is charged to that limit; so a day's limit is exceeded by one request at most. Raises RateLimitedError with
        the seconds after which the same request may enter if no other does before it; nothing is charged then.
        """
        account = self._accounts.setdefault(key.id, _Account())
        now = self._monotonic()
        today = datetime.fromtimestamp(self._wall(), UTC)
        account.turn_to(today.date())
        limits = key.limits
        if limits.concurrent_requests is not None and account.num_running >= limits.concurrent_requests:
            raise _limited(key, f"{limits.concurrent_requests} requests at a time", _RETRY_WHEN_BUSY_SECONDS)
        wait = account.requests.seconds_until_room(1, limits.requests_per_minute, now)
        if wait > 0:
            raise _limited(key, f"{limits.requests_per_minute} requests per minute", wait)
        wait = account.tokens.seconds_until_room(estimated_tokens, limits.tokens_per_minute, now)
        if wait > 0:
            raise _limited(key, f"{limits.tokens_per_minute} tokens per minute", wait)
        if limits.tokens_per_day is not None:
            wait = account.seconds_until_room_today(estimated_tokens, limits.tokens_per_day, today)
            if wait > 0:
                raise _limited(key, f"{limits.tokens_per_day} tokens per day (UTC)", wait)
        account.requests.charge(1)
        account.tokens.charge(estimated_tokens)
        account.reserved_tokens += estimated_tokens
        account.num_running += 1
        return Ticket(self, account, key, estimated_tokens)

    def restore(self, key_id: str, day: date, used_tokens: int) -> None:
        """What a key used on a day before this process began; call it before the key's first request."""
        account = self._accounts.setdefault(key_id, _Account())
        account.turn_to(day)
        account.tokens_today += used_tokens

    def num_running(self, key_id: str) -> int:
        """Requests of a key that are inside."""
        account = self._accounts.get(key_id)
        return 0 if account is None else account.num_running

    def _settle(self, account: "_Account", key: Key, charged_tokens: int, actual_tokens: int) -> None:
        account.num_running -= 1
        account.tokens.drain(key.limits.tokens_per_minute, self._monotonic())
        account.tokens.charge(actual_tokens - charged_tokens)
        account.turn_to(datetime.fromtimestamp(self._wall(), UTC).date())
        account.reserved_tokens -= charged_tokens
        account.tokens_today += actual_tokens


class Ticket:
    """A request that was let in. At its exit the place is free again.

    Without a `settle` before the exit it has used nothing: the estimate is given back.
    """

    def __init__(self, admission: Admission, account: "_Account", key: Key, charged_tokens: int) -> None:
        self._admission = admission
        self._account = account
        self._key = key
        self._charged_tokens = charged_tokens
        self._actual_tokens = 0
        self._has_left = False

    def settle(self, actual_tokens: int) -> None:
        """Say what it has used, prompt and output; the last word before the exit counts."""
        self._actual_tokens = actual_tokens

    def leave(self) -> None:
        """Give the place back and charge what was used. Idempotent."""
        if self._has_left:
            return
        self._has_left = True
        self._admission._settle(self._account, self._key, self._charged_tokens, self._actual_tokens)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()


@dataclass(slots=True)
class _Bucket:
    """Units charged that have not drained yet. One minute drains as many as the limit has."""

    level: float = 0.0
    drained_at: float = -math.inf

    def drain(self, limit: int | None, now: float) -> None:
        """Let out what has drained until `now`. Without a limit nothing is held."""
        if limit is None:
            self.level = 0.0
        elif now > self.drained_at:
            self.level = max(0.0, self.level - (now - self.drained_at) * limit / _MINUTE_SECONDS)
        self.drained_at = max(now, self.drained_at)

    def seconds_until_room(self, units: int, limit: int | None, now: float) -> float:
        """0 if that many units may be charged now."""
        self.drain(limit, now)
        if limit is None:
            return 0.0
        excess = self.level - (limit - min(units, limit))
        return 0.0 if excess <= _TOLERANCE else excess * _MINUTE_SECONDS / limit

    def charge(self, units: int) -> None:
        """Fewer than none gives units back, at most to an empty bucket."""
        self.level = max(0.0, self.level + units)


@dataclass(slots=True)
class _Account:
    """What one key has used."""

    num_running: int = 0
    requests: _Bucket = field(default_factory=_Bucket)
    tokens: _Bucket = field(default_factory=_Bucket)
    reserved_tokens: int = 0
    """What those running may cost."""
    tokens_today: int = 0
    """What those that have ended did cost."""
    _today: date | None = None
    _earlier: dict[date, int] = field(default_factory=dict)
    """What was used on dates that are not today; by a clock that was set they may come again."""

    def turn_to(self, today: date) -> None:
        """Count for that date from now on."""
        if today == self._today:
            return
        used = self._earlier.pop(today, 0)
        if self._today is not None:
            self._earlier[self._today] = self.tokens_today
            if today < self._today:
                used = max(used, self.tokens_today)
        while len(self._earlier) > _MAX_REMEMBERED_DATES:
            del self._earlier[next(iter(self._earlier))]
        self.tokens_today, self._today = used, today

    def seconds_until_room_today(self, tokens: int, limit: int, now: datetime) -> float:
        """0 if the day has room. A request too large for what is left may be the last, once it is alone."""
        if self.tokens_today >= limit:
            return _seconds_to_midnight(now)
        fits = self.tokens_today + self.reserved_tokens + tokens <= limit
        return 0.0 if fits or self.num_running == 0 else _RETRY_WHEN_BUSY_SECONDS


def _limited(key: Key, limit: str, wait_seconds: float) -> RateLimitedError:
    return RateLimitedError(
        f"the key {key.name!r} allows {limit}",
        retry_after_seconds=max(wait_seconds, _SHORTEST_RETRY_SECONDS),
        hint="Wait as long as Retry-After says; whoever runs the server can raise it: abaci key limit",
    )


def _seconds_to_midnight(now: datetime) -> float:
    midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
    return (midnight - now).total_seconds()
