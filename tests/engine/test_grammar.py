"""Constraints compiled and followed: every text drawn at random under one has the form, and none costs too much."""

import json
import random
import re

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from abaci.engine.grammar import NUM_CACHED, GrammarCompiler, GrammarError, Vocabulary
from abaci.engine.json_schema import LARGEST_NUMBER
from abaci.errors import UsageError
from abaci.generation import Constraint, ConstraintKind

TOKENS = [bytes([byte]) for byte in range(256)]
TOKENS += [b'{"', b'": ', b'", "', b"true", b"null", b"\n  ", b"    ", b"12", b" the", "é".encode(), b"", b"<special>"]
SPECIAL = len(TOKENS) - 1
VOCAB_SIZE = len(TOKENS) + 5  # as where a model has more logits than its tokenizer has tokens


def make_compiler():
    return GrammarCompiler(lambda: Vocabulary(TOKENS, frozenset({SPECIAL})), VOCAB_SIZE)


@pytest.fixture(scope="module")
def compiler():
    return make_compiler()


def json_schema(schema):
    return Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(schema))


def regex(source):
    return Constraint(ConstraintKind.REGEX, source)


def lark(source):
    return Constraint(ConstraintKind.LARK, source)


def allowed(matcher):
    row = np.zeros(-(-VOCAB_SIZE // 32), np.uint32)
    matcher.allow(row)
    return np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist()


def walk(matcher, seed, num_tokens=400):
    """A random text of the form; None where the walk was too long to see its end. It hurries after a while."""
    chance = random.Random(seed)
    output = []
    while len(output) < num_tokens:
        choices = allowed(matcher)
        assert choices or matcher.is_complete, "a dead end"
        if matcher.is_complete and (not choices or len(output) > 5):
            return b"".join(TOKENS[token] for token in output)
        closing = [token for token in choices if TOKENS[token][:1] in b'"}],' and TOKENS[token]]
        if len(output) > 20 and closing:
            choices = closing
        output.append(chance.choice(choices))
        matcher.consume(output[-1])
    return None


whole_numbers = st.integers(-LARGEST_NUMBER, LARGEST_NUMBER)
scalars = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(
        lambda low, size: {"type": "integer", "minimum": low, "maximum": low + size},
        st.integers(-99, 99),
        st.integers(0, 200),
    ),
    st.builds(
        lambda low, size: {"type": "string", "minLength": low, "maxLength": low + size},
        st.integers(0, 3),
        st.integers(0, 6),
    ),
    st.builds(
        lambda values: {"enum": values},
        st.lists(st.one_of(st.text(max_size=5), whole_numbers, st.booleans()), min_size=1, max_size=4),
    ),
    st.sampled_from(["^[a-c]{2,5}$", "^x?[0-9]+y$", "[αβ]"]).map(
        lambda pattern: {"type": "string", "pattern": pattern}
    ),
    st.sampled_from(["date", "date-time", "uuid", "ipv4"]).map(lambda name: {"type": "string", "format": name}),
    st.builds(lambda value: {"const": value}, st.one_of(st.text(max_size=4), st.none(), whole_numbers)),
)
names = st.text('abcdé "\\\n', min_size=1, max_size=4)


def objects(inner):
    return st.builds(
        lambda properties, dropped, extra: {
            "type": "object",
            "properties": properties,
            "required": [name for index, name in enumerate(properties) if index not in dropped],
            "additionalProperties": extra,
        },
        st.dictionaries(names, inner, max_size=3),
        st.sets(st.integers(0, 2)),
        st.sampled_from([False, {"type": "integer"}]),
    )


def arrays(inner):
    return st.builds(
        lambda items, low, size: {"type": "array", "items": items, "minItems": low, "maxItems": low + size},
        inner,
        st.integers(0, 2),
        st.integers(0, 2),
    )


schemas = st.recursive(
    scalars,
    lambda inner: st.one_of(
        objects(inner), arrays(inner), st.lists(inner, min_size=1, max_size=3).map(lambda several: {"anyOf": several})
    ),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(schemas, st.integers(0, 2**32))
def test_every_text_of_a_schema_is_valid_under_it(compiler, schema, seed):
    text = walk(compiler.compile(json_schema(schema)).start(), seed)
    if text is not None:
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))


