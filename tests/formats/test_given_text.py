"""Text that knows what was given: it behaves as any text, and every character is marked as where it came from."""

import contextlib
import operator
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abaci.formats.given_text import GivenText, formatted, is_given, joined, made_of, marks_of, runs
from abaci.formats.given_text import given as mark
from abaci.formats.template_meter import TemplateLimits
from abaci.formats.template_sandbox import TemplateEnvironment
from abaci.formats.template_values import is_offered

# Characters of the template and given ones, so that what a mark must be can be read off each character.
OWN, GIVEN = "ab<| \n\r\x1c", "xyäß> \t\u2028"
ONLY_OWN, ONLY_GIVEN = set("ab<|\n\r\x1c"), set("xyäß>\t\u2028")

parts = st.lists(
    st.text(OWN, min_size=1, max_size=4) | st.text(GIVEN, min_size=1, max_size=4).map(GivenText), max_size=6
)
texts = parts.map(lambda these: joined("", these))
short = st.text(OWN + GIVEN, min_size=1, max_size=2)


def all_texts(value):
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list | tuple):
        return []
    return [text for item in value for text in all_texts(item)]


def check(made, expected):
    """As of mere text, and each character marked as what it is."""
    assert made == expected
    for text in all_texts(made):
        marks = marks_of(text)
        assert len(marks) == len(text)
        for character, is_marked in zip(str.__str__(text), marks, strict=True):
            assert is_marked == (character in ONLY_GIVEN) or character not in ONLY_OWN | ONLY_GIVEN


METHODS = {
    "strip": st.tuples() | st.tuples(short),
    "lstrip": st.tuples() | st.tuples(short),
    "rstrip": st.tuples() | st.tuples(short),
    "removeprefix": st.tuples(short),
    "removesuffix": st.tuples(short),
    "split": st.tuples() | st.tuples(short | st.none(), st.integers(-1, 3)),
    "rsplit": st.tuples() | st.tuples(short | st.none(), st.integers(-1, 3)),
    "splitlines": st.tuples() | st.tuples(st.booleans()),
    "partition": st.tuples(short),
    "rpartition": st.tuples(short),
    "replace": st.tuples(short, texts) | st.tuples(short, texts, st.integers(-1, 3)),
    "join": st.tuples(st.lists(texts)),
    "__getitem__": st.tuples(st.slices(12)),
    "__mul__": st.tuples(st.integers(-1, 3)),
    "__rmul__": st.tuples(st.integers(-1, 3)),
    "__add__": st.tuples(texts),
}


@pytest.mark.parametrize("name", METHODS)
@given(data=st.data())
def test_methods(name, data):
    text, arguments = data.draw(texts), data.draw(METHODS[name])
    marked = text if isinstance(text, GivenText) else GivenText(text, marks_of(text))
    check(getattr(marked, name)(*arguments), getattr(str.__str__(text), name)(*arguments))


@given(texts, texts)
def test_what_stands_before(first, second):
    check(first + second, str.__str__(first) + str.__str__(second))


@given(texts)
def test_characters(text):
    check(list(text), list(str.__str__(text)))
    check([text[i] for i in range(-len(text), len(text))], [str.__str__(text)[i] for i in range(-len(text), len(text))])


@pytest.mark.parametrize("name", ["lower", "upper", "casefold", "swapcase", "capitalize", "title"])
@given(own=st.text("abÉ", max_size=5), written=st.text("xyßŉİÄ σς", max_size=5))
def test_letters_change_where_they_stand(name, own, written):
    made = getattr(GivenText(own + written, marks_of(own) + b"\1" * len(written)), name)()
    assert made == getattr(own + written, name)()
    assert len(made.marks) == len(made)
    assert all(made.marks[len(own) :])


@given(st.lists(st.tuples(st.sampled_from(["%s", "%5s", "%%", "%.2s"]), st.text("ab<|"), texts), max_size=5))
def test_formatting(fields):
    layout = "".join(literal + field for field, literal, _ in fields)
    values = tuple(text for field, _, text in fields if field != "%%")
    made = formatted(layout, values)
    assert made == layout % tuple(map(str.__str__, values))
    for character, is_marked in zip(str.__str__(made), marks_of(made), strict=True):
        assert is_marked or character not in ONLY_GIVEN
    for run, run_is_given in runs(made):
        assert run_is_given or not set(run) & ONLY_GIVEN


@given(parts)
def test_runs_are_the_text(these):
    text = joined("", these)
    found = list(runs(text))
    assert "".join(run for run, _ in found) == text
    assert all(type(run) is str for run, _ in found)
    check(joined("", [GivenText(run) if run_is_given else run for run, run_is_given in found]), text)


LETTERS = ("lower", "upper", "casefold", "swapcase", "capitalize", "title")
SAY_NO_TEXT = {"count", "endswith", "find", "index", "rfind", "rindex", "startswith"}


def test_every_method_that_a_template_may_use_is_known():
    offered = {name for name in dir(str) if is_offered("", name) and not name.startswith("is")}
    assert offered - METHODS.keys() - {*LETTERS} - SAY_NO_TEXT == {"format"}  # of which the sandbox takes care


@pytest.mark.parametrize("name", sorted(TemplateEnvironment(TemplateLimits()).filters))
def test_no_filter_loses_what_was_given(name):
    environment = TemplateEnvironment(TemplateLimits())
    context = environment.from_string("").new_context()
    one = GivenText("<b> c")
    found = []
    for value in (one, [one], {one: one}, [{"a": one}], [(one, one)]):
        for arguments in ([], [one], [one, one], ["a"], [2], ["trim"], ["none"]):
            with contextlib.suppress(Exception):
                result = environment.call_filter(name, value, arguments, context=context)
                made = list(result) if isinstance(result, Iterator) else result
                found += all_texts(list(made.items()) if isinstance(made, dict) else made)
    assert found or name in ("abs", "count", "length")
    for text in found:
        assert is_given(text) or not set("<b>c") & set(text)


def test_it_is_text():
    text = GivenText("ab")
    assert {text: 1}["ab"] == 1
    assert str(text) is text
    assert type(text.plain()) is str
    assert operator.eq(text, "ab")


def test_what_cannot_be_told_apart_counts_as_given():
    assert marks_of(made_of("ab", {"a": [(GivenText("x"),)]})) == b"\1\1"
    assert marks_of(made_of("ab", {"a": ["x"]}.items())) == b"\0\0"
    assert is_given({"a": GivenText("x")}.values())
    assert is_given({GivenText("a"): 1}.items())
    assert mark({"a": ["b", 1, None]}) == {"a": ["b", 1, None]}
    assert all(is_given(text) for text in all_texts([*mark({"a": ["b"]}), mark(("c",))]))


def test_values_that_share_parts_are_looked_at_once():
    value = []
    for _ in range(200):
        value = [value, value]
    assert not is_given(value)
