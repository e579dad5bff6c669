"""Answers from token events: the same however a generator bundles its tokens, and nothing after the end."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_vocabulary import IM_END, small_tokenizer

from abaci.chat.parsers import tool_dialects
from abaci.chat.parsers.think import ThinkParser
from abaci.chat.reading import AnswerReader, ToolReading
from abaci.chat.text import TextAssembler
from abaci.generation import FinishReason, TokenEvent, TokenLogprob

TOKENIZER = small_tokenizer()
HERMES = dataclasses.replace(tool_dialects()["hermes"], new_call_id=lambda: "id")


def event(token_ids, finish_reason=None, ended_by_token=False, error=None):
    logprobs = tuple(TokenLogprob(i, -1.0) for i in token_ids)
    return TokenEvent("r", 0, tuple(token_ids), logprobs, finish_reason, ended_by_token, error=error)


def reader(stop=(), *, is_single=False, thinks=True):
    return AnswerReader(
        0,
        TextAssembler(TOKENIZER, stop),
        think=ThinkParser(is_open=False) if thinks else None,
        tools=ToolReading(HERMES, frozenset({"f"}), is_single=is_single),
    )


@dataclasses.dataclass
class Whole:
    reasoning: str = ""
    content: str = ""
    calls: tuple = ()
    token_ids: tuple = ()
    logprobs: tuple = ()
    ending: tuple = ()
    num_reasoning_tokens: int = 0


def read(answers, events):
    whole = Whole()
    for each in events:
        delta = answers.push(each)
        whole.reasoning += delta.reasoning
        whole.content += delta.content
        whole.calls += tuple((c.index, c.id, c.name, c.arguments) for c in delta.tool_calls)
        whole.token_ids += delta.token_ids
        whole.logprobs += delta.logprobs
        if delta.finish_reason:
            whole.ending += ((delta.finish_reason, delta.has_tool_calls, delta.stopped_by_string, delta.stop_string),)
    whole.num_reasoning_tokens = answers.num_reasoning_tokens
    return whole


FRAGMENTS = [
    *("<think>", "</think>", "\n", " ", "hm", "yes", "<tool_call>", "</tool_call>", "stop", "st", "é"),
    *('{"name": "f", "arguments": {"a": "stop"}}', '{"name": "f"}', '{"name": "f", "arg'),
]


@given(
    text=st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=9),
    stop=st.sampled_from([(), ("stop",)]),
    is_single=st.booleans(),
    ended_by_token=st.booleans(),
)
def test_bundles_change_nothing(text, sizes, stop, is_single, ended_by_token):
    token_ids = [*text.encode(), *([IM_END] if ended_by_token else [])]
    reason = FinishReason.STOP if ended_by_token else FinishReason.LENGTH

    def bundled(sizes):
        begin, events = 0, []
        while begin < len(token_ids):
            size = sizes[len(events) % len(sizes)]
            events.append(event(token_ids[begin : begin + size]))
            begin += size
        last = events.pop() if events else event([])
        return [*events, dataclasses.replace(last, finish_reason=reason, ended_by_token=ended_by_token)]

    options = {"stop": stop, "is_single": is_single}
    whole = read(reader(**options), bundled([1]))
    assert read(reader(**options), bundled(sizes)) == whole
    assert len(whole.ending) == 1
    assert len(whole.logprobs) == len(whole.token_ids)
    assert whole.num_reasoning_tokens <= len(whole.token_ids)
    if not stop and not is_single:
        assert list(whole.token_ids) == token_ids
    assert whole.ending[0][1] == bool(whole.calls)
    if not {"<", "{"} & set(text) and not stop:
        assert (whole.content, whole.reasoning) == (text, "")


def test_tokens_after_a_stop_string_are_not_told():
    answers = reader(["."])
    delta = answers.push(event(b"a.b"))
    assert (delta.content, delta.token_ids, delta.stop_string) == ("a", tuple(b"a."), ".")
    assert delta.stopped_by_string
    late = answers.push(event(b"more", FinishReason.LENGTH))
    assert late.is_empty
    assert late.token_ids == ()


def test_a_call_cut_off_is_content():
    text = b'Hm. <tool_call>{"name": "f", "arguments": {"a": '
    delta = reader().push(event(text, FinishReason.LENGTH))
    assert delta.content == text.decode()
    assert not delta.has_tool_calls


def test_errors_are_passed_on():
    error = RuntimeError("step failed")
    answers = reader(thinks=False)
    answers.push(event(b"half"))
    delta = answers.push(event(b"", FinishReason.ERROR, error=error))
    assert delta.error is error
    assert delta.finish_reason is FinishReason.ERROR


@pytest.mark.parametrize("thinks", [True, False])
def test_content_flows(thinks):
    answers = reader(thinks=thinks)
    assert answers.push(event(b"one")).content == "one"
    assert answers.push(event(b" two")).content == " two"
