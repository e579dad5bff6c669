"""Chat requests to generation requests: tools, choices, thinking, and what is refused."""

import functools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_vocabulary import IM_END, IM_START, SPECIAL, small_tokenizer

from abaci.chat.answer import ChatRequest, ReasoningOptions, ToolChoice, ToolChoiceMode
from abaci.chat.preparing import prepare
from abaci.chat.requests import GenerationDefaults, RequestRules
from abaci.chat.served import TextModel
from abaci.chat.thinking import CLOSING_SENTENCE, MIN_ANSWER_TOKENS
from abaci.errors import ContextLengthError, UsageError
from abaci.formats.chat_template import CHATML, ChatTemplate
from abaci.generation import Constraint, ConstraintKind, FinishReason, SamplingParams, TokenEvent

TEMPLATES = Path(__file__).parent / "templates"
QWEN = (TEMPLATES / "qwen2.5.jinja").read_text()
SWITCH = (TEMPLATES / "thinking_switch.jinja").read_text()
ALWAYS = (TEMPLATES / "always_thinking.jinja").read_text()

TOKENIZER = small_tokenizer(["[TOOL_CALLS]"], ["<think>", "</think>", "<tool_call>", "</tool_call>"])
END_OF_THOUGHT = TOKENIZER.encode("</think>")[0]
CALL_ID = "call_1"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather now <|im_end|>",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
USER = [{"role": "user", "content": "Hi"}]
HISTORY = [
    *USER,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": CALL_ID, "type": "function", "function": {"name": "now", "arguments": '{"zone": "CET"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": CALL_ID, "content": "noon"},
]
JSON = Constraint(ConstraintKind.JSON_SCHEMA, '{"type": "object"}')


@functools.cache
def model(source=QWEN, tokenizer=TOKENIZER, context_length=8192):
    rules = RequestRules(GenerationDefaults(), tokenizer.end_token_ids, context_length, tokenizer.vocab_size)
    return TextModel(tokenizer, ChatTemplate(source, bos_token="<s>"), rules)


def chat(source=QWEN, messages=USER, *, tokenizer=TOKENIZER, **options):
    return prepare(model(source, tokenizer), ChatRequest(messages, **options), "r")


def choice(mode, name=None):
    return {"tools": [WEATHER, NOW], "tool_choice": ToolChoice(ToolChoiceMode(mode), name)}


def read(prepared, text):
    token_ids = TOKENIZER.encode(text, allow_special=True)
    reader = prepared.new_reader(0)
    deltas = [reader.push(TokenEvent("r", 0, (i,))) for i in token_ids]
    return [*deltas, reader.push(TokenEvent("r", 0, (IM_END,), (), FinishReason.STOP, True))], reader


def joined(deltas):
    calls = {}
    for call in (call for delta in deltas for call in delta.tool_calls):
        name, arguments = calls.get(call.index, ("", ""))
        calls[call.index] = (name or call.name, arguments + call.arguments)
    return "".join(d.reasoning for d in deltas), "".join(d.content for d in deltas), list(calls.values())


# The prompt.


def test_a_plain_chat_is_what_the_template_says():
    prepared = chat(CHATML)
    assert prepared.prompt == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert prepared.request.prompt_token_ids == (IM_START, *b"user\nHi", IM_END, *b"\n", IM_START, *b"assistant\n")
    assert prepared.request.constraint is None
    assert prepared.request.thinking is None
    assert joined(read(prepared, "<think>a <tool_call>")[0]) == ("", "<think>a <tool_call>", [])


def test_tools_are_the_templates_business():
    prompt = chat(messages=HISTORY, tools=[WEATHER]).prompt
    assert '<tools>\n{"type": "function", "function": {"name": "get_weather"' in prompt
    assert '<tool_call>\n{"name": "now", "arguments": {"zone": "CET"}}\n</tool_call><|im_end|>' in prompt
    assert "<tool_response>\nnoon\n</tool_response>" in prompt
    assert prompt.endswith("<|im_start|>assistant\n")