def test_texts_of_a_large_schema_come_to_an_end(compiler):
    schema = {"type": "array", "maxItems": 2, "items": {"type": "object", "properties": {"a": {"type": "integer"}}}}
    texts = [walk(compiler.compile(json_schema(schema)).start(), seed) for seed in range(20)]
    assert sum(text is not None for text in texts) > 10
    for text in filter(None, texts):
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize("pattern", ["[a-z]{3,8}", "(ab|cd)*x", r"\d{4}-\d\d", "a/b|c\\\\d|\\n", "^yes$", "é+", "a?"])
def test_every_text_of_an_expression_matches_all_of_it(compiler, pattern):
    for seed in range(10):
        text = walk(compiler.compile(regex(pattern)).start(), seed, num_tokens=60)
        if text is not None:
            assert re.fullmatch(pattern, text.decode()), text


def test_an_empty_expression_asks_for_no_text(compiler):
    assert walk(compiler.compile(regex("")).start(), 0) == b""


def test_a_grammar_can_name_special_tokens_and_hold_schemas(compiler):
    schema = {"type": "object", "properties": {"k": {"type": "integer", "maximum": 9}}, "required": ["k"]}
    source = f'start: "a" <[{SPECIAL}]> %json {json.dumps(schema | {"additionalProperties": False})} "z"'
    text = walk(compiler.compile(lark(source)).start(), 3)
    begin, _, rest = text.partition(b"<special>")
    assert begin == b"a"
    assert rest.endswith(b"z")
    assert json.loads(rest[:-1])["k"] <= 9


def test_no_other_text_reaches_special_empty_or_unknown_tokens(compiler):
    choices = allowed(compiler.compile(regex("(?s:.)*")).start())
    assert set(choices) >= set(range(128))
    assert not set(choices) & {SPECIAL, SPECIAL - 1, *range(len(TOKENS), VOCAB_SIZE + 32)}


def test_all_spellings_of_a_forced_text_are_allowed(compiler):
    choices = allowed(compiler.compile(json_schema({"const": True})).start())
    assert sorted(choices) == [ord("t"), TOKENS.index(b"true")]


def test_space_between_tokens_of_json_is_bounded(compiler):
    schema = {"type": "array", "minItems": 1, "maxItems": 1, "items": {"type": "boolean"}}
    matcher = compiler.compile(json_schema(schema)).start()
    output = b""
    for _ in range(300):
        spaces = [token for token in allowed(matcher) if TOKENS[token].isspace()]
        token = spaces[0] if spaces else allowed(matcher)[0] if allowed(matcher) else None
        if token is None:
            break
        matcher.consume(token)
        output += TOKENS[token]
    assert json.loads(output) in ([True], [False])
    assert 60 < len(output) < 200


@pytest.mark.parametrize("style", [{}, {"indent": 2}, {"indent": 4}, {"separators": (",", ":")}])
def test_usual_styles_of_json_are_allowed(compiler, style):
    matcher = compiler.compile(json_schema({"type": "object"})).start()
    for byte in json.dumps({"a": [1, {"b": None}], "c": "d"}, **style).encode():
        assert byte in allowed(matcher)
        matcher.consume(byte)
    assert matcher.is_complete


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (json_schema({"not": {"type": "string"}}), "'not' at schema"),
        (json_schema({"properties": {"a": {"anyOf": [{"not": {}}]}}}), r"'not' at schema.properties.a.anyOf\[0\]"),
        (json_schema({"type": "array", "uniqueItems": True}), "'uniqueItems' at schema"),
        (json_schema({"type": "string", "nullable": True}), "'nullable' at schema"),
        (json_schema({"type": "string", "minLenght": 3}), "'minLenght'"),
        (json_schema({"x-guidance": {"lenient": True}}), "'x-guidance'"),
        (json_schema({"type": "string", "format": "nonsense"}), "nonsense"),
        (json_schema({"type": "nope"}), "nope"),
        (json_schema({"$ref": "http://127.0.0.1:9/x"}), "cannot be used"),
        (json_schema({"minimum": 10**400}), "minimum at schema .* beyond"),
        (json_schema({"enum": [1, {"a": [2**53 + 1]}]}), "enum at schema .* 9007199254740993, which is beyond"),
        (json_schema({"items": {"const": -(2**53) - 1}}), "const at schema.items .* beyond"),
        (json_schema({"type": "integer", "minimum": 5, "maximum": 3}), "cannot be used"),
        (json_schema({"$defs": {"n": {"$ref": "#/$defs/n"}}, "$ref": "#/$defs/n"}), "cannot be used"),
        (json_schema(False), "not an object"),
        (json_schema([]), "not an object"),
        (Constraint(ConstraintKind.JSON_SCHEMA, "{"), "is not JSON"),
        (Constraint(ConstraintKind.JSON_SCHEMA, '{"const": NaN}'), "is not JSON"),
        (Constraint(ConstraintKind.JSON_SCHEMA, '{} {}'), "something follows"),
        (regex("(?=a)b"), "look-around"),
        (regex(r"(a)\1"), "backreferences"),
        (regex("a("), "unclosed"),
        (regex(r"[^\s\S]"), "cannot be used"),
        (lark("start: other"), "cannot be used"),
        (lark("start: start"), "cannot be used"),
        (lark('%llguidance {"no_forcing": false}\nstart: "a"'), "options"),
        (lark('start: %json {"not": {}}'), "'not'"),
        (lark('start: %json {"type"'), "is not JSON"),
    ],
)  # fmt: skip
def test_what_cannot_be_enforced_is_refused_by_name(compiler, constraint, message):
    with pytest.raises(UsageError, match=message):
        compiler.compile(constraint)


