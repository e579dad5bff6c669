"""Qwen3-Coder and Qwen3.5: a call in tags, its arguments as plain text.

    <tool_call>
    <function=NAME>
    <parameter=KEY>
    value
    </parameter>
    </function>
    </tool_call>

One line break on either side of a value belongs to the tags. Models forget the outer tags, and the inner ones' ends. A
call that a grammar holds is written as Hermes does, which says the same and is read here too.
"""

import json
from typing import Any, Final

from abaci.chat.parsers.dialect import ToolDialect
from abaci.chat.parsers.scanner import Scanner, Steps
from abaci.chat.parsers.tools.hermes import marked_grammar
from abaci.chat.parsers.typed_values import schema_of, typed_value

_OPEN: Final = "<tool_call>"
_CLOSE: Final = "</tool_call>"
_FUNCTION: Final = "<function="
_FUNCTION_END: Final = "</function>"
_PARAMETER: Final = "<parameter="
_PARAMETER_END: Final = "</parameter>"


def _read(scanner: Scanner) -> Steps[None]:
    while marker := (yield from scanner.content_until(_OPEN, _FUNCTION)):
        if marker == _OPEN:
            yield from scanner.skip_space()
            if (yield from scanner.next_is("{")):
                is_call = yield from scanner.call_object()
            else:
                is_call = bool((yield from scanner.accept(_FUNCTION))) and (yield from _read_function(scanner))
        else:
            is_call = yield from _read_function(scanner)
        if is_call:
            yield from scanner.close(_CLOSE)


def _read_function(scanner: Scanner) -> Steps[bool]:
    name = yield from scanner.name_until(">")
    yield from scanner.accept(">")
    arguments: dict[str, Any] = {}
    schema = scanner.parameters(name)
    while True:
        yield from scanner.skip_space()
        found = yield from scanner.accept(_PARAMETER, _FUNCTION_END)
        if found == _FUNCTION_END or (not found and (yield from scanner.next_is(_CLOSE))):
            return bool(name) and scanner.whole_call(name, json.dumps(arguments, ensure_ascii=False))
        key = (yield from scanner.name_until(">")) if found else ""
        yield from scanner.accept(">")
        value = yield from scanner.text_until(_PARAMETER_END, _PARAMETER, _FUNCTION_END, _CLOSE)
        if not key or value is None:
            return False
        yield from scanner.accept(_PARAMETER_END)
        arguments[key] = typed_value(value.removeprefix("\n").removesuffix("\n"), schema_of(schema, key))


DIALECT: Final = ToolDialect(
    markers=(_OPEN, _CLOSE),
    is_spoken_by=lambda source: _FUNCTION in source and _PARAMETER in source,
    read=_read,
    grammar=marked_grammar,
)
