"""What the addresses of usage reports have in common: which parameters there are, and from which day on."""

from collections.abc import Sequence
from datetime import date

from starlette.datastructures import QueryParams

from abaci.server.usage_report import first_day
from abaci.server.wire import ParameterError

_MAX_DAYS = 36_500


def check_names(query: QueryParams, known: Sequence[str]) -> None:
    """Raise ParameterError for a parameter that is not among the known ones."""
    if unknown := set(query) - set(known):
        name = min(unknown)
        *others, last = known
        hint = f"There are {', '.join(others)} and {last}."
        raise ParameterError(name[:64], f"unknown parameter {name[:64]!r}", hint=hint)


def first_day_asked(query: QueryParams) -> date | None:
    """The day that `since` names; None where it is not given. Raises ParameterError."""
    text = query.get("since")
    if text is None:
        return None
    try:
        return first_day(text, _MAX_DAYS)
    except ValueError:
        raise ParameterError("since", f"since {text[:64]!r} is not a day", hint="Write 2026-01-31, or 7d.") from None
