"""Text as JSON values: the schema decides, what does not fit stays text, and whatever comes out can be said as JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abaci.chat.parsers.typed_values import schema_of, typed_value


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("5", {"type": "string"}, "5"),
        ("5", {"type": "integer"}, 5),
        ("5.0", {"type": "integer"}, 5),
        ("5.5", {"type": "integer"}, "5.5"),
        ("5", {"type": "number"}, 5),
        ("-2.5e3", {"type": "number"}, -2500.0),
        ("True", {"type": "boolean"}, True),
        (" false ", {"type": "boolean"}, False),
        ("1", {"type": "boolean"}, "1"),
        ("None", {"type": ["integer", "null"]}, None),
        ("null", {"type": ["string", "null"]}, None),
        ("null", {"type": "string"}, "null"),
        ('{"a": [1]}', {"type": "object"}, {"a": [1]}),
        ("[1, 2", {"type": "array"}, "[1, 2"),
        ("{}", {"type": "array"}, "{}"),
        ("5", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, 5),
        ("5", {"anyOf": [{"type": "integer"}, {"type": "string"}]}, "5"),
        ("2", {"enum": [1, 2]}, 2),
        ("2", {"enum": ["1", "2"]}, "2"),
        ("5", None, 5),
        ('"5"', None, '"5"'),
        ("five", None, "five"),
        ("1E400", {"type": "number"}, "1E400"),
        ("NaN", {"type": "number"}, "NaN"),
        ('["\\ud800"]', {"type": "array"}, '["\\ud800"]'),
        ("5", {"type": 3, "anyOf": 7, "enum": "x"}, 5),
    ],
)
def test_values(text, schema, value):
    found = typed_value(text, schema)
    assert (found, type(found)) == (value, type(value))


def test_schemas_of_parameters():
    assert schema_of({"properties": {"a": {"type": "integer"}}}, "a") == {"type": "integer"}
    for parameters in ({}, {"properties": {}}, {"properties": [1]}):
        assert schema_of(parameters, "a") is None


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)


@given(text=st.one_of(st.text(max_size=20), JSON.map(json.dumps)), schema=JSON)
def test_whatever_comes_out_can_be_said(text, schema):
    json.dumps(typed_value(text, schema), ensure_ascii=False, allow_nan=False).encode()
