"""What a tool dialect is: how a model writes calls, read (`read`) and prescribed (`grammar`)."""

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from abaci.chat.parsers.scanner import Scanner, Steps


def _openai_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True)
class CallRule:
    """A function as a rule of a grammar: its name, and the name of the rule of its arguments."""

    name: str
    arguments_rule: str


@dataclass(frozen=True, slots=True)
class CallGrammar:
    """Lark expressions of a dialect. All calls of an answer are: marker begin call (separator call)* end.

    `marker` is the text itself: where it comes, words end and calls begin. None: the answer is calls from its first
    character on, or has none. `bare_arguments_key` is that of calls without any marker, where the dialect reads them.
    """

    marker: str | None
    call: str
    begin: str = ""
    separator: str = ""
    end: str = ""
    bare_arguments_key: str | None = None


@dataclass(frozen=True, slots=True)
class ToolDialect:
    """One way to write tool calls.

    markers        that may be tokens of their own, which the text must then show.
    is_spoken_by   whether a chat template teaches this dialect, from its source.
    read           splits an answer into content and calls.
    grammar        of a call of any of the given functions; the function it is given quotes a text, or names the token
                   that the text is in this vocabulary.
    new_call_id    an id as the dialect's template wants it back.
    has_parallel   whether one answer may hold several calls.
    has_thoughts   whether thoughts, calls and the answer itself are messages of their own, all read here: a form asked
                   of the answer then leaves calls alone, and strict functions bind only calls that must be made.
    """

    markers: tuple[str, ...]
    is_spoken_by: Callable[[str], bool]
    read: Callable[[Scanner], Steps[None]]
    grammar: Callable[[Sequence[CallRule], Callable[[str], str]], CallGrammar]
    new_call_id: Callable[[], str] = _openai_call_id
    has_parallel: bool = True
    has_thoughts: bool = False


def object_calls(functions: Sequence[CallRule], quote: Callable[[str], str], arguments_key: str = "arguments") -> str:
    """The Lark expression of one call written as an object with name and arguments.

    Sign by sign, as JSON grammars are made: where an answer may also be other JSON, both begin with the same lexemes.
    """
    space, colon, comma = quote(" "), quote(":"), quote(",")
    return " | ".join(
        f"{quote('{')} {quote(json.dumps('name'))} {colon} {space} {quote(json.dumps(function.name))} {comma} {space} "
        f"{quote(json.dumps(arguments_key))} {colon} {space} {function.arguments_rule} {quote('}')}"
        for function in functions
    )
