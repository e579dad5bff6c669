"""Gemma 4, which thinks in a channel, and only where it is told to."""

import functools
from pathlib import Path

import pytest
from small_vocabulary import small_tokenizer

from abaci.chat.answer import ChatRequest, ReasoningOptions
from abaci.chat.preparing import prepare
from abaci.chat.requests import GenerationDefaults, RequestRules
from abaci.chat.served import TextModel
from abaci.formats.chat_template import ChatTemplate
from abaci.generation import Constraint, ConstraintKind, FinishReason, SamplingParams, TokenEvent

SOURCE = (Path(__file__).parent / "published" / "gemma4.jinja").read_bytes().decode()
MARKERS = ["<|turn>", "<turn|>", "<|think|>", "<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", '<|"|>']
TOKENIZER = small_tokenizer(MARKERS)
NOW = {"type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object"}}}
JSON = Constraint(ConstraintKind.JSON_SCHEMA, '{"type": "object"}')


@functools.cache
def model():
    rules = RequestRules(GenerationDefaults(), TOKENIZER.end_token_ids, 8192, TOKENIZER.vocab_size)
    return TextModel(TOKENIZER, ChatTemplate(SOURCE), rules)


def chat(messages=({"role": "user", "content": "Hi"},), **options):
    return prepare(model(), ChatRequest(messages, **options), "r")


def read(prepared, text):
    reader = prepared.new_reader(0)
    ids = TOKENIZER.encode(text, add_bos=False, allow_special=True)
    deltas = [reader.push(TokenEvent("r", 0, (i,))) for i in ids]
    end = TOKENIZER.special_tokens["<turn|>"]
    deltas.append(reader.push(TokenEvent("r", 0, (end,), (), FinishReason.STOP, True)))
    calls = [(call.name, call.arguments) for delta in deltas for call in delta.tool_calls]
    return "".join(d.reasoning for d in deltas), "".join(d.content for d in deltas), calls


def test_the_turn_ends_the_answer():
    assert TOKENIZER.special_tokens["<turn|>"] in chat().request.end_token_ids


@pytest.mark.parametrize("options", [ReasoningOptions(is_enabled=True), ReasoningOptions(effort="high")])
def test_it_thinks_where_it_is_told_to(options):
    prepared = chat(reasoning=options)
    assert "<|think|>" in prepared.prompt and prepared.prompt.endswith("<|turn>model\n")
    assert read(prepared, "<|channel>thought\nHm.\n<channel|>Hello.") == ("Hm.", "Hello.", [])


@pytest.mark.parametrize("options", [ReasoningOptions(), ReasoningOptions(is_enabled=False)])
def test_else_it_does_not(options):
    prepared = chat(reasoning=options, params=SamplingParams(constraint=JSON))
    assert "<|think|>" not in prepared.prompt and prepared.prompt.endswith("<|turn>model\n")
    assert (prepared.request.constraint, prepared.request.thinking) == (JSON, None)
    assert read(prepared, "{}") == ("", "{}", [])


def test_a_form_follows_the_thought():
    prepared = chat(reasoning=ReasoningOptions(is_enabled=True), params=SamplingParams(constraint=JSON))
    assert prepared.prompt.endswith("<|turn>model\n<|channel>thought\n")
    assert prepared.request.thinking.end_token_ids == (TOKENIZER.special_tokens["<channel|>"],)
    assert read(prepared, "Hm.\n<channel|>{}") == ("Hm.", "{}", [])


def test_calls():
    call = '<|tool_call>call:now{zone:<|"|>CET<|"|>}<tool_call|>'
    assert read(chat(tools=[NOW]), call) == ("", "", [("now", ""), (None, '{"zone": "CET"}')])
