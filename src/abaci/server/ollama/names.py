"""Names and durations as Ollama's clients write them."""

import math
import re
from typing import Final

from abaci.server.auth import Caller
from abaci.server.services import Services
from abaci.server.wire import ParameterError

_DEFAULT_TAG: Final = ":latest"
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNIT_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def resolved_name(services: Services, caller: Caller, asked: str) -> str:
    """The name that a model goes by here.

    A name means itself. Only where nothing has it, `x` and `x:latest` mean the same, as they do to Ollama's clients.
    """
    known = {status.name for status in services.visible_models(caller)}
    if asked in known:
        return asked
    other = asked.removesuffix(_DEFAULT_TAG) if asked.endswith(_DEFAULT_TAG) else f"{asked}{_DEFAULT_TAG}"
    return other if other in known else asked


def duration_seconds(parameter: str, given: float | str) -> float | None:
    """Seconds of `300`, `"5m"` or `"1h30m"`; None for a negative duration, which means for ever.

    Raises ParameterError.
    """
    if isinstance(given, str):
        given = _parsed(parameter, given.strip())
    return None if given < 0 else given


def _parsed(parameter: str, text: str) -> float:
    sign = -1.0 if text.startswith("-") else 1.0
    digits = text.removeprefix("-")
    parts = _DURATION_PART.findall(digits)
    if digits and "".join(number + unit for number, unit in parts) == digits:
        return sign * math.fsum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)
    if re.fullmatch(r"\d{1,12}(\.\d*)?", digits):
        return sign * float(digits)
    raise ParameterError(parameter, f"{parameter}: {text[:40]!r} is not a duration", hint='For example "5m" or 300.')