HOSTILE = {
    "a schema nested without end": Constraint(ConstraintKind.JSON_SCHEMA, '{"items":' * 40_000),
    "a schema nested deeply": Constraint(ConstraintKind.JSON_SCHEMA, '{"items":' * 70 + "{}" + "}" * 70),
    "a long chain of references": json_schema(
        {"$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(3000)}, "$ref": "#/$defs/d0"}
    ),
    "an object of many properties": json_schema({"properties": {f"p{i}": {} for i in range(6000)}}),
    "a multiple of a large number": json_schema({"multipleOf": 99999989}),
    "a multiple of many numbers": json_schema({"allOf": [{"multipleOf": p} for p in (7, 11, 13, 17, 19, 23, 29)]}),
    "branches that multiply": json_schema(
        {"allOf": [{"anyOf": [{"properties": {f"p{i}{j}": {}}} for j in range(8)]} for i in range(6)]}
    ),
    "an expression too long": regex("a*" * 10_000),
    "a long chain of rules": lark("\n".join(["start: r0", *(f"r{i}: r{i + 1}" for i in range(3000)), 'r3000: "a"'])),
    "a group in a group": lark('start: "a"\nb: ' + "(" * 3000 + '"a"' + ")" * 3000),
    "a schema within a grammar": lark(f"start: %json {json.dumps({'properties': {f'p{i}': {} for i in range(900)}})}"),
    "much text": lark("start: " + '"a" ' * 50_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_constraints_are_refused(compiler, name):
    with pytest.raises(UsageError):
        compiler.compile(HOSTILE[name])


def test_an_ambiguous_grammar_is_stopped(compiler):
    """A text can be read in as many ways as it can be cut into pieces of pieces."""
    matcher = compiler.compile(lark('start: ((x{1,100}){1,100}){1,100}\nx: "a" | "b"')).start()
    with pytest.raises(GrammarError, match=r"too long to follow|too much work"):
        follow(matcher)


def test_what_one_request_spent_is_not_counted_against_the_next(compiler):
    """An automaton of more states than one request may make."""
    constraint = regex("((((a{0,9}){0,9}){0,9}){0,9}){0,9}b")
    counts = []
    for _ in range(3):
        with pytest.raises(GrammarError, match="too much work") as raised:
            follow(compiler.compile(constraint).start())
        counts.append(len(raised.value.output))
    assert len(set(counts)) == 1
    assert counts[0] > 3


def follow(matcher):
    """Give `a` for as long as it goes."""
    output = []
    try:
        while len(output) < 400:
            assert ord("a") in allowed(matcher)
            output.append(ord("a"))
            matcher.consume(output[-1])
    except GrammarError as error:
        error.output = output
        raise


def test_the_vocabulary_is_read_once_and_not_before_it_is_needed():
    calls = []

    def vocabulary():
        calls.append(1)
        return Vocabulary(TOKENS, frozenset({SPECIAL}))

    compiler = GrammarCompiler(vocabulary, VOCAB_SIZE)
    assert not calls
    for source in ("a", "b", "a"):
        compiler.compile(regex(source)).start()
    assert len(calls) == 1


def test_more_constraints_than_are_remembered_work_as_well():
    compiler = make_compiler()
    grammars = [compiler.compile(regex(f"x{index}")) for index in range(NUM_CACHED + 5)]
    for index, grammar in enumerate(grammars):
        assert walk(grammar.start(), 0) == f"x{index}".encode()


def test_without_a_vocabulary_constraints_are_refused():
    with pytest.raises(UsageError, match="no vocabulary"):
        GrammarCompiler(None, 10).compile(regex("a"))
