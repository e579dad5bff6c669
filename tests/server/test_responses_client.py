"""OpenAI's own Python client on the Responses API: items, events, chains, structured answers."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel
from scripted_server import MODEL, ScriptedServer, call_text, scripted_server

from abaci.errors import UsageError
from abaci.generation import ConstraintKind
from abaci.server.openai.response_items import input_items, messages_of

TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "Tell the weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
THOUGHT = "<think>\nHm.\n</think>\n\n"


@pytest.fixture
def server(reused_server: ScriptedServer) -> ScriptedServer:
    return reused_server


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_response(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.say("Grüß Gott.")
    answer = client.responses.create(
        model=MODEL, input="Hi", instructions="Be kind.", temperature=0.5, metadata={"a": "b"}
    )
    assert (answer.output_text, answer.status, answer.error, answer.model) == ("Grüß Gott.", "completed", None, MODEL)
    assert [item.type for item in answer.output] == ["message"] and answer.output[0].status == "completed"
    assert answer.usage.input_tokens == len(server.requests[0].prompt_token_ids)
    assert answer.usage.output_tokens == len("Grüß Gott.".encode()) + 1
    assert (answer.temperature, answer.metadata, answer.store) == (0.5, {"a": "b"}, True)
    assert server.prompt().startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n")


def test_items_as_input(server: ScriptedServer, client: openai.OpenAI) -> None:
    items: Any = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"role": "assistant", "content": "I look."},
        {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": '{"city": "Rome"}'},
        {"type": "function_call_output", "call_id": "c", "output": "sun"},
        {"role": "user", "content": "So?"},
    ]
    client.responses.create(model=MODEL, input=items)
    assert server.prompt() == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nab<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nHm.\n</think>\n\nI look."
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Rome"}}</tool_call><|im_end|>\n'
        "<|im_start|>tool\nsun<|im_end|>\n<|im_start|>user\nSo?<|im_end|>\n<|im_start|>assistant\n"
    )


def events_of(server: ScriptedServer, **changes: Any) -> list[dict[str, Any]]:
    body = {"model": MODEL, "input": "Hi", "stream": True, **changes}
    response = httpx.post(f"{server.url}/v1/responses", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = response.text.split("\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert [f"event: {event['type']}" for event in events] == [line for line in lines if line.startswith("event: ")]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def test_events_of_a_stream(server: ScriptedServer) -> None:
    server.say(THOUGHT + "I look." + call_text("get_weather", '{"city": "Rome"}'))
    events = events_of(server, tools=[TOOL])
    kinds: list[str] = []
    for event in events:
        kind = event["type"].removeprefix("response.")
        if not kinds or kinds[-1] != kind:
            kinds.append(kind)
    part = ["output_item.added", "content_part.added"]
    done = ["content_part.done", "output_item.done"]
    assert kinds == [
        *("created", "in_progress"),
        *(*part, "reasoning_text.delta", "reasoning_text.done", *done),
        *(*part, "output_text.delta", "output_text.done", *done),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["reasoning", "message", "function_call"]
    assert output == [event["item"] for event in events if event["type"] == "response.output_item.done"]
    ids = [item["id"] for item in output]
    assert all(ids[event["output_index"]] == event["item_id"] for event in events if "item_id" in event)
    assert json.loads(output[2]["arguments"]) == {"city": "Rome"}
    assert output[0]["content"][0]["text"] == "Hm."


def test_stream_helper(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.say("Grüß Gott.")
    with client.responses.stream(model=MODEL, input="Hi") as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        assert "".join(texts) == "Grüß Gott." == stream.get_final_response().output_text


def test_a_call_and_its_output(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.say(call_text("get_weather", '{"city": "Rome"}'))
    first = client.responses.create(model=MODEL, input="Weather?", tools=[TOOL])
    (call,) = first.output
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "get_weather", {"city": "Rome"})
    server.say("Sunny.")
    second = client.responses.create(
        model=MODEL,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "sun"}],
        previous_response_id=first.id,
        tools=[TOOL],
    )
    assert second.output_text == "Sunny." and second.previous_response_id == first.id
    assert "<|im_start|>user\nWeather?<|im_end|>" in server.prompt()
    assert "</tool_call><|im_end|>\n<|im_start|>tool\nsun<|im_end|>\n" in server.prompt()


def test_chains_go_back_to_the_beginning(server: ScriptedServer, client: openai.OpenAI) -> None:
    previous = None
    for word in ("one", "two", "three"):
        server.say(word.upper())
        answer = client.responses.create(
            model=MODEL, input=word, instructions=f"Say {word}.", previous_response_id=previous
        )
        previous = answer.id
    turns = [
        *(("system", "Say three."), ("user", "one"), ("assistant", "ONE"), ("user", "two"), ("assistant", "TWO")),
        ("user", "three"),
    ]
    told = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
    assert server.prompt() == f"{told}<|im_start|>assistant\n"


def test_stored_responses(server: ScriptedServer, client: openai.OpenAI) -> None:
    answer = client.responses.create(model=MODEL, input=[{"role": "user", "content": text} for text in "abc"])
    assert client.responses.retrieve(answer.id).output_text == "Hello!"
    newest_first = client.responses.input_items.list(answer.id, limit=2)
    assert [item.content[0].text for item in newest_first] == ["c", "b", "a"]
    oldest_first = client.responses.input_items.list(answer.id, order="asc")
    assert [item.content[0].text for item in oldest_first] == ["a", "b", "c"]
    client.responses.delete(answer.id)
    for gone in (
        lambda: client.responses.retrieve(answer.id),
        lambda: client.responses.delete(answer.id),
        lambda: client.responses.input_items.list(answer.id),
    ):
        with pytest.raises(openai.NotFoundError):
            gone()
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=MODEL, input="x", previous_response_id=answer.id)
    assert caught.value.param == "previous_response_id"


def test_what_is_not_to_be_stored_is_not(client: openai.OpenAI) -> None:
    answer = client.responses.create(model=MODEL, input="x", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)


def test_responses_belong_to_a_key() -> None:
    with scripted_server() as server:
        keys = [server.create_key(name) for name in ("first", "second")]
        first, second = (openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) for key in keys)
        with first, second:
            answer = first.responses.create(model=MODEL, input="secret")
            assert first.responses.retrieve(answer.id).id == answer.id
            with pytest.raises(openai.NotFoundError):
                second.responses.retrieve(answer.id)
            with pytest.raises(openai.BadRequestError):
                second.responses.create(model=MODEL, input="x", previous_response_id=answer.id)


class Capital(BaseModel):
    name: str


def test_structured_answers_are_parsed(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.say('Easy.</think>{"name": "Rome"}')
    answer = client.responses.parse(model=MODEL, input="Capital?", text_format=Capital)
    assert answer.output_parsed == Capital(name="Rome")
    assert server.requests[0].constraint.kind is ConstraintKind.JSON_SCHEMA
    client.responses.create(
        model=MODEL, input="Json?", text={"format": {"type": "json_object"}}, reasoning={"effort": "none"}
    )
    assert server.requests[1].constraint is not None


def test_an_answer_cut_off_is_incomplete(server: ScriptedServer, client: openai.OpenAI) -> None:
    answer = client.responses.create(model=MODEL, input="Hi", max_output_tokens=3)
    assert (answer.output_text, answer.status) == ("Hel", "incomplete")
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output[0].status == "incomplete"
    events = events_of(server, max_output_tokens=3)
    assert events[-1]["type"] == "response.incomplete"
    assert client.responses.create(model=MODEL, input="Go on", previous_response_id=answer.id).output_text == "Hello!"


def test_calls_can_be_required_and_cut_off(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.say("</think>" + call_text("get_weather", '{"city": "Rome"}'))
    named: Any = {"type": "function", "name": "get_weather"}
    for choice in ("required", named):
        answer = client.responses.create(model=MODEL, input="Hi", tools=[TOOL], tool_choice=choice)
        assert [item.type for item in answer.output] == ["function_call"]
    cut = client.responses.create(model=MODEL, input="Hi", tools=[TOOL], tool_choice="required", max_output_tokens=50)
    assert (cut.status, cut.output[0].status) == ("incomplete", "incomplete")
    client.responses.create(model=MODEL, input="Again", previous_response_id=cut.id)
    assert "<tool_call>" not in server.prompt()


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(server: ScriptedServer, stream: bool) -> None:
    server.say(THOUGHT + "Hello!")
    wanted = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    if stream:
        output = events_of(server, **wanted)[-1]["response"]["output"]
    else:
        output = httpx.post(f"{server.url}/v1/responses", json={"input": "Hi", **wanted}).json()["output"]
    assert "".join(entry["token"] for entry in output[1]["content"][0]["logprobs"]).endswith("Hello!")


def test_reasoning_tokens_are_counted(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.say(THOUGHT + "Hello!")
    answer = client.responses.create(model=MODEL, input="Hi")
    assert 0 < answer.usage.output_tokens_details.reasoning_tokens < answer.usage.output_tokens


def test_an_error_fails_the_response(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.say(RuntimeError("broken"))
    events = events_of(server)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["status"] == "failed" and "broken" not in json.dumps(events[-1])
    with pytest.raises(openai.InternalServerError):
        client.responses.create(model=MODEL, input="Hi")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "conversation"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "item_reference"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input_image"),
        ({"input": [{"role": "tool", "content": "x"}]}, "role"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "call_id"),
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "web_search"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"text": {"verbosity": "low"}}, "verbosity"),
        ({"reasoning": {"effort": 3}}, "effort"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_p": 2}, "top_p"),
        ({"stream_options": {}}, "stream_options"),
    ],
)
def test_what_cannot_be_honoured_is_named(server: ScriptedServer, changes: dict[str, Any], named: str) -> None:
    response = httpx.post(f"{server.url}/v1/responses", json={"model": MODEL, "input": "Hi", **changes})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert named in response.json()["error"]["message"]


@pytest.mark.parametrize("query", ["order=up", "limit=0", "limit=x", "limit=101", "after=nothing"])
def test_pages_of_items_are_checked(server: ScriptedServer, client: openai.OpenAI, query: str) -> None:
    answer = client.responses.create(model=MODEL, input="Hi")
    response = httpx.get(f"{server.url}/v1/responses/{answer.id}/input_items?{query}")
    assert response.status_code == 400 and query.split("=", maxsplit=1)[0] in response.json()["error"]["message"]


def test_what_has_no_effect_is_told(server: ScriptedServer) -> None:
    body = {"input": "Hi", "novelty": 1, "include": ["reasoning.encrypted_content"]}
    warning = httpx.post(f"{server.url}/v1/responses", json=body).headers["x-abaci-warning"]
    assert "novelty" in warning and "reasoning.encrypted_content" in warning


def test_arguments_that_are_no_json() -> None:
    items = input_items([{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"}])
    with pytest.raises(UsageError, match="JSON"):
        messages_of(items)


async def _answer(url: str) -> str:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.responses.create(model=MODEL, input="Hi", stream=True)
        return "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])


def test_asynchronous_client(server: ScriptedServer) -> None:
    assert asyncio.run(_answer(server.url)) == "Hello!"
