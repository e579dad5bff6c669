"""GLM-4.5 and newer: the function's name, then keys and values in tags, values that are text as they are.

    <tool_call>NAME
    <arg_key>KEY</arg_key>
    <arg_value>value</arg_value>
    </tool_call>

Line breaks between the tags come and go with the version. A call that a grammar holds is written as Hermes does, which
says the same and is read here too.
"""

import json
from typing import Any, Final

from abaci.chat.parsers.dialect import ToolDialect
from abaci.chat.parsers.scanner import Scanner, Steps
from abaci.chat.parsers.tools.hermes import marked_grammar
from abaci.chat.parsers.typed_values import schema_of, typed_value

_OPEN: Final = "<tool_call>"
_CLOSE: Final = "</tool_call>"
_KEY: Final = "<arg_key>"
_KEY_END: Final = "</arg_key>"
_VALUE: Final = "<arg_value>"
_VALUE_END: Final = "</arg_value>"


def _read(scanner: Scanner) -> Steps[None]:
    while (yield from scanner.content_until(_OPEN)):
        yield from scanner.skip_space()
        if (yield from scanner.next_is("{")):
            if (yield from scanner.call_object()):
                yield from scanner.close(_CLOSE)
        else:
            yield from _read_call(scanner)


def _read_call(scanner: Scanner) -> Steps[bool]:
    name = yield from scanner.name_until(_KEY, _CLOSE)
    arguments: dict[str, Any] = {}
    schema = scanner.parameters(name)
    while (yield from scanner.accept(_KEY)):
        key = yield from scanner.name_until(_KEY_END)
        yield from scanner.accept(_KEY_END)
        yield from scanner.skip_space()
        if not key or not (yield from scanner.accept(_VALUE)):
            return False
        value = yield from scanner.text_until(_VALUE_END)
        if value is None:
            return False
        yield from scanner.accept(_VALUE_END)
        arguments[key] = typed_value(value, schema_of(schema, key))
        yield from scanner.skip_space()
    is_closed = yield from scanner.accept(_CLOSE)
    return bool(name and is_closed) and scanner.whole_call(name, json.dumps(arguments, ensure_ascii=False))


DIALECT: Final = ToolDialect(
    markers=(_OPEN, _CLOSE, _KEY, _KEY_END, _VALUE, _VALUE_END),
    is_spoken_by=lambda source: _KEY in source and _VALUE in source,
    read=_read,
    grammar=marked_grammar,
)
