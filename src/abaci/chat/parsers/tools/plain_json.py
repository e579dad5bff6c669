"""Plain JSON: the whole answer is one call `{"name": ..., "arguments": {...}}` or a list of them, perhaps fenced.

For models whose template teaches no dialect we know. An object is a call only if it names a function that was offered
and says nothing else.
"""

from collections.abc import Callable, Sequence
from typing import Final

from abaci.chat.parsers.dialect import CallGrammar, CallRule, ToolDialect, object_calls
from abaci.chat.parsers.scanner import Scanner, Steps

_FENCES: Final = ("```json", "```")


def read_plain_calls(scanner: Scanner) -> Steps[None]:
    """Read calls that begin the answer, if it begins with any."""
    if not (yield from scanner.next_is("{", "[", *_FENCES, after_space=True)):
        return
    yield from scanner.skip_space()
    fence = yield from scanner.accept(*_FENCES)
    yield from scanner.skip_space()
    if (yield from scanner.accept("[")):
        is_call = yield from scanner.call_list(is_marked=False)
    else:
        is_call = yield from _read_objects(scanner)
    if is_call and fence:
        yield from scanner.close("```")


def _read_objects(scanner: Scanner) -> Steps[bool]:
    """Calls one after the other."""
    is_call = False
    while (yield from scanner.next_is("{")):
        if not (yield from scanner.call_object(is_marked=False)):
            return False
        is_call = True
        yield from scanner.skip_space()
    return is_call


def _grammar(functions: Sequence[CallRule], quote: Callable[[str], str]) -> CallGrammar:
    return CallGrammar(
        None,
        f"({object_calls(functions, quote)})",
        begin=quote("["),
        separator=quote(", "),
        end=quote("]"),
        bare_arguments_key="arguments",
    )


DIALECT: Final = ToolDialect(markers=(), is_spoken_by=lambda source: False, read=read_plain_calls, grammar=_grammar)
