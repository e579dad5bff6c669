"""Which templates tell the model of tools."""

from pathlib import Path

import pytest

from abaci.chat.tools import knows_tools

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
