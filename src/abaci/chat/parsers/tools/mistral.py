"""Mistral: `[TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...]`, and newer `[TOOL_CALLS]name[ARGS]{...}` per call.

The newer form may have `[CALL_ID]...` before the arguments, and lacks `[ARGS]` in one version of the format.
"""

import secrets
import string
from collections.abc import Callable, Sequence
from typing import Final

from abaci.chat.parsers.dialect import CallGrammar, CallRule, ToolDialect, object_calls
from abaci.chat.parsers.scanner import Scanner, Steps

_CALLS: Final = "[TOOL_CALLS]"
_ARGUMENTS: Final = "[ARGS]"
_CALL_ID: Final = "[CALL_ID]"
_ID_ALPHABET: Final = string.ascii_letters + string.digits


def _read(scanner: Scanner) -> Steps[None]:
    while (yield from scanner.content_until(_CALLS)):
        yield from scanner.skip_space()
        if (yield from scanner.accept("[")):
            yield from scanner.call_list()
        else:
            yield from _read_named(scanner)


def _read_named(scanner: Scanner) -> Steps[None]:
    name = yield from scanner.name_until(_CALL_ID, _ARGUMENTS, "{")
    if not name:
        return
    if (yield from scanner.accept(_CALL_ID)):
        yield from scanner.name_until(_ARGUMENTS)
    yield from scanner.accept(_ARGUMENTS)
    yield from scanner.skip_space()
    yield from scanner.call(name)


def _grammar(functions: Sequence[CallRule], quote: Callable[[str], str]) -> CallGrammar:
    """The older form, which says the same in every version's vocabulary that has the marker."""
    return CallGrammar(
        _CALLS, f"({object_calls(functions, quote)})", begin=quote(" ["), separator=quote(", "), end=quote("]")
    )


def _call_id() -> str:
    """The templates want exactly nine letters and digits."""
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(9))


DIALECT: Final = ToolDialect(
    markers=(_CALLS, _ARGUMENTS, _CALL_ID),
    is_spoken_by=lambda source: _CALLS in source,
    read=_read,
    grammar=_grammar,
    new_call_id=_call_id,
)
