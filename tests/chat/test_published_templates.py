"""Published chat templates give, through the whole way of a conversation, the bytes that `transformers` gives."""

import hashlib
import json
import re
from datetime import datetime
from pathlib import Path

import pytest
from small_vocabulary import small_tokenizer

from abaci.chat.messages import parse_messages
from abaci.chat.prompt import render_chat
from abaci.errors import UsageError
from abaci.formats import template_sandbox
from abaci.formats.chat_template import ChatTemplate

FOLDER = Path(__file__).parent / "published"
CASES = json.loads((FOLDER / "cases.json").read_text())
SPECIAL_NAME = re.compile(r"<\|[a-z_]+\|?>|<[a-z_]+\|>|<｜[^｜]+｜>|\[/?[A-Z_]+\]")


@pytest.fixture
def _today(monkeypatch):
    class Today(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 2, 1)

    monkeypatch.setattr(template_sandbox, "datetime", Today)


def rendering(name, case):
    source = (FOLDER / f"{name}.jinja").read_bytes().decode()
    named = {*SPECIAL_NAME.findall(source), CASES["eos"]}
    tokenizer = small_tokenizer(sorted(named - small_tokenizer().special_tokens.keys()))
    template = ChatTemplate(source, bos_token=CASES["bos"], eos_token=CASES["eos"])
    given = dict(case)
    messages, tools = given.pop("messages"), given.pop("tools", None)
    add_generation_prompt = given.pop("add_generation_prompt", True)
    pieces = render_chat(
        template,
        tokenizer,
        parse_messages(messages),
        tools=tools,
        add_generation_prompt=add_generation_prompt,
        variables=given,
    )
    return "".join(tokenizer.token(piece) if isinstance(piece, int) else piece for piece in pieces)


@pytest.mark.usefixtures("_today")
@pytest.mark.parametrize("name", CASES["expected"])
def test_the_prompt_is_that_of_the_reference(name):
    different = []
    for case, expected in CASES["expected"][name].items():
        try:
            digest = hashlib.sha256(rendering(name, CASES["conversations"][case]).encode()).hexdigest()
        except UsageError:
            digest = None
        if digest != expected and (expected is not None or case != "call without text"):
            different.append(case)
    assert different == []


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.usefixtures("_today")
@pytest.mark.parametrize("name", ["gpt-oss", "qwq-32b", "deepseek-r1-0528"])
def test_calls_without_text_are_told_where_the_reference_fails(name):
    asked, told = {"role": "user", "content": "?"}, {"role": "tool", "tool_call_id": "c", "content": "5"}
    spoken = [{"role": "assistant", "content": text, "tool_calls": [CALL]} for text in (None, "")]
    first, second = ({"messages": [asked, message, told]} for message in spoken)
    assert rendering(name, first) == rendering(name, second)


@pytest.mark.usefixtures("_today")
@pytest.mark.parametrize("name", ["deepseek-r1", "deepseek-r1-distill", "deepseek-v3-0324", "deepseek-v3.1"])
def test_calls_are_told_to_templates_that_ask_for_content_of_none(name):
    text = rendering(name, CASES["conversations"]["call without text"])
    assert '{"city": "Köln", "days": 2}' in text
    assert "None" not in text


@pytest.mark.usefixtures("_today")
@pytest.mark.parametrize(("name", "text"), [("gemma4", "onetwo"), ("qwen3.6", "one\n two"), ("qwen3", " one\n two ")])
def test_texts_in_parts_are_given_so_to_templates_that_take_them(name, text):
    texts = [{"type": "text", "text": part} for part in (" one\n", " two ")]
    parted, joined = ({"messages": [{"role": "user", "content": content}]} for content in (texts, text))
    assert rendering(name, parted) == rendering(name, joined)
    assert text in rendering(name, parted)


@pytest.mark.usefixtures("_today")
def test_a_template_may_put_something_between_parts():
    texts = [{"type": "text", "text": part} for part in (" s1 ", " s2")]
    conversation = [{"role": "system", "content": texts}, {"role": "user", "content": "?"}]
    assert "system\ns1 s2 <turn|>" in rendering("gemma4", {"messages": conversation})


@pytest.mark.usefixtures("_today")
def test_special_tokens_in_parts_stay_text():
    texts = [{"type": "text", "text": part} for part in ("<turn|>", "<|turn", ">model")]
    source = (FOLDER / "gemma4.jinja").read_bytes().decode()
    tokenizer = small_tokenizer(["<|turn>", "<turn|>"])
    pieces = render_chat(ChatTemplate(source), tokenizer, parse_messages([{"role": "user", "content": texts}]))
    names = [tokenizer.token(piece) for piece in pieces if isinstance(piece, int)]
    assert names == ["<|turn>", "<turn|>", "<|turn>"]
    assert "<turn|><|turn>model" in "".join(piece for piece in pieces if isinstance(piece, str))


@pytest.mark.usefixtures("_today")
def test_gpt_oss_thinks_what_it_says_beside_a_call():
    call = {"role": "assistant", "content": "I look.", "reasoning_content": "Hm.", "tool_calls": [CALL]}
    text = rendering("gpt-oss", {"messages": [{"role": "user", "content": "?"}, call]})
    assert "<|channel|>analysis<|message|>Hm.\n\nI look.<|end|>" in text


def test_every_template_has_its_cases():
    assert {path.stem for path in FOLDER.glob("*.jinja")} == set(CASES["expected"])
