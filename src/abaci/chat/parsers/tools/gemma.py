"""Gemma 4: `<|tool_call>call:NAME{key:value,...}<tool_call|>`, values nearly JSON.

A text stands between `<|"|>` and `<|"|>`, as it is; keys may too, or stand bare. Numbers, true, false, null, lists and
objects are as in JSON. A call that a grammar holds has JSON between the braces, which is read here too.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from abaci.chat.parsers.dialect import CallGrammar, CallRule, ToolDialect
from abaci.chat.parsers.scanner import Scanner, Steps

_OPEN: Final = "<|tool_call>"
_CLOSE: Final = "<tool_call|>"
_CALL: Final = "call:"
_QUOTE: Final = '<|"|>'
_TEXT: Final = re.compile(re.escape(_QUOTE) + "(.*?)" + re.escape(_QUOTE), re.DOTALL)
_JSON_TEXT: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BARE_KEY: Final = re.compile(r"(?<=[{,])(\s*)([^\s{}\[\],:\"]+)(\s*:)")


def _read(scanner: Scanner) -> Steps[None]:
    while (yield from scanner.content_until(_OPEN)):
        yield from scanner.skip_space()
        yield from scanner.accept(_CALL)
        name = yield from scanner.name_until("{")
        written = yield from scanner.text_until(_CLOSE)
        if not name or written is None or (arguments := _arguments(written)) is None:
            continue
        scanner.whole_call(name, arguments)
        yield from scanner.close(_CLOSE)


def _arguments(written: str) -> str | None:
    """As JSON; None for what is no object."""
    texts: list[str] = []

    def keep(text: str) -> str:
        texts.append(text)
        return f'"{len(texts) - 1}"'

    try:
        parts = _split_texts(written)
        shape = "".join(keep(part) if index % 2 else part for index, part in enumerate(parts))
        value = json.loads(_BARE_KEY.sub(lambda key: f"{key[1]}{keep(key[2])}{key[3]}", shape))
        said = json.dumps(_with_texts(value, texts), ensure_ascii=False, allow_nan=False)
        said.encode()
    except (ValueError, RecursionError):
        return None
    return said if isinstance(value, dict) else None


def _split_texts(written: str) -> list[str]:
    """What is no text, and texts, in turns. JSON's quotes count too, outside the others. Raises ValueError."""
    parts, position, begin = [], 0, 0
    while position < len(written):
        if found := _TEXT.match(written, position):
            text = found[1]
        elif found := _JSON_TEXT.match(written, position):
            text = str(json.loads(found[0], strict=False))
        else:
            position += 1
            continue
        parts += [written[begin:position], text]
        begin = position = found.end()
    return [*parts, written[begin:]]


def _with_texts(value: Any, texts: Sequence[str]) -> Any:
    """Every text in the value stands for one of those kept."""
    if isinstance(value, str):
        return texts[int(value)]
    if isinstance(value, dict):
        return {texts[int(key)]: _with_texts(item, texts) for key, item in value.items()}
    return [_with_texts(item, texts) for item in value] if isinstance(value, list) else value


def _grammar(functions: Sequence[CallRule], quote: Callable[[str], str]) -> CallGrammar:
    calls = " | ".join(f"{quote(_CALL + function.name)} {function.arguments_rule}" for function in functions)
    return CallGrammar(_OPEN, f"({calls}) {quote(_CLOSE)}", separator=quote(_OPEN))


DIALECT: Final = ToolDialect(
    markers=(_OPEN, _CLOSE, _QUOTE), is_spoken_by=lambda source: _OPEN in source, read=_read, grammar=_grammar
)
