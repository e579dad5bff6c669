"""Which templates tell the model of tools, and what is told where they do not."""

from pathlib import Path

import pytest

from abaci.chat.messages import parse_messages
from abaci.chat.tools import explain_tools, knows_tools, tell_calls

PUBLISHED = Path(__file__).parent / "published"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, True) for name in ("qwen3", "qwen3-coder", "gpt-oss", "glm-4.5", "mistral-nemo", "gemma4")),
        *((name, False) for name in ("phi-3", "phi-4", "smollm2", "deepseek-r1")),
    ],
)
def test_published_templates(name, expected):
    assert knows_tools((PUBLISHED / f"{name}.jinja").read_text()) is expected


@pytest.mark.parametrize(
    "source",
    [
        "{% if message['role'] == 'system' and 'tools' in message %}{{ message['tools'] }}{% endif %}",
        "{{ message.tools }}",
        "{{ toolset }}{{ my_tools }}",
    ],
)
def test_keys_of_messages_are_not_the_variable(source):
    assert not knows_tools(source)


def test_explained_tools_are_told_whatever_parts_a_text_came_in():
    parts = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]
    call = {"function": {"name": "f", "arguments": "{}"}}
    system, said = (
        {"role": "system", "content": parts},
        {"role": "assistant", "content": parts, "tool_calls": [call]},
    )
    (explained,) = explain_tools(parse_messages([system]), [{"type": "function", "function": {"name": "f"}}])
    (told,) = tell_calls(parse_messages([said]))
    for message in (explained, told):
        assert message.content.startswith("Be brief.Be kind.\n")
        assert "f" in message.content.removeprefix("Be brief.Be kind.")
        assert message.parts == ()
