"""The dialects in which clients prescribe the form of an answer."""

import json

import pytest

from abaci.chat.structured import MAX_GBNF_CHARACTERS, constraint_of
from abaci.errors import UsageError
from abaci.generation import Constraint, ConstraintKind

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
AS_SCHEMA = Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(SCHEMA))
ANY_OBJECT = Constraint(ConstraintKind.JSON_SCHEMA, '{"type": "object"}')
GBNF = 'root ::= "yes" | "no" rest\nrest ::= [a-z]{1,3}'
LARK = 'start: "yes" | "no"'


@pytest.mark.parametrize(
    ("wish", "constraint"),
    [
        ({}, None),
        ({"response_format": None, "grammar": None}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "text"}, "guided_regex": "a"}, Constraint(ConstraintKind.REGEX, "a")),
        ({"response_format": {"type": "json_object"}}, ANY_OBJECT),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, AS_SCHEMA),
        ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, AS_SCHEMA),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "strict": True, "schema": SCHEMA, "description": "d"},
                }
            },
            AS_SCHEMA,
        ),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}}, AS_SCHEMA),
        ({"structured_outputs": {}}, None),
        ({"structured_outputs": {"json": SCHEMA, "regex": None, "disable_fallback": False}}, AS_SCHEMA),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, AS_SCHEMA),
        ({"structured_outputs": {"json_object": True}}, ANY_OBJECT),
        ({"structured_outputs": {"json_object": False}}, None),
        ({"structured_outputs": {"regex": "a+"}}, Constraint(ConstraintKind.REGEX, "a+")),
        ({"structured_outputs": {"grammar": LARK}}, Constraint(ConstraintKind.LARK, LARK)),
        ({"guided_json": SCHEMA}, AS_SCHEMA),
        ({"guided_grammar": LARK}, Constraint(ConstraintKind.LARK, LARK)),
        ({"json_schema": SCHEMA}, AS_SCHEMA),
        ({"json_schema": True}, Constraint(ConstraintKind.JSON_SCHEMA, "true")),
        (
            {"guided_choice": ["yes", 'n"o\n', "é", "yes"]},
            Constraint(ConstraintKind.LARK, 'start: CHOICE\nCHOICE: "yes" | "n\\"o\\n" | "é"\n'),
        ),
    ],
)
def test_every_dialect_says_the_same(wish, constraint):
    assert constraint_of(**wish) == constraint


def test_gbnf_becomes_lark():
    constraint = constraint_of(grammar=GBNF)
    assert constraint == constraint_of(structured_outputs={"grammar": GBNF})
    assert constraint.kind is ConstraintKind.LARK
    assert "start:" in constraint.source
    assert "root" not in constraint.source


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type is 'xml'"),
        ({"response_format": {}}, "response_format.type is None"),
        ({"response_format": "json"}, "response_format is not an object"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema is not an object"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}, "json_schema.schema is missing"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": 1, "schema": {}}}}, "name is not text"),
        ({"response_format": {"type": "json_schema", "json_schema": {"strict": 1, "schema": {}}}}, "strict is neither"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}}, "schema is not a JSON schema"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag is not supported"),
        ({"structured_outputs": {"disable_any_whitespace": True}}, "disable_any_whitespace is not supported"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs has choice, regex"),
        ({"structured_outputs": {"regex": 5}}, "structured_outputs.regex is not a text"),
        ({"structured_outputs": {"json_object": "yes"}}, "json_object is neither"),
        ({"structured_outputs": []}, "structured_outputs is not an object"),
        ({"guided_choice": []}, "guided_choice is not a list"),
        ({"guided_choice": "ab"}, "guided_choice is not a list"),
        ({"guided_choice": ["a", ""]}, r"guided_choice\[1\] is not a text"),
        ({"guided_json": float("nan")}, "guided_json is not a JSON schema"),
        ({"guided_json": {"const": float("nan")}}, "guided_json is not a JSON schema"),
        ({"guided_json": {"const": object()}}, "guided_json is not a JSON schema"),
        ({"grammar": "hello"}, "grammar is neither GBNF nor Lark"),
        ({"grammar": 'other ::= "a"'}, "grammar is neither GBNF nor Lark"),
        ({"grammar": "root ::= missing"}, "grammar is neither GBNF nor Lark"),
        ({"grammar": "root ::= " + "(" * 5000}, "grammar is nested too deeply"),
        ({"grammar": "root ::= " + '"a" ' * MAX_GBNF_CHARACTERS}, "characters of GBNF"),
        ({"grammar": LARK, "json_schema": {}}, "grammar and json_schema each prescribe"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "response_format and guided_regex each"),
    ],
)
def test_every_refusal_names_the_field(wish, message):
    with pytest.raises(UsageError, match=message):
        constraint_of(**wish)


def test_a_schema_that_refers_to_itself_is_refused():
    endless = {}
    endless["items"] = endless
    with pytest.raises(UsageError, match="json_schema is not a JSON schema"):
        constraint_of(json_schema=endless)
