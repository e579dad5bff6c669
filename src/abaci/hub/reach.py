"""What a source raises when it gives way, and how long it may take to show a sign of life."""

import threading
from collections.abc import Callable
from typing import Final, TypeVar

Result = TypeVar("Result")

REACH_SECONDS: Final = 4.0
"""How long a source may take to show a sign of life."""
GIVE_WAY_SECONDS: Final = 5.0
"""The promise to the user: what a dead source costs at most, second tries included."""


class SourceUnavailableError(Exception):
    """This source cannot deliver now; the text is the reason, in words that fit one line."""


class SilentError(SourceUnavailableError):
    """It has said nothing in the time it had."""


def within(seconds: float, call: Callable[[], Result]) -> Result:
    """The call's result, or SilentError after `seconds`.

    A thread, because a time-out counts per address and leaves out the name look-up; what hangs is abandoned.
    """
    outcome: list[Result | Exception] = []

    def attempt() -> None:
        try:
            outcome.append(call())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise SilentError(f"no answer within {seconds:g} s")
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]
