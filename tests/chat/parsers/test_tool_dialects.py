"""Transcripts of every tool dialect: what is a call, what stays content, and the same wherever the text is cut."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parsing import Answer, cuts, parse

from abaci.chat.parsers import tool_dialect, tool_dialects
from abaci.chat.parsers.scanner import MAX_NAME_CHARACTERS, Scanner

NAMES = ("get_weather", "add")
WEATHER = ("get_weather", {"city": "Zürich"})
ADD = ("add", {"a": 1, "b": [2.5e3, None]})
W = '"get_weather"'
W_ARGS = '{"city": "Zürich"}'
A_ARGS = '{"a": 1, "b": [2.5e3, null]}'
W_CALL = f'{{"name": {W}, "arguments": {W_ARGS}}}'
A_CALL = f'{{"name": "add", "arguments": {A_ARGS}}}'

SCHEMAS = {
    "get_weather": {"type": "object", "properties": {"city": {"type": "string"}}},
    "add": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "array"}}},
}
W_TAGS = "<function=get_weather>\n<parameter=city>\nZürich\n</parameter>\n</function>"
A_TAGS = "<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n[2.5e3, null]\n</parameter>\n</function>"
W_KEYS = "<arg_key>city</arg_key>\n<arg_value>Zürich</arg_value>"
A_KEYS = "<arg_key>a</arg_key><arg_value>1</arg_value><arg_key>b</arg_key><arg_value>[2.5e3, null]</arg_value>"

# dialect, text, content, calls
TAGGED = [
    ("function_tags", f"<tool_call>\n{W_TAGS}\n</tool_call>", "", [WEATHER]),
    (
        "function_tags",
        f"I look.\n\n<tool_call>\n{W_TAGS}\n</tool_call>\n<tool_call>\n{A_TAGS}\n</tool_call>",
        "I look.",
        [WEATHER, ADD],
    ),
    ("function_tags", f"{W_TAGS}\n</tool_call>", "", [WEATHER]),
    ("function_tags", f"So: {W_TAGS} Done.", "So:\n Done.".replace("\n", ""), [WEATHER]),
    ("function_tags", "<tool_call>\n<function=now>\n</function>\n</tool_call>", "", [("now", {})]),
    ("function_tags", "<tool_call><function=now></tool_call>", "", [("now", {})]),
    (
        "function_tags",
        "<tool_call>\n<function=run>\n<parameter=code>\n\nif a < b:\n  <x>\n\n</parameter>\n</function>\n</tool_call>",
        "",
        [("run", {"code": "\nif a < b:\n  <x>\n"})],
    ),
    (
        "function_tags",
        "<tool_call><function=add><parameter=a>1<parameter=b>[]</function></tool_call>",
        "",
        [("add", {"a": 1, "b": []})],
    ),
    ("function_tags", f"<tool_call>\n{W_CALL}\n</tool_call>", "", [WEATHER]),
    ("function_tags", f"<tool_call>\n{W_TAGS[:-20]}", f"<tool_call>\n{W_TAGS[:-20]}", []),
    ("function_tags", "<tool_call>\n<function=f>\nno", "<tool_call>\n<function=f>\nno", []),
    ("function_tags", "The <tool_call> tag.", "The <tool_call> tag.", []),
    ("argument_tags", f"<tool_call>get_weather\n{W_KEYS}\n</tool_call>", "", [WEATHER]),
    (
        "argument_tags",
        f"\nI look.\n<tool_call>get_weather\n{W_KEYS}\n</tool_call>\n<tool_call>add{A_KEYS}</tool_call>",
        "\nI look.",
        [WEATHER, ADD],
    ),
    ("argument_tags", "<tool_call>now\n</tool_call>", "", [("now", {})]),
    ("argument_tags", "<tool_call>now</tool_call>", "", [("now", {})]),
    (
        "argument_tags",
        "<tool_call>run<arg_key>code</arg_key><arg_value>a </arg_key>\n</arg_value></tool_call>",
        "",
        [("run", {"code": "a </arg_key>\n"})],
    ),
    ("argument_tags", f"<tool_call>\n{A_CALL}\n</tool_call>", "", [ADD]),
    ("argument_tags", f"<tool_call>get_weather\n{W_KEYS}", f"<tool_call>get_weather\n{W_KEYS}", []),
    (
        "argument_tags",
        "<tool_call>f<arg_key>a</arg_key>b</tool_call>",
        "<tool_call>f<arg_key>a</arg_key>b</tool_call>",
        [],
    ),
    ("argument_tags", "The <tool_call> tag.", "The <tool_call> tag.", []),
]
Q = '<|"|>'
GEMMA = [
    ("gemma", f"<|tool_call>call:get_weather{{city:{Q}Zürich{Q}}}<tool_call|>", "", [WEATHER]),
    ("gemma", "So.<|tool_call>call:add{a:1,b:[2.5e3,null]}<tool_call|>", "So.", [ADD]),
    (
        "gemma",
        f"<|tool_call>call:get_weather{{city:{Q}Zürich{Q}}}<tool_call|><|tool_call>call:add{A_ARGS}<tool_call|>",
        "",
        [WEATHER, ADD],
    ),
    ("gemma", "<|tool_call>call:now{}<tool_call|>", "", [("now", {})]),
    (
        "gemma",
        f'<|tool_call>call:f{{a:{{{Q}k{Q}:{Q}x "y" {{b:1}}\n{Q}, c : [true,{{d:-1.5}}]}}}}<tool_call|>',
        "",
        [("f", {"a": {"k": 'x "y" {b:1}\n', "c": [True, {"d": -1.5}]}})],
    ),
    ("gemma", "<|tool_call>call:f{a:b}<tool_call|>", "<|tool_call>call:f{a:b}<tool_call|>", []),
    ("gemma", f"<|tool_call>call:f{{a:{Q}cut", f"<|tool_call>call:f{{a:{Q}cut", []),
    ("gemma", '<|tool_call>call:f{a:"\\x"}<tool_call|>', '<|tool_call>call:f{a:"\\x"}<tool_call|>', []),
    ("gemma", "<|tool_call>call:f{a:1E400}<tool_call|>", "<|tool_call>call:f{a:1E400}<tool_call|>", []),
    ("gemma", "<|tool_call> no", "<|tool_call> no", []),
]

HARMONY_CALL = "<|channel|>commentary to=functions.{} <|constrain|>json<|message|>{}"
TRANSCRIPTS = [
    ("harmony", HARMONY_CALL.format("get_weather", W_ARGS), "", [WEATHER]),
    (
        "harmony",
        f"<|channel|>commentary<|message|>I look.<|end|><|start|>assistant{HARMONY_CALL.format('add', A_ARGS)}<|call|>",
        "I look.",
        [ADD],
    ),
    ("harmony", " to=functions.add<|channel|>commentary <|constrain|>json<|message|>" + A_ARGS, "", [ADD]),
    (
        "harmony",
        "<|channel|>final<|message|>a<|end|><|start|>assistant to=functions.add<|channel|>commentary<|message|>"
        + A_ARGS,
        "a",
        [ADD],
    ),
    ("harmony", HARMONY_CALL.format("unknown", "{}"), "{}", []),
    ("harmony", HARMONY_CALL.format("add", '{"a": '), HARMONY_CALL.format("add", '{"a": '), []),
    ("harmony", HARMONY_CALL.format("add", "no"), HARMONY_CALL.format("add", "no"), []),
    ("harmony", "to be", "to be", []),
    ("harmony", " to=nobody", " to=nobody", []),
    ("harmony", "<|channel|>final<|message|>So.", "So.", []),
    ("hermes", f"<tool_call>\n{W_CALL}\n</tool_call>", "", [WEATHER]),
    ("hermes", f"Let me see.\n<tool_call>\n{W_CALL}\n</tool_call>", "Let me see.", [WEATHER]),
    (
        "hermes",
        f"<tool_call>\n{W_CALL}\n</tool_call>\n<tool_call>\n{A_CALL}\n</tool_call>",
        "",
        [WEATHER, ADD],
    ),
    ("hermes", f"<tool_call>{W_CALL}", "", [WEATHER]),
    ("hermes", f"<tool_call>{W_CALL}</tool_call>\n\nDone. ", "Done.", [WEATHER]),
    ("hermes", f"A\n<tool_call>{W_CALL}</tool_call>\n\nB", "A\n\nB", [WEATHER]),
    ("hermes", f"A\n<tool_call>{W_CALL}\n\nB", "A\n\nB", [WEATHER]),
    ("hermes", f"<tool_call>{W_CALL}</tool_call> \n", "", [WEATHER]),
    ("hermes", '<tool_call>{"arguments": {}, "name": "now"}</tool_call>', "", [("now", {})]),
    ("hermes", '<tool_call>{"name": "now"}</tool_call>', "", [("now", {})]),
    ("hermes", '<tool_call>{"name": "now", "arguments": null}</tool_call>', "", [("now", {})]),
    (
        "hermes",
        '<tool_call>{"name": "run", "arguments": {"code": "a\nb"}}</tool_call>',
        "",
        [("run", {"code": "a\nb"})],
    ),
    ("hermes", "Use the <tool_call> tag.\n", "Use the <tool_call> tag.\n", []),
    ("hermes", f"```json\n{W_CALL}\n```", "", [WEATHER]),
    ("hermes", f"{W_CALL}\n<tool_call>\n{A_CALL}\n</tool_call>", "", [WEATHER, ADD]),
    ("hermes", '```json\n{"name": "Ada"}\n```', '```json\n{"name": "Ada"}\n```', []),
    ("hermes", "```python\n1\n```", "```python\n1\n```", []),
    ("hermes", f"\n\n<tool_call>{W_CALL}", "", [WEATHER]),
    ("hermes", "1 < 2 <tool", "1 < 2 <tool", []),
    ("hermes", " plain\n\n", " plain\n\n", []),
    ("hermes", '<tool_call>\n{"name": "f", "arg', '<tool_call>\n{"name": "f", "arg', []),
    ("hermes", f"<tool_call>\n{W_CALL[:-1]}\n</tool_call>", f"<tool_call>\n{W_CALL[:-1]}\n</tool_call>", []),
    (
        "hermes",
        f"<tool_call>\n{W_CALL[:-1]}\n</tool_call>\n<tool_call>\n{A_CALL}\n</tool_call>",
        f"<tool_call>\n{W_CALL[:-1]}\n</tool_call>",
        [ADD],
    ),
    ("hermes", '<tool_call>{"name": 1}</tool_call>', '<tool_call>{"name": 1}</tool_call>', []),
    ("hermes", '<tool_call>{"name": "\\ud800"}</tool_call>', '<tool_call>{"name": "\\ud800"}</tool_call>', []),
    ("hermes", '<tool_call>{"name": "f", "arguments": [1]}', '<tool_call>{"name": "f", "arguments": [1]}', []),
    ("hermes", f"<tool_call><tool_call>{W_CALL}", "<tool_call>", [WEATHER]),
    ("llama3", f'{{"name": {W}, "parameters": {W_ARGS}}}', "", [WEATHER]),
    ("llama3", f'<|python_tag|>{{"name": {W}, "parameters": {W_ARGS}}}', "", [WEATHER]),
    (
        "llama3",
        f'\n{{"type": "function", "name": {W}, "parameters": {W_ARGS}}}; {{"name": "add", "parameters": {A_ARGS}}}',
        "",
        [WEATHER, ADD],
    ),
    ("llama3", f'Hm.\n<|python_tag|>{{"name": {W}, "parameters": {W_ARGS}}}', "Hm.", [WEATHER]),
    ("llama3", '{"name": "unknown", "parameters": {}}', '{"name": "unknown", "parameters": {}}', []),
    ("llama3", '{"name": ["add"], "parameters": {}}', '{"name": ["add"], "parameters": {}}', []),
    ("llama3", '{"answer": {"name": "add"}}\n', '{"answer": {"name": "add"}}\n', []),
    ("llama3", "<|python_tag|>print(1)", "<|python_tag|>print(1)", []),
    ("llama3", f'\n<|python_tag|>{{"name": {W}, "parameters": {W_ARGS}}}', "", [WEATHER]),
    ("llama3", 'Say {"name": "add", "parameters": {}}', 'Say {"name": "add", "parameters": {}}', []),
    ("llama3", ' {"a": "<|python_tag|>', ' {"a": "<|python_tag|>', []),
    ("mistral", f"[TOOL_CALLS] [{W_CALL}]", "", [WEATHER]),
    ("mistral", f"[TOOL_CALLS][{W_CALL}, {A_CALL}]", "", [WEATHER, ADD]),
    (
        "mistral",
        f'Well. [TOOL_CALLS] [{{"name": "add", "arguments": {A_ARGS}, "id": "VvvODy9mT"}}]\n',
        "Well.",
        [ADD],
    ),
    ("mistral", f"[TOOL_CALLS]get_weather[ARGS]{W_ARGS}", "", [WEATHER]),
    ("mistral", f"[TOOL_CALLS]get_weather{W_ARGS}[TOOL_CALLS]add{A_ARGS}", "", [WEATHER, ADD]),
    ("mistral", f"[TOOL_CALLS]add[CALL_ID]VvvODy9mT[ARGS]{A_ARGS}", "", [ADD]),
    ("mistral", "[TOOL_CALLS] nothing", "[TOOL_CALLS] nothing", []),
    ("mistral", f"[TOOL_CALLS] [{W_CALL}, 3]", "3]", [WEATHER]),
    ("mistral", '[TOOL_CALLS]add[ARGS]{"a": ', '[TOOL_CALLS]add[ARGS]{"a": ', []),
    ("mistral", "[TOOL_CALLS]" + "x" * 200 + "{}", "[TOOL_CALLS]" + "x" * 200 + "{}", []),
    (
        "deepseek",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
        f"```json\n{W_ARGS}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "",
        [WEATHER],
    ),
    (
        "deepseek",
        "Both.\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
        f"```json\n{W_ARGS}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n"
        f"```json\n{A_ARGS}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "Both.",
        [WEATHER, ADD],
    ),
    (
        "deepseek",
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{W_ARGS}<｜tool▁call▁end｜>"
        f"<｜tool▁call▁begin｜>add<｜tool▁sep｜>{A_ARGS}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "",
        [WEATHER, ADD],
    ),
    ("deepseek", "<｜tool▁calls▁begin｜> none", "<｜tool▁calls▁begin｜> none", []),
    (
        "deepseek",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>g",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>g",
        [],
    ),
    *TAGGED,
    *GEMMA,
    ("plain_json", W_CALL, "", [WEATHER]),
    ("plain_json", f"\n[{W_CALL}, {A_CALL}]\n", "", [WEATHER, ADD]),
    ("plain_json", f"```json\n{W_CALL}\n```", "", [WEATHER]),
    ("plain_json", f"```json\n[{W_CALL}]\n```\nSo.", "So.", [WEATHER]),
    ("plain_json", f"{W_CALL}\n{A_CALL}", "", [WEATHER, ADD]),
    ("plain_json", f"{W_CALL}\nand more", "and more", [WEATHER]),
    ("plain_json", '{"name": "Ada", "age": 36}', '{"name": "Ada", "age": 36}', []),
    ("plain_json", "[1, 2]", "[1, 2]", []),
    ("plain_json", "```python\nprint(1)\n```", "```python\nprint(1)\n```", []),
    ("plain_json", f"It is {W_CALL}", f"It is {W_CALL}", []),
    ("plain_json", "", "", []),
]


def scanner(dialect, **options):
    return Scanner(tool_dialects()[dialect].read, NAMES, schemas=SCHEMAS, **options)


@pytest.mark.parametrize(("dialect", "text", "content", "calls"), TRANSCRIPTS)
def test_transcripts(dialect, text, content, calls):
    answer = parse(scanner(dialect), text)
    assert answer.content == content
    assert answer.values() == calls
    assert answer.num_ended == len(calls)
    assert parse(scanner(dialect), *text) == answer


def test_every_dialect_is_tested():
    assert {dialect for dialect, *_ in TRANSCRIPTS} == set(tool_dialects())


FRAGMENTS = [
    *(W_CALL, A_CALL, W_ARGS, W_CALL[:-1], A_CALL[:20], '{"name": "add", "parameters": {}}', "get_weather", "add"),
    *("<tool_call>", "</tool_call>", "<tool_", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[", "]"),
    *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),
    *("<｜tool▁sep｜>", "function", "```json", "```", "`", ";", ",", " ", "\n", "\n\n", "{", "}", '"', "text"),
    *(
        "<function=",
        "<function=add>",
        "</function>",
        "<parameter=a>",
        "</parameter>",
        "<parameter=",
        ">",
        W_TAGS,
        A_TAGS,
    ),
    *("<|tool_call>", "call:add", "<tool_call|>", Q, "a:", "{a:1}", "{a:" + Q),
    *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", W_KEYS, A_KEYS, "1E400", "NaN", "<arg_"),
    "x" * MAX_NAME_CHARACTERS,
]


@pytest.mark.parametrize("dialect", tool_dialects())
@pytest.mark.parametrize("is_certain", [False, True])
@given(pieces=cuts(st.lists(st.sampled_from(FRAGMENTS), max_size=9).map("".join)))
def test_cuts_change_nothing(dialect, is_certain, pieces):
    text, parts = pieces
    whole = parse(scanner(dialect, is_certain=is_certain), text)
    assert parse(scanner(dialect, is_certain=is_certain), *parts) == whole
    if not is_certain:
        assert all(isinstance(arguments, dict) for _, arguments in whole.values())
    if not whole.calls:
        assert whole.content == text


@pytest.mark.parametrize("dialect", tool_dialects())
@given(text=st.text(max_size=60))
def test_text_without_calls_passes_unchanged(dialect, text):
    assert parse(scanner(dialect), *text) == Answer(content=text)


def test_content_does_not_wait_for_what_cannot_be_a_call():
    parser = scanner("hermes")
    assert parse(parser, "a < b").content == "a < b"
    parser = scanner("hermes")
    assert Answer().add(parser.push("one two")).content == "one two"
    assert Answer().add(parser.push(" <to")).content == ""
    assert Answer().add(parser.push("p>")).content == " <top>"
    assert Answer().add(parser.push('<tool_call>{"name": !')).content == '<tool_call>{"name": !'
    bare = scanner("llama3")
    assert Answer().add(bare.push('{"answer": ')).content == '{"answer":'


def test_a_call_is_told_when_its_object_is_complete():
    parser = scanner("hermes")
    assert not parser.push(f"<tool_call>{W_CALL[:-1]}")
    assert Answer().add(parser.push("}")).values() == [WEATHER]


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        ("hermes", f"<tool_call>\n{A_CALL}\n</tool_call>"),
        ("llama3", f'{{"name": "add", "parameters": {A_ARGS}}}'),
        ("mistral", f"[TOOL_CALLS] [{A_CALL}]"),
        ("deepseek", f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{A_ARGS}<｜tool▁call▁end｜>"),
        ("plain_json", f"[{A_CALL}]"),
    ],
)
def test_what_a_grammar_guarantees_flows(dialect, text):
    parser = scanner(dialect, is_certain=True)
    answer, pieces = Answer(), []
    for character in text:
        new = parser.push(character)
        answer.add(new)
        pieces += new
    assert answer.add(parser.finish()).values() == [ADD]
    assert answer.content == ""
    assert len(pieces) > len(A_ARGS)


def test_a_guaranteed_call_that_is_cut_off_is_told_once():
    answer = parse(scanner("hermes", is_certain=True), *'<tool_call>\n{"name": "add", "arguments": {"a": 1')
    assert answer.calls == [("add", '{"a": 1')]
    assert answer.content == ""
    assert answer.num_ended == 0


def test_hostile_text_is_read_in_linear_time():
    text = '<tool_call>{"a": "' * 20_000
    answer = parse(scanner("hermes"), *(text[i : i + 40] for i in range(0, len(text), 40)))
    assert answer.content == text
    for dialect, unit in (("function_tags", "<function=f><parameter=a>"), ("argument_tags", "<tool_call>f<arg_key>")):
        tags = unit * 8_000
        assert parse(scanner(dialect), *(tags[i : i + 40] for i in range(0, len(tags), 40))).content == tags
    spaces = " \n" * 50_000
    assert parse(scanner("hermes"), *(spaces[i : i + 40] for i in range(0, len(spaces), 40))).content == spaces


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("... <tool_call></tool_call> XML tags", "hermes"),
        ("... <tool_call>\n<function=example>\n<parameter=x>", "function_tags"),
        ("... <tool_call>{name}\n<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>", "argument_tags"),
        ('{"name": function name, "parameters": dictionary of argument name and its value}', "llama3"),
        ("{{- '<|python_tag|>' }}", "llama3"),
        ("{{- '[TOOL_CALLS] [' }}", "mistral"),
        ("{{'<｜tool▁calls▁begin｜>'}}", "deepseek"),
        ("<|tool_call>call:", "gemma"),
        ("<|start|>assistant<|channel|>final<|message|>", "harmony"),
        ("{{ messages }}", "plain_json"),
    ],
)
def test_the_template_says_the_dialect(source, name):
    assert tool_dialect(source) is tool_dialects()[name]


def test_mistral_ids_are_what_its_templates_want():
    call_id = tool_dialects()["mistral"].new_call_id()
    assert len(call_id) == 9
    assert call_id.isalnum()
    assert call_id.isascii()


def test_other_ids_are_openai_s():
    first, second = (tool_dialects()["hermes"].new_call_id() for _ in range(2))
    assert first != second
    assert first.startswith("call_")
    assert len(first) == len("call_") + 24


def test_arguments_are_the_models_own_text():
    arguments = '{ "a":1.50,"b" : 1E400, "big": 123456789012345678901234567890 }'
    answer = parse(scanner("hermes"), f'<tool_call>{{"name": "add", "arguments": {arguments}}}')
    assert answer.calls == [("add", arguments)]
    json.loads(arguments)
