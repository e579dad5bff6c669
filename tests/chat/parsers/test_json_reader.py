"""The reader of one object agrees with the standard library on what is JSON, however the text is cut."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parsing import cut

from abaci.chat.parsers.json_reader import MAX_DEPTH, ObjectReader

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(), values, max_size=4)
places = st.lists(st.integers(0, 300), max_size=8)


def read(text, cuts=()):
    """The reader, and how many characters it took."""
    reader, length = ObjectReader(), 0
    for part in cut(text, cuts):
        length += reader.push(part)
    return reader, length


@given(given=objects, indent=st.sampled_from([None, 0, 2]), ascii_only=st.booleans(), cuts=places)
def test_an_object_is_read_to_its_end_and_no_further(given, indent, ascii_only, cuts):
    text = json.dumps(given, indent=indent, ensure_ascii=ascii_only)
    reader, length = read(text + '} {"more"', cuts)
    assert reader.is_complete
    assert not reader.is_broken
    assert length == len(text)
    assert "".join(reader.parts) == text
    assert {key: json.loads("".join(parts)) for key, parts in reader.members.items()} == given


@given(text=st.text('{}[]":,\\ \nu0aetrufalsn-1.E', max_size=24).map(lambda text: "{" + text), cuts=places)
def test_what_counts_as_json_is_json(text, cuts):
    reader, length = read(text, cuts)
    whole, whole_length = read(text)
    assert (reader.is_complete, reader.is_broken, length) == (whole.is_complete, whole.is_broken, whole_length)
    assert "".join(reader.parts) == "".join(whole.parts)
    try:
        value, end = json.JSONDecoder(strict=False).raw_decode(text)
    except ValueError:
        assert not reader.is_complete
    else:
        assert reader.is_complete
        assert length == end
        assert json.loads("".join(reader.parts)) == value


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("[1]", 0),
        ('{"a" 1}', 5),
        ('{"a": 01}', 8),
        ('{"a": nul}', 9),
        ('{"a": NaN}', 9),
        ('{"a": "\\x"}', 8),
        ('{"a": "\\u12g4"}', 11),
        ('{"a": [1}', 8),
        ('{"a": 1,}', 8),
        ('{"a": 1]', 7),
        ("{1: 2}", 1),
        ('{"a": <', 6),
    ],
)
def test_what_is_no_json_is_known_at_once(text, length):
    reader, read_length = read(text + " and more")
    assert reader.is_broken
    assert read_length == length


def test_control_characters_in_strings_are_escaped():
    reader, _ = read('{"code": "a\nb\tc\x00",\n\t"x": 1}')
    assert json.loads("".join(reader.parts)) == {"code": "a\nb\tc\x00", "x": 1}


def test_depth_is_bounded():
    assert read('{"a":' + "[" * (MAX_DEPTH - 1))[0].is_broken is False
    assert read('{"a":' + "[" * MAX_DEPTH)[0].is_broken


def test_a_member_is_known_while_it_is_read():
    reader = ObjectReader()
    reader.push('{"name": "f", "arguments": {"a": [1, ')
    assert reader.finished("name") == '"f"'
    assert reader.finished("arguments") is None
    assert "".join(reader.members["arguments"]) == '{"a": [1, '


def test_reading_stops_where_it_is_told_to():
    for cuts in ([], [3], range(40)):
        reader, length = ObjectReader(lambda reader: "b" not in reader.members), 0
        for part in cut('{"a": {"b": 1}, "b": 2}', cuts):
            length += reader.push(part)
        assert reader.is_broken
        assert length == len('{"a": {"b": 1}, "b":')
