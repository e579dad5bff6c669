"""Anthropic's own Python client against the server, streaming and not."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest
from scripted_server import MODEL, ScriptedServer, call_text, scripted_server

from abaci.generation import ConstraintKind

TOOL = {
    "name": "get_weather",
    "description": "Tell the weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
THOUGHT = "<think>\nHm, a greeting.\n</think>\n\nHello."


@pytest.fixture
def server(reused_server: ScriptedServer) -> ScriptedServer:
    return reused_server


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


def asked(text: str = "Hi", **changes: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 500, "messages": [{"role": "user", "content": text}], **changes}


def test_message(server: ScriptedServer, client: anthropic.Anthropic) -> None:
    server.say("Grüß Gott.")
    answer = client.messages.create(**asked(system="Be kind.", extra_body={"temperature": 0.5, "top_k": 3}))
    assert [block.model_dump(include={"type", "text"}) for block in answer.content] == [
        {"type": "text", "text": "Grüß Gott."}
    ]
    assert (answer.stop_reason, answer.stop_sequence, answer.role, answer.model) == (
        "end_turn",
        None,
        "assistant",
        MODEL,
    )
    assert answer.usage.input_tokens == len(server.requests[0].prompt_token_ids)
    assert answer.usage.output_tokens == len("Grüß Gott.".encode()) + 1
    assert answer.usage.cache_read_input_tokens == 0
    assert answer._request_id and answer.id == f"msg_{answer._request_id}"
    assert server.prompt().startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n")
    assert (server.requests[0].temperature, server.requests[0].top_k, server.requests[0].max_tokens) == (0.5, 3, 500)


def test_stream(server: ScriptedServer, client: anthropic.Anthropic) -> None:
    server.say("Grüß Gott.")
    with client.messages.stream(**asked()) as stream:
        assert "".join(stream.text_stream) == "Grüß Gott."
        final = stream.get_final_message()
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", len("Grüß Gott.".encode()) + 1)
    assert final.usage.input_tokens == len(server.requests[0].prompt_token_ids)


def test_events_of_a_stream(server: ScriptedServer) -> None:
    server.say(THOUGHT + call_text("get_weather", '{"city": "Rome"}'))
    response = httpx.post(f"{server.url}/v1/messages", json=asked(stream=True, tools=[TOOL]))
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = response.text.split("\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert [f"event: {event['type']}" for event in events] == [line for line in lines if line.startswith("event: ")]
    kinds = [event["type"] for event in events if event["type"] != "content_block_delta"]
    block = ["content_block_start", "content_block_stop"]
    assert kinds == ["message_start", "ping", *block, *block, *block, "message_delta", "message_stop"]
    starts = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
    assert starts == ["thinking", "text", "tool_use"]
    indices = [event["index"] for event in events if "index" in event]
    assert indices == sorted(indices) and set(indices) == {0, 1, 2}
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}


def test_a_call_is_streamed(server: ScriptedServer, client: anthropic.Anthropic) -> None:
    server.say("I look." + call_text("get_weather", '{"city": "Rome"}') + "\n" + call_text("get_weather", "{}"))
    with client.messages.stream(**asked(tools=[TOOL])) as stream:
        final = stream.get_final_message()
    assert [block.type for block in final.content] == ["text", "tool_use", "tool_use"]
    assert [block.input for block in final.content[1:]] == [{"city": "Rome"}, {}]
    assert final.content[1].name == "get_weather" and final.content[1].id != final.content[2].id
    assert final.stop_reason == "tool_use"


def test_a_call_and_its_result(server: ScriptedServer, client: anthropic.Anthropic) -> None:
    server.say("I look." + call_text("get_weather", '{"city": "Rome"}'))
    first = client.messages.create(**asked(tools=[TOOL]))
    text, call = first.content
    assert (text.text, call.name, call.input) == ("I look.", "get_weather", {"city": "Rome"})
    assert first.stop_reason == "tool_use"
    server.say("Sunny.")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "sun"}]}
    history = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in first.content]},
        {"role": "user", "content": [result, {"type": "text", "text": "So?"}]},
    ]
    second = client.messages.create(**asked(tools=[TOOL], messages=history))
    assert second.content[0].text == "Sunny."
    assert '"name": "get_weather"' in server.prompt()
    assert "<|im_start|>tool\nsun<|im_end|>\n<|im_start|>user\nSo?<|im_end|>\n" in server.prompt()


def test_failed_tools_say_so(server: ScriptedServer, client: anthropic.Anthropic) -> None:
    call = {"type": "tool_use", "id": "a", "name": "get_weather", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": "no network", "is_error": True}
    history = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    client.messages.create(**asked(tools=[TOOL], messages=history))
    assert "<|im_start|>tool\nError: no network<|im_end|>" in server.prompt()


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_calls_can_be_required(server: ScriptedServer, client: anthropic.Anthropic, choice: Any) -> None:
    server.say("I shall.</think>" + call_text("get_weather", '{"city": "Rome"}'))
    thought, call = client.messages.create(**asked(tools=[TOOL], tool_choice=choice)).content
    assert (thought.thinking, call.input) == ("I shall.", {"city": "Rome"})
    assert server.requests[0].constraint is not None


def test_calls_can_be_forbidden(server: ScriptedServer, client: anthropic.Anthropic) -> None:
    client.messages.create(**asked(tools=[TOOL], tool_choice={"type": "none"}))
    assert "get_weather" not in server.prompt()


def test_one_call_at_a_time(server: ScriptedServer, client: anthropic.Anthropic) -> None:
    server.say(call_text("get_weather", "{}") + call_text("get_weather", "{}"))
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    assert len(client.messages.create(**asked(tools=[TOOL], tool_choice=choice)).content) == 1


def test_a_call_cut_off_is_text(server: ScriptedServer, client: anthropic.Anthropic) -> None:
    server.say("</think>" + call_text("get_weather", '{"city": "Rome"}'))
    answer = client.messages.create(**asked(tools=[TOOL], tool_choice={"type": "any"}, max_tokens=50))
    assert answer.stop_reason == "max_tokens"
    assert [block.type for block in answer.content] == ["text"]
    assert '{"city": ' in answer.content[0].text


def test_thinking(server: ScriptedServer, client: anthropic.Anthropic) -> None:
    server.say(THOUGHT)
    enabled = {"type": "enabled", "budget_tokens": 100}
    thought, text = client.messages.create(**asked(thinking=enabled)).content
    assert (thought.thinking, thought.signature, text.text) == ("Hm, a greeting.", "", "Hello.")
    with client.messages.stream(**asked(thinking=enabled)) as stream:
        assert stream.get_final_message().content[0].thinking == "Hm, a greeting."
    omitted = client.messages.create(**asked(thinking={**enabled, "display": "omitted"}))
    assert [block.type for block in omitted.content] == ["text"]


def test_thoughts_of_the_history_are_kept(server: ScriptedServer, client: anthropic.Anthropic) -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": ""}
    history = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [thought, {"type": "text", "text": "Hello."}]},
        {"role": "user", "content": "And now?"},
    ]
    client.messages.create(**asked(messages=history))
    assert "<think>\nHm.\n</think>\n\nHello.<|im_end|>" in server.prompt()


def test_thinking_can_be_off(server: ScriptedServer, client: anthropic.Anthropic) -> None:
    client.messages.create(**asked(thinking={"type": "disabled"}))
    assert server.prompt().endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_stop_sequence_is_reported(server: ScriptedServer, client: anthropic.Anthropic) -> None:
    server.say("one two three")
    answer = client.messages.create(**asked(stop_sequences=["zero", " two"]))
    assert (answer.content[0].text, answer.stop_reason, answer.stop_sequence) == ("one", "stop_sequence", " two")


def test_limit_of_tokens(server: ScriptedServer, client: anthropic.Anthropic) -> None:
    server.say("one two three")
    answer = client.messages.create(**asked(max_tokens=3))
    assert (answer.content[0].text, answer.stop_reason) == ("one", "max_tokens")


def test_form_of_the_answer(server: ScriptedServer, client: anthropic.Anthropic) -> None:
    server.say('{"a": 1}')
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    client.messages.create(**asked(output_config={"format": {"type": "json_schema", "schema": schema}}))
    assert server.requests[0].constraint.kind is ConstraintKind.JSON_SCHEMA


def test_turns_of_one_role_are_one(server: ScriptedServer, client: anthropic.Anthropic) -> None:
    history = [{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "b"}]}]
    client.messages.create(**asked(messages=history))
    assert server.prompt() == "<|im_start|>user\na\n\nb<|im_end|>\n<|im_start|>assistant\n"


def test_bookkeeping_of_clients_is_not_shown_to_the_model(server: ScriptedServer, client: anthropic.Anthropic) -> None:
    system = [{"type": "text", "text": "x-anthropic-billing-header: cc=1;"}, {"type": "text", "text": "Be kind."}]
    client.messages.create(**asked(system=system))
    assert server.prompt().startswith("<|im_start|>system\nBe kind.<|im_end|>")


def test_count_tokens(server: ScriptedServer, client: anthropic.Anthropic) -> None:
    body = asked(system="Be kind.", tools=[TOOL])
    del body["max_tokens"]
    counted = client.messages.count_tokens(**body).input_tokens
    client.messages.create(**asked(system="Be kind.", tools=[TOOL]))
    assert counted == len(server.requests[0].prompt_token_ids)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "'image'"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "tool_use_id"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "prefilled"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
        ({"tools": [{"name": "f"}]}, "input_schema"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "other"}}, "other"),
        ({"thinking": {"type": "enabled"}}, "budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 500}}, "budget_tokens"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"temperature": -1}, "temperature"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config"),
        ({"system": [{"type": "image"}]}, "system[0]"),
        ({"max_tokens": 10_000}, "4096"),
    ],
)
def test_what_cannot_be_honoured_is_named(server: ScriptedServer, changes: dict[str, Any], named: str) -> None:
    response = httpx.post(f"{server.url}/v1/messages", json=asked(**changes))
    assert response.status_code == 400
    document = response.json()
    assert (document["type"], document["error"]["type"]) == ("error", "invalid_request_error")
    assert named.replace(",", "") in document["error"]["message"].replace(",", "")
    assert not server.requests


def test_errors_are_of_the_classes_people_catch(server: ScriptedServer, client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.create(**asked(model="none"))
    assert caught.value.request_id
    server.say(RuntimeError("broken"))
    with pytest.raises(anthropic.InternalServerError):
        client.messages.create(**asked())


def test_an_error_ends_a_stream(server: ScriptedServer, client: anthropic.Anthropic) -> None:
    server.say(RuntimeError("broken"))
    with pytest.raises(anthropic.APIStatusError) as caught, client.messages.stream(**asked()) as stream:
        stream.until_done()
    assert caught.value.body["error"]["type"] == "api_error"
    assert "broken" not in str(caught.value)


def test_unknown_parameters_are_told(server: ScriptedServer, client: anthropic.Anthropic) -> None:
    answer = client.messages.with_raw_response.create(**asked(extra_body={"novelty": 1}))
    assert "novelty" in answer.headers["x-abaci-warning"]


def test_keys() -> None:
    with scripted_server(api_key="abaci-secret") as server:
        with (
            anthropic.Anthropic(base_url=server.url, api_key="wrong", max_retries=0) as client,
            pytest.raises(anthropic.AuthenticationError),
        ):
            client.messages.create(**asked())
        with anthropic.Anthropic(base_url=server.url, api_key="abaci-secret", max_retries=0) as client:
            assert client.messages.create(**asked()).content[0].text == "Hello!"


async def _answer(url: str) -> str:
    async with (
        anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client,
        client.messages.stream(**asked()) as stream,
    ):
        return "".join([text async for text in stream.text_stream])


def test_asynchronous_client(server: ScriptedServer) -> None:
    assert asyncio.run(_answer(server.url)) == "Hello!"
