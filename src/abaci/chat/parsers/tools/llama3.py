"""Llama 3: the whole answer is `{"name": ..., "parameters": {...}}`, after `<|python_tag|>` or bare.

Several are separated by semicolons. A bare object is a call only if it names a function that was offered. What follows
the tag and is no call (code for an interpreter) stays content.
"""

from collections.abc import Callable, Sequence
from typing import Final

from abaci.chat.parsers.dialect import CallGrammar, CallRule, ToolDialect, object_calls
from abaci.chat.parsers.scanner import Scanner, Steps

_TAG: Final = "<|python_tag|>"


def _read(scanner: Scanner) -> Steps[None]:
    if (yield from scanner.next_is("{", after_space=True)):
        yield from _read_calls(scanner)
    while (yield from scanner.content_until(_TAG)):
        yield from _read_calls(scanner)


def _read_calls(scanner: Scanner) -> Steps[None]:
    yield from scanner.skip_space()
    while (yield from scanner.call_object(is_marked=False)) and (yield from scanner.close(";")):
        yield from scanner.skip_space()


def _is_spoken_by(source: str) -> bool:
    return _TAG in source or '"parameters": dictionary of argument name' in source


def _grammar(functions: Sequence[CallRule], quote: Callable[[str], str]) -> CallGrammar:
    return CallGrammar(None, object_calls(functions, quote, "parameters"), bare_arguments_key="parameters")


DIALECT: Final = ToolDialect(
    markers=(_TAG,),
    is_spoken_by=_is_spoken_by,
    read=_read,
    grammar=_grammar,
    has_parallel=False,  # its templates refuse a history with several
)
