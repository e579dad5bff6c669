"""The thought before the answer, wherever it begins, ends or is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parsing import Answer, cuts, parse

from abaci.chat.parsers.think import ThinkParser


@pytest.mark.parametrize(
    ("is_open", "text", "thought", "content"),
    [
        (False, "<think>\nHm.\n</think>\n\nYes.", "Hm.", "Yes."),
        (False, "\n <think>Hm.</think>Yes.", "Hm.", "Yes."),
        (False, "<think>\n\n</think>\n\nYes.\n", "", "Yes.\n"),
        (False, "Yes <think>no</think>", "", "Yes <think>no</think>"),
        (False, "\n\nYes.", "", "\n\nYes."),
        (False, "<thi", "", "<thi"),
        (False, "<think>Hm", "Hm", ""),
        (False, "", "", ""),
        (True, "Hm.\n</think>\n\nYes.", "Hm.", "Yes."),
        (True, "<think>\nHm.\n</think>\nYes.", "Hm.", "Yes."),
        (True, "\n</think>Yes.", "", "Yes."),
        (True, "one\n\ntwo </thin", "one\n\ntwo </thin", ""),
        (True, "Hm. \n", "Hm.", ""),
        (True, "Hm.</think>Yes.</think>", "Hm.", "Yes.</think>"),
        (True, "<thi", "<thi", ""),
        (True, "", "", ""),
        (True, "Hm.</think>\n", "Hm.", ""),
    ],
)
def test_thought_and_content(is_open, text, thought, content):
    expected = Answer(content=content, thought=thought)
    assert parse(ThinkParser(is_open=is_open), text) == expected
    assert parse(ThinkParser(is_open=is_open), *text) == expected


texts = st.lists(st.sampled_from(["<think>", "</think>", "<th", "</", " ", "\n", "a", "b c"]), max_size=9)


@given(is_open=st.booleans(), pieces=cuts(texts.map("".join)))
def test_cuts_change_nothing(is_open, pieces):
    text, parts = pieces
    whole, cut = ThinkParser(is_open=is_open), ThinkParser(is_open=is_open)
    assert parse(whole, text) == parse(cut, *parts)
    assert (whole.has_thought, whole.has_ended) == (cut.has_thought, cut.has_ended)


def test_thoughts_flow():
    parser = ThinkParser(is_open=True)
    assert Answer().add(parser.push("one two")).thought == "one two"
    assert not parser.has_ended
    assert Answer().add(parser.push(" three\n</thi")).thought == " three"
    assert Answer().add(parser.push("nk>\nYes")) == Answer(content="Yes")
    assert parser.has_ended
    assert Answer().add(parser.push(" ")).content == " "
