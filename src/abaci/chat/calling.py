"""Tool choices as grammars: a call that must be made, in the model's own dialect, with arguments of the right form.

Three situations have one. A call is required; a function is strict, so that calls, if made, keep to its schema; or the
answer itself must have a form, and a call is the alternative. Knows nothing of messages or templates.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from llguidance import regex_to_lark

from abaci.chat.parsers.dialect import CallRule, ToolDialect
from abaci.chat.tools import Function
from abaci.errors import UsageError
from abaci.formats.tokenizer import Tokenizer
from abaci.generation import Constraint, ConstraintKind

MAX_CALLS: Final = 16
"""In one answer that a grammar holds to calls: a model that cannot stop would otherwise go on to the end."""


_GAP: Final = r"\s{0,8}"
_FENCE: Final = rf"{_GAP}(?:```(?:json)?{_GAP})?"


class CallConstraints:
    """The constraints for one set of functions, with one tokenizer.

    With `after_thought` the answer may begin with the empty line models leave there.
    """

    def __init__(
        self,
        dialect: ToolDialect,
        functions: Sequence[Function],
        tokenizer: Tokenizer,
        *,
        allow_parallel: bool,
        after_thought: bool,
    ) -> None:
        self._functions = functions
        self._special = tokenizer.special_tokens
        self._max_calls = MAX_CALLS if allow_parallel and dialect.has_parallel else 1
        self._space = '"\\n\\n"? ' if after_thought else ""
        self._rules = [CallRule(function.name, f"arguments_{i}") for i, function in enumerate(functions)]
        self._grammar = dialect.grammar(self._rules, self._quote)

    def required(self) -> Constraint:
        """Calls and nothing else."""
        return _lark(f"{self._space}{self._marker()} section", *self._call_rules(keep_all_schemas=True))

    def or_response(self, response: Constraint) -> Constraint:
        """Calls, or an answer of the given form."""
        start = f"{self._space}({self._marker()} section | response)"
        return _lark(start, _response_rule(response), *self._call_rules(keep_all_schemas=True))

    def strict(self) -> Constraint | None:
        """Words, or calls after some words; calls of strict functions keep to their schemas.

        None where no function is strict.
        """
        if not any(function.is_strict for function in self._functions):
            return None
        marker, key = self._grammar.marker, self._grammar.bare_arguments_key
        starts, rules, no_words = ["WORDS"], list(self._call_rules(keep_all_schemas=False)), []
        if key is not None:
            starts.append("bare")
            rules += self._bare_rules(key)
            no_words.append(f"{_FENCE}(?:{'|'.join(map(_head, self._rules))})")
        if marker in self._special:
            starts.append(f"WORDS? {self._marker()} section")
        elif marker is not None:
            starts.append("AHEAD section")
            no_words.append(f"(?s:.*){re.escape(marker)}")
            rules.append(f"AHEAD: ({_words(no_words, 0)}) {self._quote(marker)}")
        return _lark(" | ".join(starts), f"WORDS: {_words(no_words, 1)}", *rules)

    def _bare_rules(self, arguments_key: str) -> Iterator[str]:
        """A call alone, perhaps fenced. Its head is one lexeme: words and calls part only where it is complete."""
        heads = (f"HEAD_{i} {rule.arguments_rule}" for i, rule in enumerate(self._rules))
        yield f"bare: ({' | '.join(heads)}) BARE_END"
        yield f"BARE_END: /{_GAP}\\}}({_GAP}```)?/"
        for i, rule in enumerate(self._rules):
            yield f'HEAD_{i}: /{_FENCE}{_head(rule)}{_GAP},{_GAP}"{arguments_key}"{_GAP}:{_GAP}/'

    def _call_rules(self, *, keep_all_schemas: bool) -> Iterator[str]:
        grammar = self._grammar
        more = f"({grammar.separator} call){{0,{self._max_calls - 1}}}" if self._max_calls > 1 else ""
        yield f"section: {grammar.begin} call {more} {grammar.end}"
        yield f"call: {grammar.call}"
        for rule, function in zip(self._rules, self._functions, strict=True):
            keeps_schema = keep_all_schemas or function.is_strict
            yield f"{rule.arguments_rule}: {_json(function.parameters if keeps_schema else {'type': 'object'})}"

    def _marker(self) -> str:
        return "" if self._grammar.marker is None else self._quote(self._grammar.marker)

    def _quote(self, text: str) -> str:
        """A text in a grammar: the special token of that name, if there is one."""
        token_id = self._special.get(text)
        return json.dumps(text, ensure_ascii=False) if token_id is None else f"<[{token_id}]>"


def _head(rule: CallRule) -> str:
    """The expression of how a call of this function begins."""
    name = re.escape(rule.name).replace("/", r"\/")
    return rf'\{{{_GAP}"name"{_GAP}:{_GAP}"{name}"'


def _words(excluded: Sequence[str], min_characters: int) -> str:
    """The expression of texts that do not begin with any of the given expressions."""
    anything = f"/(?s:.{{{min_characters},}})/"
    return " & ".join([anything, *(f"~/{expression}(?s:.*)/" for expression in excluded)])


def _lark(start: str, *rules: str) -> Constraint:
    return Constraint(ConstraintKind.LARK, "\n".join((f"start: {start}", *rules)) + "\n")


def _json(schema: Any) -> str:
    """A schema in a grammar, in which percent signs would introduce directives, in texts of the schema too."""
    return "%json " + json.dumps(schema).replace("%", r"\u0025")


def _response_rule(response: Constraint) -> str:
    match response.kind:
        case ConstraintKind.JSON_SCHEMA:
            return f"response: {_json(_parsed(response.source))}"
        case ConstraintKind.REGEX:
            return f"response: /(?:{regex_to_lark(response.source, '')})/"
        case ConstraintKind.LARK:
            return f"response: %lark {{\n{response.source}\n}}"


def _parsed(source: str) -> Any:
    try:
        return json.loads(source)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"the JSON schema is not JSON: {error}",
            hint='Check its quotes and commas; a schema is, for example, {"type": "object"}.',
        ) from None