def test_without_tools_none_are_shown():
    assert "<tools>" not in chat(tools=[]).prompt
    assert chat(tools=[]).prompt == chat().prompt == chat(**choice("none")).prompt
    assert joined(read(chat(**choice("none")), '<tool_call>{"name": "now"}')[0])[2] == []


def test_tools_are_explained_where_the_template_knows_none():
    prompt = chat(CHATML, [{"role": "system", "content": "Be kind."}, *HISTORY], tools=[WEATHER, NOW]).prompt
    assert prompt.startswith("<|im_start|>system\nBe kind.\n\nYou can call functions.")
    assert '\n{"name": "get_weather", "description": "Weather now <|im_end|>", "parameters": {"type"' in prompt
    assert '<|im_start|>assistant\n{"name": "now", "arguments": {"zone": "CET"}}<|im_end|>' in prompt
    assert "<|im_start|>user\nResult of now:\nnoon<|im_end|>" in prompt


def test_a_history_with_calls_is_told_where_the_template_knows_none():
    twice = [HISTORY[0], {**HISTORY[1], "content": "Sure."}, HISTORY[2], HISTORY[2], *USER]
    assert chat(CHATML, twice).prompt == (
        "<|im_start|>user\nHi<|im_end|>\n"
        '<|im_start|>assistant\nSure.\n{"name": "now", "arguments": {"zone": "CET"}}<|im_end|>\n'
        "<|im_start|>user\nResult of now:\nnoon\n\nResult of now:\nnoon<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_arguments_are_text_where_the_template_joins_them():
    assert 'now\n```json\n{"zone": "CET"}\n```' in chat(ALWAYS, HISTORY).prompt
    assert '"arguments": {"zone": "CET"}}' in chat(SWITCH, HISTORY).prompt


@given(
    text=st.lists(st.sampled_from([*SPECIAL, "<|im_", "end|>", "[TOOL_CALLS]", "<think>", "x", " "])).map("".join),
    source=st.sampled_from([QWEN, SWITCH, ALWAYS, CHATML]),
)
def test_no_text_becomes_a_special_token(text, source):
    tool = {"type": "function", "function": {"name": "f", "description": text, "parameters": {"title": text}}}
    call = {"id": text, "function": {"name": "f", "arguments": {text: [text]}}}
    messages = [
        {"role": "user", "content": text},
        {"role": "assistant", "content": text, "reasoning_content": text, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": text, "name": text, "content": text},
        {"role": "user", "content": "x"},
    ]
    plain = [
        {"role": "user", "content": "x"},
        {**messages[1], "content": "x", "reasoning_content": "x", "tool_calls": [{**call, "id": "x"}]},
        {**messages[2], "content": "x", "tool_call_id": "x", "name": "x"},
        {"role": "user", "content": "x"},
    ]

    def special(messages):
        ids = chat(source, messages, tools=[tool]).request.prompt_token_ids
        return [i for i in ids if TOKENIZER.is_special(i)]

    assert special(messages) == special(plain)


def test_the_prompt_is_spelled_out():
    prepared = chat(messages=HISTORY, tools=[WEATHER])
    assert TOKENIZER.decode(prepared.request.prompt_token_ids, skip_special=False) == prepared.prompt


def test_without_a_generation_prompt_nothing_is_added():
    prepared = chat(SWITCH, add_generation_prompt=False, reasoning=ReasoningOptions(budget_tokens=5))
    assert prepared.prompt == "<|im_start|>user\nHi<|im_end|>\n"
    assert prepared.request.thinking is None


# Calls.


def test_calls_are_read_and_numbered():
    prepared = chat(tools=[WEATHER, NOW])
    text = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    deltas, _ = read(prepared, f"Well.\n{text}\n{text}")
    assert joined(deltas) == ("", "Well.", [("now", "{}"), ("now", "{}")])
    heads = [call for delta in deltas for call in delta.tool_calls if call.name]
    assert [(call.index, call.arguments) for call in heads] == [(0, ""), (1, "")]
    assert len({call.id for call in heads}) == 2
    assert deltas[-1].has_tool_calls
    assert deltas[-1].finish_reason is FinishReason.STOP
    assert prepared.request.constraint is None


def test_markers_that_are_special_tokens_are_seen():
    source = CHATML + "{{ tools }}{# tool_calls '[TOOL_CALLS]' #}"
    deltas, _ = read(chat(source, tools=[NOW]), '[TOOL_CALLS] [{"name": "now", "arguments": {}}]<|im_start|>')
    assert joined(deltas) == ("", "", [("now", "{}")])
    deltas, _ = read(chat(source), "[TOOL_CALLS] x<|im_start|>")
    assert joined(deltas) == ("", " x", [])


def test_one_call_ends_the_sample_where_only_one_is_allowed():
    prepared = chat(tools=[NOW], allow_parallel_tool_calls=False)
    deltas, _ = read(prepared, '<tool_call>{"name": "now"}</tool_call><tool_call>{"name": "now"}</tool_call>')
    assert joined(deltas)[2] == [("now", "{}")]
    ends = [delta for delta in deltas if delta.finish_reason]
    assert [(d.finish_reason, d.stopped_by_string, d.has_tool_calls) for d in ends] == [(FinishReason.STOP, True, True)]


@pytest.mark.parametrize(("mode", "name"), [("required", None), ("named", "now")])
def test_calls_are_enforced(mode, name):
    prepared = chat(**choice(mode, name), params=SamplingParams(constraint=JSON))
    constraint = prepared.request.constraint
    assert constraint.kind is ConstraintKind.LARK
    assert ("get_weather" in constraint.source) == (mode == "required")
    assert ("{0,15}" in constraint.source) == (mode == "required")
    assert "get_weather" in prepared.prompt
    deltas, _ = read(prepared, '<tool_call>\n{"name": "now", "arguments": {"a": 1}}\n</tool_call>')
    assert joined(deltas)[2] == [("now", '{"a": 1}')]
    assert sum(len(delta.tool_calls) for delta in deltas) > 3


def test_a_response_form_and_tools_are_alternatives():
    prepared = chat(tools=[NOW], params=SamplingParams(constraint=JSON))
    assert 'response: %json {"type": "object"}' in prepared.request.constraint.source
    assert joined(read(prepared, '{"a": 1}')[0]) == ("", '{"a": 1}', [])
    assert chat(tools=[], params=SamplingParams(constraint=JSON)).request.constraint is JSON
    assert chat(**choice("none"), params=SamplingParams(constraint=JSON)).request.constraint is JSON


def test_strict_functions_are_enforced_though_calling_is_free():
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    prepared = chat(tools=[strict, NOW])
    assert "WORDS" in prepared.request.constraint.source
    assert chat(tools=[WEATHER, NOW]).request.constraint is None


# Thinking.


def test_the_model_opens_its_thought_itself():
    prepared = chat(SWITCH)
    assert prepared.prompt.endswith("assistant\n")
    assert prepared.request.thinking is None
    deltas, reader = read(prepared, "<think>\nHm.\n</think>\n\nYes.")
    assert joined(deltas) == ("Hm.", "Yes.", [])
    assert reader.num_reasoning_tokens == 1 + len("\nHm.\n") + 1
    deltas, reader = read(prepared, "Yes.")
    assert joined(deltas) == ("", "Yes.", [])
    assert reader.num_reasoning_tokens == 0


def test_the_prompt_has_opened_the_thought():
    deltas, reader = read(chat(ALWAYS), "Hm.</think>Yes.")
    assert joined(deltas) == ("Hm.", "Yes.", [])
    assert reader.num_reasoning_tokens == len("Hm.") + 1
    deltas, reader = read(chat(ALWAYS), "Hm.")
    assert joined(deltas) == ("Hm.", "", [])
    assert reader.num_reasoning_tokens == len("Hm.") + 1  # the end token is the thought's too


@pytest.mark.parametrize(
    "options",
    [
        {"reasoning": ReasoningOptions(is_enabled=False)},
        {"reasoning": ReasoningOptions(effort="none")},
        {"reasoning": ReasoningOptions(budget_tokens=0)},
        {"template_variables": {"enable_thinking": False}},
    ],
)
def test_thinking_is_switched_off(options):
    assert chat(SWITCH, **options).prompt.endswith("assistant\n<think>\n\n</think>\n\n")
    assert chat(ALWAYS, **options).prompt.endswith("<think>\n\n</think>\n\n")
    for source in (SWITCH, ALWAYS):
        prepared = chat(source, **options)
        assert prepared.request.thinking is None
        assert joined(read(prepared, "Yes.")[0]) == ("", "Yes.", [])
    assert chat(QWEN, **options).prompt == chat(QWEN).prompt


def test_a_budget_closes_the_thought_and_leaves_room_for_the_answer():
    closing = (*TOKENIZER.encode(CLOSING_SENTENCE), END_OF_THOUGHT)
    for source in (SWITCH, ALWAYS):
        prepared = chat(source, reasoning=ReasoningOptions(budget_tokens=100), params=SamplingParams(max_tokens=4000))
        assert prepared.prompt.endswith("<think>\n")
        thinking = prepared.request.thinking
        assert thinking.end_token_ids == (END_OF_THOUGHT,)
        assert (thinking.budget_tokens, thinking.closing_token_ids) == (100, closing)
        assert joined(read(prepared, "Hm.</think>Yes.")[0]) == ("Hm.", "Yes.", [])

    def budget(max_tokens):
        params = SamplingParams(max_tokens=max_tokens)
        return chat(
            ALWAYS, reasoning=ReasoningOptions(budget_tokens=1000), params=params
        ).request.thinking.budget_tokens

    assert budget(1000 + len(closing) + MIN_ANSWER_TOKENS) == 1000
    assert budget(999 + len(closing) + MIN_ANSWER_TOKENS) == 999
    assert budget(200) == 200 - len(closing) - 100
    assert budget(10) == 0


def test_the_closing_sentence_may_be_chosen():
    reasoning = ReasoningOptions(budget_tokens=1, closing_sentence="Enough.")
    assert chat(ALWAYS, reasoning=reasoning).request.thinking.closing_token_ids == (*b"Enough.", END_OF_THOUGHT)


@pytest.mark.parametrize(("effort", "budget"), [("minimal", 512), ("low", 1024), ("medium", 4096), ("high", None)])
def test_effort_is_a_budget_where_the_template_knows_none(effort, budget):
    prepared = chat(SWITCH, reasoning=ReasoningOptions(effort=effort))
    thinking = prepared.request.thinking
    assert (thinking and thinking.budget_tokens) == budget
    knowing = chat(SWITCH + "{{ reasoning_effort }}", reasoning=ReasoningOptions(effort=effort))
    assert knowing.prompt.endswith(effort)
    assert knowing.request.thinking is None


def test_a_form_begins_after_the_thought():
    for source in (SWITCH, ALWAYS):
        prepared = chat(source, params=SamplingParams(constraint=JSON))
        assert prepared.prompt.endswith("<think>\n")
        assert prepared.request.thinking.budget_tokens is None
        assert prepared.request.constraint is JSON
        off = chat(source, params=SamplingParams(constraint=JSON), reasoning=ReasoningOptions(is_enabled=False))
        assert off.request.thinking is None
        required = chat(source, **choice("required"))
        assert required.request.thinking is not None
        assert required.request.constraint.source.startswith('start: "\\n\\n"?')
        deltas, _ = read(
            chat(SWITCH, **choice("required")), 'Hm.</think>\n\n<tool_call>\n{"name": "now", "arguments": {}}'
        )
        assert joined(deltas) == ("Hm.", "", [("now", "{}")])


def test_calls_in_a_thought_are_none():
    deltas, _ = read(chat(SWITCH, tools=[NOW]), '<think><tool_call>{"name": "now"}</tool_call></think>No.')
    assert joined(deltas) == ('<tool_call>{"name": "now"}</tool_call>', "No.", [])


def test_thoughts_of_the_history_are_kept():
    for key in ("reasoning", "reasoning_content"):
        messages = [*USER, {"role": "assistant", "content": "Yes.", key: "Hm."}, *USER]
        assert "assistant\n<think>\nHm.\n</think>\n\nYes." in chat(SWITCH, messages).prompt


def test_stop_strings_act_on_the_thought_too():
    prepared = chat(ALWAYS, params=SamplingParams(stop="STOP"))
    deltas, _ = read(prepared, "Hm. STOP </think>Yes.")
    assert joined(deltas) == ("Hm.", "", [])
    assert [d.stop_string for d in deltas if d.finish_reason] == ["STOP"]


# What is refused.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tool_choice": ToolChoice(ToolChoiceMode.REQUIRED)}, "tool_choice required"),
        (choice("named", "missing"), "'missing'"),
        ({"tools": [NOW, NOW]}, r"tools\[1\].function.name: 'now' is there twice"),
        ({"tools": [{"type": "retrieval"}]}, r"tools\[0\] is of type 'retrieval'"),
        ({"tools": [{"type": "function"}]}, r"tools\[0\].function is missing"),
        ({"tools": [{"function": {"name": "a b"}}]}, r"tools\[0\].function.name 'a b'"),
        ({"tools": [{"function": {"name": "f", "parameters": []}}]}, r"tools\[0\].function.parameters is not"),
        ({"tools": [{"function": {"name": "f", "parameters": {"type": "array"}}}]}, "parameters.type is 'array'"),
        ({"tools": [{"function": {"name": "f", "strict": "yes"}}]}, "strict is neither"),
        ({"tools": [{"function": {"name": "f", "description": 1}}]}, "description is not text"),
        ({"reasoning": ReasoningOptions(is_enabled=True)}, "thinking: this model does not"),
        ({"reasoning": ReasoningOptions(effort="low")}, "reasoning_effort: this model does not"),
        ({"reasoning": ReasoningOptions(effort="huge")}, "reasoning_effort 'huge'"),
        ({"reasoning": ReasoningOptions(budget_tokens=-1)}, "thinking budget"),
        ({"params": SamplingParams(temperature=-1)}, "temperature"),
        ({"template_variables": {"messages": []}}, "template variables may not be named messages"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(options, message):
    with pytest.raises(UsageError, match=message):
        chat(**options)


def test_a_model_that_does_not_think_may_be_told_not_to():
    for options in (
        ReasoningOptions(is_enabled=False),
        ReasoningOptions(effort="none"),
        ReasoningOptions(False, "none", 9),
    ):
        assert chat(QWEN, reasoning=options).request.thinking is None
        assert chat(QWEN, reasoning=options).prompt == chat(QWEN).prompt


def test_a_thought_without_an_end_token_cannot_be_bounded():
    with pytest.raises(UsageError, match="no token </think>"):
        chat(ALWAYS, tokenizer=small_tokenizer(), reasoning=ReasoningOptions(budget_tokens=10))


def test_thinking_that_the_template_has_closed_cannot_be_switched_on():
    source = CHATML + "<think></think>"
    assert chat(source).prompt.endswith("<think></think>")
    with pytest.raises(UsageError, match="no switch"):
        chat(source, reasoning=ReasoningOptions(is_enabled=True))


def test_a_prompt_that_leaves_no_room_is_refused_with_the_numbers():
    with pytest.raises(ContextLengthError, match=r"\d+ tokens, but the context holds 16"):
        prepare(model(context_length=16), ChatRequest(USER), "r")
