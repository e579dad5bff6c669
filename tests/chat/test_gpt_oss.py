"""gpt-oss, whose answers are messages in channels: prompts, thinking, forms and calls, from request to answer."""

import functools
from pathlib import Path

import pytest
from small_vocabulary import small_tokenizer

from abaci.chat.answer import ChatRequest, ReasoningOptions, ToolChoice, ToolChoiceMode
from abaci.chat.preparing import prepare
from abaci.chat.requests import GenerationDefaults, RequestRules
from abaci.chat.served import TextModel
from abaci.chat.thinking import CLOSING_SENTENCE
from abaci.errors import UsageError
from abaci.formats.chat_template import ChatTemplate
from abaci.generation import Constraint, ConstraintKind, FinishReason, SamplingParams, TokenEvent

SOURCE = (Path(__file__).parent / "published" / "gpt-oss.jinja").read_bytes().decode()
MARKERS = ["<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"]
TOKENIZER = small_tokenizer(MARKERS)
FINAL = "<|channel|>final<|message|>"
USER = [{"role": "user", "content": "Hi"}]
NOW = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
JSON = Constraint(ConstraintKind.JSON_SCHEMA, '{"type": "object"}')


@functools.cache
def model(tokenizer=TOKENIZER):
    rules = RequestRules(GenerationDefaults(), tokenizer.end_token_ids, 32768, tokenizer.vocab_size)
    return TextModel(tokenizer, ChatTemplate(SOURCE), rules)


def chat(tokenizer=TOKENIZER, **options):
    return prepare(model(tokenizer), ChatRequest(USER, **options), "r")


def read(prepared, text, end="<|return|>"):
    reader = prepared.new_reader(0)
    deltas = [reader.push(TokenEvent("r", 0, (i,))) for i in ids(text)]
    deltas.append(reader.push(TokenEvent("r", 0, tuple(ids(end)), (), FinishReason.STOP, True)))
    parts = [call for delta in deltas for call in delta.tool_calls]
    calls = [(call.name, "".join(part.arguments for part in parts)) for call in parts if call.name]
    return "".join(d.reasoning for d in deltas), "".join(d.content for d in deltas), calls, reader


def ids(text):
    return TOKENIZER.encode(text, add_bos=False, allow_special=True)


def test_a_plain_chat():
    prepared = chat()
    assert prepared.prompt.endswith("<|start|>user<|message|>Hi<|end|><|start|>assistant")
    assert (prepared.request.constraint, prepared.request.thinking) == (None, None)
    assert prepared.request.end_token_ids >= set(ids("<|call|><|return|>"))
    assert not prepared.request.end_token_ids & set(ids("<|end|>"))
    thought = "<|channel|>analysis<|message|>Hm.<|end|>"
    reasoning, content, calls, reader = read(prepared, f"{thought}<|start|>assistant{FINAL}Hello.")
    assert (reasoning, content, calls) == ("Hm.", "Hello.", [])
    assert len(ids(thought)) - 2 <= reader.num_reasoning_tokens <= len(ids(thought))


def test_effort_reaches_the_prompt():
    assert "Reasoning: low\n" in chat(reasoning=ReasoningOptions(effort="low")).prompt


def test_thinking_off_goes_to_the_answer_at_once():
    prepared = chat(reasoning=ReasoningOptions(is_enabled=False))
    assert prepared.prompt.endswith(f"<|start|>assistant{FINAL}")
    assert read(prepared, "Hello.")[:2] == ("", "Hello.")


def test_a_form_binds_the_final_message():
    prepared = chat(params=SamplingParams(constraint=JSON))
    assert prepared.request.constraint == JSON
    assert prepared.request.thinking.end_token_ids == tuple(ids(FINAL))
    assert prepared.request.thinking.budget_tokens is None


def test_a_budget_ends_in_the_final_message():
    prepared = chat(reasoning=ReasoningOptions(budget_tokens=7), params=SamplingParams(max_tokens=2000))
    thinking = prepared.request.thinking
    assert thinking.budget_tokens == 7
    assert thinking.closing_token_ids == (
        *TOKENIZER.encode(CLOSING_SENTENCE, add_bos=False),
        *ids(f"<|end|><|start|>assistant{FINAL}"),
    )


def test_calls():
    prepared = chat(tools=[NOW])
    assert "type now = () => any" in prepared.prompt
    call = "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}"
    assert read(prepared, call, "<|call|>")[:3] == ("", "", [("now", "{}")])
    silent = chat(tools=[NOW], tool_choice=ToolChoice(ToolChoiceMode.NONE))
    assert read(silent, call, "<|call|>")[:3] == ("", "{}", [])


def test_a_call_that_must_be_made_is_held_to_from_the_start():
    prepared = chat(tools=[NOW], tool_choice=ToolChoice(ToolChoiceMode.REQUIRED))
    assert prepared.prompt.endswith("<|start|>assistant")
    assert prepared.request.constraint.kind is ConstraintKind.LARK
    assert prepared.request.thinking is None


def test_a_form_leaves_calls_alone():
    prepared = chat(tools=[NOW], params=SamplingParams(constraint=JSON))
    assert prepared.request.constraint == JSON


def test_without_the_markers_as_tokens_a_form_is_refused():
    with pytest.raises(UsageError, match="channel"):
        chat(small_tokenizer(), params=SamplingParams(constraint=JSON))
