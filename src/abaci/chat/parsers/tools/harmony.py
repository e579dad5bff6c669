"""Harmony, the format of gpt-oss: an answer is messages, each in a channel.

    <|channel|>analysis<|message|>a thought<|end|><|start|>assistant
    <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>
    <|channel|>final<|message|>the answer<|return|>

The prompt ends with `<|start|>assistant`. Whom a message is for may also stand before its channel. Commentary for
nobody is part of the answer, as is a call of what was not offered. (OpenAI, "OpenAI harmony response format".)
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from abaci.chat.parsers.dialect import CallGrammar, CallRule, ToolDialect
from abaci.chat.parsers.scanner import Scanner, Steps

_START: Final = "<|start|>"
_CHANNEL: Final = "<|channel|>"
_CONSTRAIN: Final = "<|constrain|>"
_MESSAGE: Final = "<|message|>"
_ENDS: Final = ("<|end|>", "<|call|>", "<|return|>")
_MARKERS: Final = (_START, _CHANNEL, *_ENDS)
_FUNCTION: Final = re.compile(r"\bto=functions\.([^\s<]+)")


@dataclass(frozen=True, slots=True)
class _Header:
    """What stands before a message."""

    text: str

    @property
    def is_thought(self) -> bool:
        return self.text.lstrip().startswith("analysis")

    @property
    def function(self) -> str | None:
        found = _FUNCTION.search(self.text)
        return found[1] if found else None


def _read(scanner: Scanner) -> Steps[None]:
    before = ""
    if (yield from scanner.next_is("to=", after_space=True)):
        before = yield from scanner.name_until(_CHANNEL)
    marker = yield from scanner.content_until(*_MARKERS, keeps_attempt=True)
    while marker:
        if marker in _ENDS:
            scanner.drop_attempt()
            marker = yield from scanner.content_until(*_MARKERS)
            continue
        header = yield from _read_header(scanner, marker, before)
        before = ""
        if header is None:
            marker = yield from scanner.content_until(*_MARKERS)
        elif header.function is not None and scanner.is_offered(header.function):
            yield from scanner.call(header.function)
            marker = yield from scanner.content_until(*_MARKERS)
        else:
            scanner.drop_attempt()
            until = scanner.thought_until if header.is_thought else scanner.paragraph_until
            marker = yield from until(*_MARKERS)


def _read_header(scanner: Scanner, marker: str, before: str) -> Steps[_Header | None]:
    """The rest of a header whose first marker has been taken; None if none follows."""
    parts = [before]
    if marker == _START:
        role = yield from scanner.name_until(_CHANNEL, _MESSAGE)
        parts.append(role.partition(" ")[2])
        marker = yield from scanner.accept(_CHANNEL, _MESSAGE)
    if marker == _CHANNEL:
        parts.insert(0, (yield from scanner.name_until(_CONSTRAIN, _MESSAGE)))
        if (yield from scanner.accept(_CONSTRAIN)):
            yield from scanner.name_until(_MESSAGE)
        marker = yield from scanner.accept(_MESSAGE)
    return _Header(" ".join(parts)) if marker == _MESSAGE else None


def _grammar(functions: Sequence[CallRule], quote: Callable[[str], str]) -> CallGrammar:
    """One call, after a thought where its end is a token of its own."""
    call = " | ".join(
        f"{quote(_CHANNEL)} {quote(f'commentary to=functions.{function.name} ')} {quote(_CONSTRAIN)} "
        f"{quote('json')} {quote(_MESSAGE)} {function.arguments_rule}"
        for function in functions
    )
    end = quote(_ENDS[0])
    thought = f"{quote(_CHANNEL)} {quote('analysis')} {quote(_MESSAGE)} /(?s:.*)/ {end} {quote(_START)} "
    begin = f"({thought} {quote('assistant')})?" if end.startswith("<[") else ""
    return CallGrammar(None, f"({call})", begin=begin)


DIALECT: Final = ToolDialect(
    markers=(_START, _CHANNEL, _CONSTRAIN, _MESSAGE, *_ENDS),
    is_spoken_by=lambda source: _CHANNEL in source and _MESSAGE in source,
    read=_read,
    grammar=_grammar,
    has_parallel=False,
    has_thoughts=True,
)
