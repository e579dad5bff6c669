"""Tool choices as grammars: every text of the grammar is read back as calls whose arguments keep to their schemas."""

import json
import random

import jsonschema
import llguidance
import numpy as np
import pytest
from small_vocabulary import small_tokenizer

from abaci.chat.calling import MAX_CALLS, CallConstraints
from abaci.chat.parsers import tool_dialects
from abaci.chat.parsers.pieces import CallArguments, CallBegun, Content
from abaci.chat.parsers.scanner import Scanner
from abaci.chat.tools import Function
from abaci.generation import Constraint, ConstraintKind

DIALECTS = sorted(tool_dialects())
SPECIAL = [
    *("<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    *("<|tool_call>", "<tool_call|>"),
    *("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>"),
    *("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"),
]
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", 'a "b"', "é"]}, "days": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTIONS = (Function("get_weather", CITY), Function("now", {"type": "object", "properties": {}, "maxProperties": 0}))
STRICT = (Function("get_weather", CITY, is_strict=True),)


@pytest.fixture(scope="module", params=["markers are tokens", "markers are text"])
def tokenizer(request):
    return small_tokenizer(more_special=SPECIAL if request.param == "markers are tokens" else ())


class Bytes:
    """The vocabulary as the library wants it."""

    def __init__(self, tokenizer):
        self.tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        self.special_token_ids = list(tokenizer.special_tokens.values())
        self.eos_token_id = tokenizer.eos_token_id
        self.bos_token_id = None

    def __call__(self, text):
        return list(text if isinstance(text, bytes) else text.encode())


def matcher(constraint, tokenizer):
    assert constraint.kind is ConstraintKind.LARK
    vocabulary = llguidance.LLTokenizer(
        llguidance.TokenizerWrapper(Bytes(tokenizer)), n_vocab=tokenizer.vocab_size, slices=[]
    )
    found = llguidance.LLMatcher(vocabulary, llguidance.grammar_from("lark", constraint.source))
    assert not found.get_error()
    return found


def accepts(constraint, tokenizer, text):
    found, token_ids = matcher(constraint, tokenizer), tokenizer.encode(text, add_bos=False, allow_special=True)
    return (
        found.validate_tokens(token_ids) == len(token_ids) and found.consume_tokens(token_ids) and found.is_accepting()
    )


def walk(constraint, tokenizer, seed, max_tokens=3000):
    """A text of the grammar, drawn token by token; it ends as soon as it may, one time in two."""
    drawn, found, token_ids = random.Random(seed), matcher(constraint, tokenizer), []
    for _ in range(max_tokens):
        mask = np.frombuffer(found.compute_bitmask(), dtype=np.uint32)
        allowed = [i for i in range(tokenizer.vocab_size) if mask[i // 32] >> (i % 32) & 1]
        may_end = tokenizer.eos_token_id in allowed
        if may_end and (len(allowed) == 1 or drawn.random() < 0.5):
            return tokenizer.decode(token_ids, skip_special=False)
        token_ids.append(drawn.choice([i for i in allowed if i != tokenizer.eos_token_id]))
        assert found.consume_token(token_ids[-1])
    raise AssertionError("the grammar does not end")


def read(dialect, text, functions, *, is_certain):
    scanner = Scanner(tool_dialects()[dialect].read, [f.name for f in functions], is_certain=is_certain)
    pieces = [*(piece for part in text for piece in scanner.push(part)), *scanner.finish()]
    calls = []
    for piece in pieces:
        if isinstance(piece, CallBegun):
            calls.append([piece.name, ""])
        elif isinstance(piece, CallArguments):
            calls[-1][1] += piece.text
    content = "".join(piece.text for piece in pieces if isinstance(piece, Content))
    return content, [(name, json.loads(arguments)) for name, arguments in calls]


def constraints(dialect, functions, tokenizer, *, allow_parallel=True, after_thought=False):
    return CallConstraints(
        tool_dialects()[dialect], functions, tokenizer, allow_parallel=allow_parallel, after_thought=after_thought
    )


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("allow_parallel", [True, False])
def test_required_calls_are_calls_and_keep_to_their_schemas(dialect, allow_parallel, tokenizer):
    required = constraints(
        dialect, FUNCTIONS, tokenizer, allow_parallel=allow_parallel, after_thought=allow_parallel
    ).required()
    schemas = {function.name: function.parameters for function in FUNCTIONS}
    nums = set()
    for seed in range(6):
        text = walk(required, tokenizer, seed)
        content, calls = read(dialect, text, FUNCTIONS, is_certain=True)
        assert content == ""
        nums.add(len(calls))
        for name, arguments in calls:
            jsonschema.validate(arguments, schemas[name])
        assert read(dialect, text, FUNCTIONS, is_certain=False) == ("", calls)
    assert 0 not in nums
    assert max(nums) <= MAX_CALLS
    if not allow_parallel:
        assert nums == {1}


@pytest.mark.parametrize("dialect", [name for name in DIALECTS if tool_dialects()[name].has_parallel])
def test_several_calls_are_possible(dialect, tokenizer):
    required = constraints(dialect, FUNCTIONS, tokenizer).required()
    assert any(len(read(dialect, walk(required, tokenizer, i), FUNCTIONS, is_certain=True)[1]) > 1 for i in range(20))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("response", "text"),
    [
        (Constraint(ConstraintKind.JSON_SCHEMA, '{"type": "object", "properties": {"x": {"const": 1}}}'), '{"x": 1}'),
        (Constraint(ConstraintKind.REGEX, r"a/b\/c\\[\n]d\{"), "a/b/c\\\nd{"),
        (Constraint(ConstraintKind.REGEX, "/+\n|x"), "///\n"),
        (Constraint(ConstraintKind.LARK, 'start: call "}"\ncall: "{" /[a-z]+/'), "{abc}"),
    ],
)
def test_calls_or_a_response(dialect, response, text, tokenizer):
    either = constraints(dialect, FUNCTIONS, tokenizer).or_response(response)
    assert accepts(either, tokenizer, text)
    assert not accepts(either, tokenizer, text + "!")
    assert read(dialect, text, FUNCTIONS, is_certain=False) == (text, [])
    call = walk(constraints(dialect, FUNCTIONS, tokenizer).required(), tokenizer, 1)
    assert accepts(either, tokenizer, call)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_strict_functions_bind_calls_and_leave_words_free(dialect, tokenizer):
    strict = constraints(dialect, STRICT, tokenizer).strict()
    for words in (
        "Hello, <world>.",
        "\n\nYes {",
        "a [TOOL",
        '{"name": "Ada", "x": 1}',
        "```json\n[1]\n```",
        "{}",
        '{"na',
    ):
        assert accepts(strict, tokenizer, words)
        assert read(dialect, words, STRICT, is_certain=False) == (words, [])


@pytest.mark.parametrize("dialect", [name for name in DIALECTS if not tool_dialects()[name].has_thoughts])
def test_calls_of_strict_functions_keep_to_their_schemas(dialect, tokenizer):
    strict = constraints(dialect, STRICT, tokenizer).strict()
    key = {"llama3": "parameters"}.get(dialect, "arguments")
    bare = f'{{"name": "get_weather", "{key}": {{"city": "Paris"}}}}'
    marked = walk(constraints(dialect, STRICT, tokenizer).required(), tokenizer, 2)
    calls = {
        "llama3": [bare],
        "plain_json": [bare, f"```json\n{bare}\n```"],
        "hermes": [bare, f"```json\n{bare}\n```", marked, "Let me see.\n" + marked],
        "mistral": [marked, "Let me see.\n" + marked],
        "deepseek": [marked, "Let me see.\n" + marked],
        "function_tags": [marked, "Let me see.\n" + marked],
        "argument_tags": [marked, "Let me see.\n" + marked],
        "gemma": [marked, "Let me see.\n" + marked],
    }
    for call in calls[dialect]:
        assert accepts(strict, tokenizer, call)
        assert len(read(dialect, call, STRICT, is_certain=False)[1]) >= 1
        broken = call.replace('"city"', '"town"')
        assert broken != call
        assert not accepts(strict, tokenizer, broken)


def test_percent_signs_in_schemas_are_no_directives(tokenizer):
    schema = {"type": "object", "properties": {"x": {"const": "100 %json"}}, "required": ["x"], "title": "%llguidance"}
    required = constraints("plain_json", [Function("f", schema)], tokenizer).required()
    assert required.source.count("%") == 1
    assert accepts(required, tokenizer, '[{"name": "f", "arguments": {"x": "100 %json"}}]')


@pytest.mark.parametrize("dialect", DIALECTS)
def test_without_strict_functions_nothing_is_bound(dialect, tokenizer):
    assert constraints(dialect, FUNCTIONS, tokenizer).strict() is None


def test_the_empty_line_after_a_thought_is_allowed_there_only(tokenizer):
    call = walk(constraints("hermes", STRICT, tokenizer).required(), tokenizer, 3)
    assert accepts(constraints("hermes", STRICT, tokenizer, after_thought=True).required(), tokenizer, "\n\n" + call)
    assert not accepts(constraints("hermes", STRICT, tokenizer).required(), tokenizer, "\n\n" + call)


def test_markers_are_tokens_where_the_vocabulary_has_them():
    tokenizer = small_tokenizer(more_special=SPECIAL)
    required = constraints("mistral", STRICT, tokenizer).required()
    marker = tokenizer.special_tokens["[TOOL_CALLS]"]
    found = matcher(required, tokenizer)
    mask = np.frombuffer(found.compute_bitmask(), dtype=np.uint32)
    assert [i for i in range(tokenizer.vocab_size) if mask[i // 32] >> (i % 32) & 1] == [marker]
