"""Text of token events: stop strings wherever they fall, and the same text however the tokens come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_vocabulary import BOS, IM_END, IM_START, small_tokenizer

from abaci.chat.text import TextAssembler, TextDelta
from abaci.errors import UsageError
from abaci.generation import FinishReason, TokenEvent

TOKENIZER = small_tokenizer()


def event(token_ids, finish_reason=None, ended_by_token=False):
    return TokenEvent("r", 0, tuple(token_ids), finish_reason=finish_reason, ended_by_token=ended_by_token)


def last(token_ids):
    return event(token_ids, FinishReason.LENGTH)


def test_text_without_stop_strings_comes_at_once():
    assembler = TextAssembler(TOKENIZER)
    assert assembler.push(event(b"he")) == TextDelta("he")
    assert assembler.push(last(b"llo")) == TextDelta("llo", FinishReason.LENGTH)


def test_half_a_character_waits_and_is_not_lost():
    assembler = TextAssembler(TOKENIZER)
    first, second = "é".encode()
    assert assembler.push(event([first])) == TextDelta("")
    assert assembler.push(event([second, first])) == TextDelta("é")
    assert assembler.push(last([])) == TextDelta("\ufffd", FinishReason.LENGTH)


def test_the_head_of_a_stop_string_is_held_back():
    assembler = TextAssembler(TOKENIZER, ["stop"])
    assert assembler.push(event(b"a s")).text == "a "
    assert assembler.push(event(b"t")).text == ""
    assert assembler.push(event(b"art s")).text == "start "
    assert assembler.push(event(b"top more")) == TextDelta(
        "", FinishReason.STOP, stopped_by_string=True, stop_string="stop"
    )


def test_what_was_held_back_comes_at_the_end():
    assembler = TextAssembler(TOKENIZER, "stop")
    assert assembler.push(event(b"a sto")).text == "a "
    assert assembler.push(last(b"")) == TextDelta("sto", FinishReason.LENGTH)


def test_the_stop_string_is_kept_on_request():
    assembler = TextAssembler(TOKENIZER, ["\n\n"], include_stop=True)
    assert assembler.push(event(b"a\n")).text == "a"
    assert assembler.push(event(b"\nb")) == TextDelta(
        "\n\n", FinishReason.STOP, stopped_by_string=True, stop_string="\n\n"
    )


@pytest.mark.parametrize(
    ("include_stop", "skip_special", "token_id", "text"),
    [
        (False, True, ord("b"), "a"),
        (True, True, ord("b"), "ab"),
        (True, True, IM_END, "a"),
        (True, False, IM_END, "a<|im_end|>"),
        (False, False, IM_END, "a"),
    ],
)
def test_the_token_that_ends_a_sample_is_kept_on_request(include_stop, skip_special, token_id, text):
    assembler = TextAssembler(TOKENIZER, include_stop=include_stop, skip_special=skip_special)
    ended = event([ord("a"), token_id], FinishReason.STOP, ended_by_token=True)
    assert assembler.push(ended) == TextDelta(text, FinishReason.STOP)


def test_after_a_stop_string_there_is_nothing():
    assembler = TextAssembler(TOKENIZER, ["."])
    assembler.push(event(b"a."))
    assert assembler.push(event(b"more")) == TextDelta("")
    assert assembler.push(last(b"")) == TextDelta("")


def test_the_end_token_is_not_text():
    assembler = TextAssembler(TOKENIZER, skip_special=False)
    assert assembler.push(event([IM_START, *b"x"])).text == "<|im_start|>x"
    assert assembler.push(event([IM_END], FinishReason.STOP, ended_by_token=True)) == TextDelta("", FinishReason.STOP)
    ended_by_letter = TextAssembler(TOKENIZER).push(event(b"ab", FinishReason.STOP, ended_by_token=True))
    assert ended_by_letter == TextDelta("a", FinishReason.STOP)


def test_special_tokens_that_a_reader_needs_are_shown():
    assembler = TextAssembler(TOKENIZER, shown_special=[IM_START])
    assert assembler.push(event([BOS, IM_START, *b"x"])).text == "<|im_start|>x"


@pytest.mark.parametrize(
    ("stop", "text", "expected"),
    [
        (["abcd", "bc"], "xabcdx", "xa"),
        (["bc", "abc"], "xabcx", "x"),
        (["aab"], "aaab", "a"),
        (["aba"], "ababa", ""),
        (["é!"], "né!", "n"),
    ],
)
def test_the_stop_string_complete_first_ends_the_sample(stop, text, expected):
    for chunk in (1, 2, 100):
        assembler = TextAssembler(TOKENIZER, stop)
        data = text.encode()
        deltas = [assembler.push(event(data[i : i + chunk])) for i in range(0, len(data), chunk)]
        assert "".join(delta.text for delta in deltas) == expected


def test_an_empty_stop_string_is_refused():
    with pytest.raises(UsageError, match="stop"):
        TextAssembler(TOKENIZER, ["a", ""])


@pytest.mark.parametrize(
    ("min_tokens", "expected"),
    [(0, "ab"), (2, "ab"), (3, "ab."), (4, "ab.."), (5, "ab...c"), (6, "ab...c"), (7, "ab...c.d"), (9, "ab...c.d.e")],
)
def test_stop_strings_end_nothing_before_min_tokens(min_tokens, expected):
    data = b"ab...c.d.e"
    for chunk in (1, 2, 3, 100):
        assembler = TextAssembler(TOKENIZER, ["."], min_tokens=min_tokens)
        deltas = [assembler.push(event(data[i : i + chunk])) for i in range(0, len(data), chunk)]
        deltas.append(assembler.push(last([])))
        assert "".join(delta.text for delta in deltas) == expected
        assert any(delta.stopped_by_string for delta in deltas) == (len(expected) < len(data))


def test_a_stop_string_may_begin_before_min_tokens_and_end_after():
    for chunk in (1, 2, 100):
        assembler = TextAssembler(TOKENIZER, ["stop", "!!!!"], min_tokens=4)
        data = b"a stop b"
        deltas = [assembler.push(event(data[i : i + chunk])) for i in range(0, len(data), chunk)]
        assert "".join(delta.text for delta in deltas) == "a "


def test_special_tokens_count_towards_min_tokens():
    assembler = TextAssembler(TOKENIZER, ["."], min_tokens=2)
    assert assembler.push(event([IM_START, IM_END, *b"."])).stop_string == "."


token_ids = st.one_of(st.sampled_from(list(b"aab!")), st.sampled_from(list("é👩".encode())), st.just(IM_START))


@given(
    chunks=st.lists(st.lists(token_ids, max_size=5), max_size=8),
    stop=st.lists(st.text("ab!é", min_size=1, max_size=3), max_size=3),
    include_stop=st.booleans(),
    skip_special=st.booleans(),
    min_tokens=st.integers(0, 12),
)
def test_any_split_gives_the_text_of_the_whole(chunks, stop, include_stop, skip_special, min_tokens):
    options = {"include_stop": include_stop, "skip_special": skip_special, "min_tokens": min_tokens}
    whole = [i for chunk in chunks for i in chunk]
    expected = TextAssembler(TOKENIZER, stop, **options).push(last(whole))

    assembler = TextAssembler(TOKENIZER, stop, **options)
    deltas = [assembler.push(event(chunk)) for chunk in chunks] + [assembler.push(last([]))]
    assert "".join(delta.text for delta in deltas) == expected.text
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == [expected.finish_reason]
    assert any(delta.stopped_by_string for delta in deltas) == expected.stopped_by_string
    if not include_stop and not min_tokens:
        assert not any(string in expected.text for string in stop)
