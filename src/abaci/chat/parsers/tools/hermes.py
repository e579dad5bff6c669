"""Hermes and Qwen: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, one pair of tags for each call.

A call counts once its object is complete: models forget the closing tag at the end of an answer. Some, Qwen2.5-Coder
above all, forget both and write the object alone, or fenced: an answer that begins so is read as plain JSON.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from abaci.chat.parsers.dialect import CallGrammar, CallRule, ToolDialect, object_calls
from abaci.chat.parsers.scanner import Scanner, Steps
from abaci.chat.parsers.tools.plain_json import read_plain_calls

_OPEN: Final = "<tool_call>"
_CLOSE: Final = "</tool_call>"


def _read(scanner: Scanner) -> Steps[None]:
    yield from read_plain_calls(scanner)
    while (yield from scanner.content_until(_OPEN)):
        yield from scanner.skip_space()
        if (yield from scanner.call_object()):
            yield from scanner.close(_CLOSE)


def marked_grammar(functions: Sequence[CallRule], quote: Callable[[str], str]) -> CallGrammar:
    """Of calls that have their tags."""
    call = f"{quote(chr(10))} ({object_calls(functions, quote)}) {quote(chr(10))} {quote(_CLOSE)}"
    separator = f"{quote(chr(10))} {quote(_OPEN)}"
    return CallGrammar(_OPEN, call, separator=separator)


def _grammar(functions: Sequence[CallRule], quote: Callable[[str], str]) -> CallGrammar:
    return replace(marked_grammar(functions, quote), bare_arguments_key="arguments")


DIALECT: Final = ToolDialect(
    markers=(_OPEN, _CLOSE), is_spoken_by=lambda source: _OPEN in source, read=_read, grammar=_grammar
)
