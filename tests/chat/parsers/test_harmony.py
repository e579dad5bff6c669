"""Harmony: thoughts, answers and calls of one text, however it is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parsing import cuts, parse

from abaci.chat.parsers.scanner import Scanner
from abaci.chat.parsers.tools.harmony import DIALECT

ARGUMENTS = '{"city": "Zürich"}'
CALL = f"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{ARGUMENTS}"
THOUGHT = "<|channel|>analysis<|message|>Hm, Zürich.<|end|>"


def scanner(names=("get_weather",)):
    return Scanner(DIALECT.read, names)


# text, thought, content, number of calls
TRANSCRIPTS = [
    (f"{THOUGHT}<|start|>assistant<|channel|>final<|message|>It rains.\n", "Hm, Zürich.", "It rains.\n", 0),
    (f"{THOUGHT}<|start|>assistant{CALL}<|call|>", "Hm, Zürich.", "", 1),
    (f"{THOUGHT}<|start|>assistant{CALL}", "Hm, Zürich.", "", 1),
    (
        "<|channel|>analysis<|message|>A.<|end|><|start|>assistant<|channel|>analysis<|message|>B.<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>C.<|end|><|start|>assistant<|channel|>final<|message|>D.",
        "A.\n\nB.",
        "C.\n\nD.",
        0,
    ),
    ("<|channel|>analysis<|message|>cut o", "cut o", "", 0),
    ("<|channel|>analysis<|message|>1 <|channel|>final<|message|>2<|return|>", "1", "2", 0),
    ("<|channel|>final<|message|>a <| b <|x|>", "", "a <| b <|x|>", 0),
    ("no markers at all", "", "no markers at all", 0),
    ("<|channel|>anal", "", "<|channel|>anal", 0),
    ("<|start|>assistant<|message|>bare", "", "bare", 0),
    ("", "", "", 0),
]


@pytest.mark.parametrize(("text", "thought", "content", "num_calls"), TRANSCRIPTS)
def test_transcripts(text, thought, content, num_calls):
    answer = parse(scanner(), text)
    assert (answer.thought, answer.content, answer.num_ended) == (thought, content, num_calls)
    assert answer.values() == [("get_weather", {"city": "Zürich"})] * num_calls
    assert parse(scanner(), *text) == answer


def test_a_call_of_what_was_not_offered_is_content():
    answer = parse(scanner(()), THOUGHT + "<|start|>assistant" + CALL)
    assert (answer.thought, answer.content, answer.calls) == ("Hm, Zürich.", ARGUMENTS, [])


FRAGMENTS = [
    *("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>", "<|"),
    *("assistant", "analysis", "final", "commentary", " to=functions.get_weather ", "to=", ARGUMENTS, CALL, THOUGHT),
    *("text", " ", "\n", "{", "}", "x" * 200),
]


@given(pieces=cuts(st.lists(st.sampled_from(FRAGMENTS), max_size=10).map("".join)))
def test_cuts_change_nothing(pieces):
    text, parts = pieces
    assert parse(scanner(), *parts) == parse(scanner(), text)


def test_thoughts_flow():
    parser = scanner()
    parser.push("<|channel|>analysis<|message|>")
    assert [piece.text for piece in parser.push("one two ")] == ["one two"]
    assert parser.push("<|e") == ()
