"""Seconds of the machine per token of a model, measured while it serves. Pure: readings and clocks are given.

A request's compute seconds are its share of the steps it was in: the engine divides the seconds of each step evenly
over the tokens computed in it, and counts what falls on prompts and on completions apart. Over the last minute that
gives, for each model, the seconds of one prompt token and of one completion token; a request is charged its tokens
times these. Prompt tokens found in the cache were not computed and cost nothing. Idle time is charged to nobody.

The figure at full load is the same in the best minute in which the model kept the machine busy: what tokens cost where
there is enough to do.
"""

from collections import deque
from dataclasses import dataclass, fields
from typing import Final

_WINDOW_SECONDS = 60.0
_BUSY_FRACTION = 0.9
"""Of a minute's seconds that a model must compute for the minute to count as full load."""
_KIND_FRACTION = 0.1
"""Of a busy minute's seconds that prompts, or completions, must take for their cost to be read from it."""


@dataclass(frozen=True, slots=True)
class ModelCounters:
    """What an engine has computed since its model was loaded; the module says how steps are divided."""

    prompt_tokens: int
    completion_tokens: int
    prompt_seconds: float
    completion_seconds: float


_COUNTERS: Final = tuple(counter.name for counter in fields(ModelCounters))


@dataclass(frozen=True, slots=True)
class TokenSeconds:
    """Seconds of the machine per computed token. None: not measured yet."""

    prompt: float | None = None
    completion: float | None = None


class LoadMeter:
    """From a model's counters, read about once a second, to the seconds that a token takes."""

    def __init__(self, full_load: TokenSeconds = TokenSeconds()) -> None:
        self._readings: deque[tuple[float, ModelCounters]] = deque()
        self._current = TokenSeconds()
        self._full_load = full_load

    @property
    def current(self) -> TokenSeconds:
        """Of the last minute; of the last minute before it that had such tokens, where it had none."""
        return self._current

    @property
    def full_load(self) -> TokenSeconds:
        """The lowest in any busy minute."""
        return self._full_load

    def observe(self, now: float, counters: ModelCounters) -> None:
        """Take a reading at `now`, in monotonic seconds. Counters that went back mean the model was loaded anew."""
        readings = self._readings
        if readings and _num_tokens(counters) < _num_tokens(readings[-1][1]):
            readings.clear()
        if not readings:
            readings.append((now, ModelCounters(0, 0, 0.0, 0.0)))  # loaded since the last look at it, or it was known
        readings.append((now, counters))
        while len(readings) > 2 and readings[1][0] <= now - _WINDOW_SECONDS:
            readings.popleft()
        begin, first = readings[0]
        spent = ModelCounters(**{name: getattr(counters, name) - getattr(first, name) for name in _COUNTERS})
        measured = _token_seconds(spent)
        self._current = TokenSeconds(
            self._current.prompt if measured.prompt is None else measured.prompt,
            self._current.completion if measured.completion is None else measured.completion,
        )
        if now - begin >= _WINDOW_SECONDS:
            self._look_at_minute(now - begin, spent, measured)

    def _look_at_minute(self, seconds: float, spent: ModelCounters, measured: TokenSeconds) -> None:
        busy_seconds = spent.prompt_seconds + spent.completion_seconds
        if busy_seconds < _BUSY_FRACTION * seconds:
            return
        enough_seconds = _KIND_FRACTION * busy_seconds
        self._full_load = TokenSeconds(
            _lower(self._full_load.prompt, measured.prompt if spent.prompt_seconds >= enough_seconds else None),
            _lower(
                self._full_load.completion, measured.completion if spent.completion_seconds >= enough_seconds else None
            ),
        )


def _num_tokens(counters: ModelCounters) -> int:
    return counters.prompt_tokens + counters.completion_tokens


def _token_seconds(spent: ModelCounters) -> TokenSeconds:
    return TokenSeconds(
        spent.prompt_seconds / spent.prompt_tokens if spent.prompt_tokens > 0 else None,
        spent.completion_seconds / spent.completion_tokens if spent.completion_tokens > 0 else None,
    )


def _lower(best: float | None, found: float | None) -> float | None:
    return min((value for value in (best, found) if value is not None), default=None)
