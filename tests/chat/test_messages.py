"""Messages: what callers may write, and what they are told when it is wrong."""

import pytest

from abaci.chat.messages import Message, Role, ToolCall, parse_messages
from abaci.errors import UsageError

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}


def parse_one(**given):
    return parse_messages([given])[0]


def test_plain_messages():
    assert parse_messages([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]) == (
        Message(Role.SYSTEM, "s"),
        Message(Role.USER, "u"),
    )


def test_messages_pass_as_they_are():
    message = Message(Role.USER, "u")
    assert parse_messages((message,))[0] is message


def test_developer_is_system():
    assert parse_one(role="developer", content="x").role is Role.SYSTEM


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert parse_one(role="user", content=parts).content == "ab"
    assert parse_one(role="user", content=parts).parts == ("a", "b")
    assert parse_one(role="user", content=parts[:1]) == parse_one(role="user", content="a")


def test_tool_calls_and_their_results():
    asked = parse_one(role="assistant", content=None, tool_calls=[CALL])
    assert asked.tool_calls == (ToolCall("f", {"x": 1}, "c1"),)
    assert asked.to_template() == {
        "role": "assistant",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}],
    }
    answered = parse_one(role="tool", content="2", tool_call_id="c1", name="f")
    assert answered.to_template() == {"role": "tool", "content": "2", "tool_call_id": "c1", "name": "f"}


def test_keys_that_are_none_are_not_there():
    assert parse_one(role="user", content="u", name=None, refusal=None).to_template() == {
        "role": "user",
        "content": "u",
    }


@pytest.mark.parametrize(
    ("conversation", "problem"),
    [
        ([], "no messages"),
        ("hello", "a list of messages"),
        ({"role": "user", "content": "x"}, "a list of messages"),
        (None, "a list of messages"),
        (["hello"], r"messages\[0\] is not a mapping"),
        ([{"role": "user", "content": "x"}, {"content": "x"}], r"messages\[1\]\.role is None"),
        ([{"role": "robot", "content": "x"}], "'robot'"),
        ([{"role": ["user"], "content": "x"}], r"\['user'\]"),
        ([{"role": "user"}], r"messages\[0\]\.content is missing"),
        ([{"role": "user", "content": 3}], "neither text nor a list"),
        ([{"role": "user", "content": b"x"}], "neither text nor a list"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "'image_url'; only text"),
        ([{"role": "user", "content": ["x"]}], r"content\[0\] is of type 'x'"),
        ([{"role": "user", "content": [{"type": "text"}]}], r"content\[0\]\.text is not text"),
        ([{"role": "user", "content": "x", "extra": 1}], "not supported: extra"),
        ([{"role": "user", "content": "x", "name": 1}], r"messages\[0\]\.name is not text"),
        ([{"role": "user", "content": "x", "tool_calls": [CALL]}], "tool_calls stands in a message of the role user"),
        ([{"role": "assistant", "tool_calls": "x"}], "tool_calls is not a list"),
        ([{"role": "assistant", "tool_calls": [{"type": "custom"}]}], "not a call of type function"),
        ([{"role": "assistant", "tool_calls": [{"function": {}}]}], "has no name"),
        ([{"role": "assistant", "tool_calls": [{"id": 1, "function": {"name": "f"}}]}], "id is not text"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}], "not valid JSON"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}], "not a JSON object"),
    ],
)
def test_malformed_conversations_are_refused(conversation, problem):
    with pytest.raises(UsageError, match=problem):
        parse_messages(conversation)


def test_a_thought_has_two_names():
    answer = {"role": "assistant", "content": "Yes."}
    expected = Message(Role.ASSISTANT, "Yes.", reasoning_content="Hm.")
    assert parse_messages([{**answer, "reasoning": "Hm."}]) == (expected,)
    assert parse_messages([{**answer, "reasoning": "Hm.", "reasoning_content": "Hm."}]) == (expected,)
    assert parse_messages([{**answer, "reasoning": None, "reasoning_content": "Hm."}]) == (expected,)
    with pytest.raises(UsageError, match=r"messages\[0\].reasoning and messages\[0\].reasoning_content"):
        parse_messages([{**answer, "reasoning": "Hm.", "reasoning_content": "Oh."}])
    with pytest.raises(UsageError, match="reasoning_content is not text"):
        parse_messages([{**answer, "reasoning": 1}])


def test_an_answer_may_be_all_thought():
    message = {"role": "assistant", "content": None, "reasoning_content": "Hm."}
    assert parse_messages([message]) == (Message(Role.ASSISTANT, "", reasoning_content="Hm."),)


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
def test_other_parts_than_text_are_refused_by_name(kind):
    with pytest.raises(UsageError, match=rf"messages\[0\].content\[1\] is of type '{kind}'") as error:
        parse_messages([{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": kind}]}])
    assert "text" in error.value.hint
