"""DeepSeek: calls between their own markers, in two forms.

    V3, R1   <｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME, then the arguments in a fenced block, <｜tool▁call▁end｜>
    V3.1     <｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{...}<｜tool▁call▁end｜>

All calls of an answer stand between <｜tool▁calls▁begin｜> and <｜tool▁calls▁end｜>.
"""

from collections.abc import Callable, Sequence
from typing import Final

from abaci.chat.parsers.dialect import CallGrammar, CallRule, ToolDialect
from abaci.chat.parsers.scanner import Scanner, Steps

_CALLS_BEGIN: Final = "<｜tool▁calls▁begin｜>"
_CALLS_END: Final = "<｜tool▁calls▁end｜>"
_CALL_BEGIN: Final = "<｜tool▁call▁begin｜>"
_CALL_END: Final = "<｜tool▁call▁end｜>"
_SEPARATOR: Final = "<｜tool▁sep｜>"


def _read(scanner: Scanner) -> Steps[None]:
    while marker := (yield from scanner.content_until(_CALLS_BEGIN, _CALL_BEGIN)):
        if marker == _CALLS_BEGIN:
            yield from scanner.skip_space()
            if not (yield from scanner.accept(_CALL_BEGIN)):
                continue
        if (yield from _read_call(scanner)):
            yield from scanner.close(_CALL_END)
            yield from scanner.close(_CALLS_END)


def _read_call(scanner: Scanner) -> Steps[bool]:
    name = yield from scanner.name_until(_SEPARATOR)
    yield from scanner.accept(_SEPARATOR)
    yield from scanner.skip_space()
    if not (yield from scanner.next_is("{")):
        name = yield from scanner.name_until("\n")
        yield from scanner.skip_space()
        yield from scanner.accept("```json", "```")
        yield from scanner.skip_space()
    if not name or not (yield from scanner.call(name)):
        return False
    yield from scanner.close("```")
    return True


def _grammar(functions: Sequence[CallRule], quote: Callable[[str], str]) -> CallGrammar:
    """The newer form, which is shorter."""
    call = " | ".join(f"{quote(function.name)} {quote(_SEPARATOR)} {function.arguments_rule}" for function in functions)
    return CallGrammar(_CALLS_BEGIN, f"{quote(_CALL_BEGIN)} ({call}) {quote(_CALL_END)}", end=quote(_CALLS_END))


DIALECT: Final = ToolDialect(
    markers=(_CALLS_BEGIN, _CALLS_END, _CALL_BEGIN, _CALL_END, _SEPARATOR),
    is_spoken_by=lambda source: _CALLS_BEGIN in source,
    read=_read,
    grammar=_grammar,
)
