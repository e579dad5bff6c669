"""Write tests/chat/published/cases.json: what `transformers` renders of conversations with published templates.

    python scripts/make_template_cases.py

needs `transformers`. Of each rendering the SHA-256 is kept, or null where the template refuses the conversation; it is
shown in full with `--show TEMPLATE CASE`. Today is the first of February 2026.
"""

import argparse
import copy
import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

FOLDER = Path(__file__).parent.parent / "tests" / "chat" / "published"
BOS, EOS = "<s>", "</s>"

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": 'Name of the city, e.g. "Köln"'},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "default": 1},
            },
            "required": ["city"],
        },
    },
}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add numbers",
        "parameters": {
            "type": "object",
            "properties": {
                "values": {"type": "array", "items": {"type": "number"}},
                "exact": {"type": ["boolean", "null"]},
            },
            "required": ["values"],
        },
    },
}


class Today(datetime):
    """A day that does not change."""

    @classmethod
    def now(cls, tz: Any = None) -> "Today":
        """The same day, always."""
        return cls(2026, 2, 1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--show", nargs=2, metavar=("TEMPLATE", "CASE"))
    show = parser.parse_args().show
    chat_template_utils.datetime = Today
    cases = conversations()
    if show:
        print(rendering((FOLDER / f"{show[0]}.jinja").read_bytes().decode(), cases[show[1]]))
        return
    expected = {}
    for path in sorted(FOLDER.glob("*.jinja")):
        source = path.read_bytes().decode()
        texts = {name: rendering(source, case) for name, case in cases.items()}
        expected[path.stem] = {
            name: None if text is None else hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()
        }
    document = {"bos": BOS, "eos": EOS, "conversations": cases, "expected": expected}
    (FOLDER / "cases.json").write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n")


def rendering(source: str, case: dict[str, Any]) -> str | None:
    """The prompt; None where the template raises. Where it joins arguments to text, they are given as JSON."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token=BOS, eos_token=EOS)
    for given in (case, _with_text_arguments(case)):
        options = copy.deepcopy(given)
        try:
            text = tokenizer.apply_chat_template(
                options.pop("messages"),
                tools=options.pop("tools", None),
                chat_template=source,
                add_generation_prompt=options.pop("add_generation_prompt", True),
                tokenize=False,
                **options,
            )
        except (TemplateError, TypeError):
            continue
        return str(text)
    return None


def _with_text_arguments(case: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(case)
    for message in changed["messages"]:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return changed


def conversations() -> dict[str, dict[str, Any]]:
    """By name; keys beside the messages are parameters of the rendering."""
    brief = {"role": "system", "content": "Be brief."}
    sum_asked = user("2+2?")
    weather_asked = user("Weather in Köln?")
    both_called = {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            call("get_weather", {"city": "Bonn"}, "aaaaaaaaa"),
            call("add", {"values": [1, 2.5], "exact": None}, "bbbbbbbbb"),
        ],
    }
    called = {"role": "assistant", "content": "", "tool_calls": [call("get_weather", {"city": "Köln", "days": 2})]}
    clear = result('{"sky": "clear"}', "get_weather")
    told = [
        brief,
        weather_asked,
        {**called, "reasoning_content": "I look it up."},
        clear,
        assistant("Clear.", reasoning_content="Clear it is."),
        user("Thanks"),
    ]
    hidden = [sum_asked, assistant("4", reasoning_content="Two and two.\nFour."), user("And 3+3?")]
    return {
        "one": {"messages": [user("Hello")]},
        "answered": {"messages": [user("Hello"), assistant("Hi!")], "add_generation_prompt": False},
        "system": {"messages": [brief, user("  What is 2 + 2?\n")]},
        "turns": {
            "messages": [
                {"role": "system", "content": "You are terse.\n"},
                user("Hi"),
                assistant("Hello.\n"),
                user('<b>1 < 2 && "3"</b> 日本語 👩‍👧'),
            ]
        },
        "thought before": {"messages": hidden},
        "thought in the text": {
            "messages": [sum_asked, assistant("<think>\nTwo and two.\n</think>\n\n4"), user("And 3+3?")]
        },
        "thought last": {"messages": hidden[:2], "add_generation_prompt": False},
        "thinking on": {"messages": [user("Hello")], "enable_thinking": True, "thinking": True},
        "thinking off": {"messages": [user("Hello")], "enable_thinking": False, "thinking": False},
        "effort": {"messages": [user("Hello")], "reasoning_effort": "high"},
        "tools": {"messages": [weather_asked], "tools": [WEATHER, ADD]},
        "system and tools": {"messages": [brief, weather_asked], "tools": [WEATHER]},
        "call": {"messages": [weather_asked, called], "tools": [WEATHER], "add_generation_prompt": False},
        "result": {"messages": [weather_asked, called, clear], "tools": [WEATHER]},
        "result told": {"messages": told, "tools": [WEATHER, ADD]},
        "two calls": {
            "messages": [weather_asked, both_called, result("rain", "get_weather", "aaaaaaaaa"), result("3.5", "add")],
            "tools": [WEATHER, ADD],
        },
        "call without text": {"messages": [weather_asked, {**called, "content": None}, clear], "tools": [WEATHER]},
        "assistant first": {"messages": [assistant("Hi"), user("Hello")]},
        "two of the user": {"messages": [user("Hello"), user("again")]},
    }


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def call(name: str, arguments: dict[str, Any], call_id: str = "bbbbbbbbb") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(text: str, name: str, call_id: str = "bbbbbbbbb") -> dict[str, Any]:
    return {"role": "tool", "name": name, "tool_call_id": call_id, "content": text}


if __name__ == "__main__":
    main()
