"""OpenAI's own Python client against the server: what it sends is understood, what it gets it understands."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel
from scripted_server import EMBEDDING, MODEL, OTHER_MODEL, ScriptedServer, call_text, scripted_server

from abaci.errors import ResourceError
from abaci.generation import ConstraintKind

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
THOUGHT = "<think>\nHm.\n</think>\n\n"


@pytest.fixture
def server(reused_server: ScriptedServer) -> ScriptedServer:
    return reused_server


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


def test_chat(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.say("Guten Tag, Ümläut.")
    answer = client.chat.completions.create(model=MODEL, messages=user("Hallo"))
    assert answer.choices[0].message.content == "Guten Tag, Ümläut."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == MODEL
    assert answer.usage.prompt_tokens == len(server.requests[0].prompt_token_ids)
    assert answer.usage.completion_tokens == len("Guten Tag, Ümläut.".encode()) + 1
    assert server.prompt() == "<|im_start|>user\nHallo<|im_end|>\n<|im_start|>assistant\n"


def test_chat_streamed(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.say("Guten Tag, Ümläut.")
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=user("Hallo"), stream=True, stream_options={"include_usage": True}
        )
    )
    first, *contents, finish, usage = chunks
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert "".join(chunk.choices[0].delta.content for chunk in contents) == "Guten Tag, Ümläut."
    assert {chunk.choices[0].finish_reason for chunk in (first, *contents)} == {None}
    assert finish.choices[0].finish_reason == "stop" and finish.choices[0].delta.content is None
    assert usage.choices == [] and usage.usage.completion_tokens == len("Guten Tag, Ümläut.".encode()) + 1
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1


def test_streams_end_as_they_should(server: ScriptedServer) -> None:
    body = {"messages": user("Hi"), "stream": True}
    text = httpx.post(f"{server.url}/v1/chat/completions", json=body).text
    assert text.endswith("data: [DONE]\n\n") and '"usage"' not in text
    server.say(ResourceError("no memory left"))
    text = httpx.post(f"{server.url}/v1/chat/completions", json=body).text
    assert "[DONE]" not in text
    assert json.loads(text.split("data: ")[-1])["error"]["message"] == "no memory left"


def test_an_error_in_a_stream_reaches_the_caller(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.say(ResourceError("no memory left"))
    with pytest.raises(openai.APIError, match="no memory left"):
        list(client.chat.completions.create(model=MODEL, messages=user("Hi"), stream=True))


@pytest.mark.parametrize("stream", [False, True])
def test_several_samples(server: ScriptedServer, client: openai.OpenAI, stream: bool) -> None:
    server.say("one", "two", "three")
    answer = client.chat.completions.create(model=MODEL, messages=user("Hi"), n=3, stream=stream)
    texts = {0: "", 1: "", 2: ""}
    for part in answer if stream else [answer]:
        for choice in part.choices:
            texts[choice.index] += (choice.delta if stream else choice.message).content or ""
    assert texts == {0: "one", 1: "two", 2: "three"}


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings(server: ScriptedServer, client: openai.OpenAI, stream: bool) -> None:
    server.say("one two three")
    answer = client.chat.completions.create(model=MODEL, messages=user("Hi"), stop=["zero", " two"], stream=stream)
    if stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
    else:
        text = answer.choices[0].message.content
        assert answer.choices[0].finish_reason == "stop"
    assert text == "one"
    server.wait_until(lambda: server.generator.cancelled)


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_end_nothing_before_min_tokens(
    server: ScriptedServer, client: openai.OpenAI, stream: bool
) -> None:
    server.say("a.b.c.d")
    options = {"stop": ".", "max_tokens": 20, "stream": stream, "extra_body": {"min_tokens": 3}}
    chat = client.chat.completions.create(model=MODEL, messages=user("Hi"), **options)
    completion = client.completions.create(model=MODEL, prompt="Hi", **options)
    if stream:
        texts = ["".join(chunk.choices[0].delta.content or "" for chunk in chat)]
        texts.append("".join(chunk.choices[0].text for chunk in completion))
    else:
        texts = [chat.choices[0].message.content, completion.choices[0].text]
    assert texts == ["a.b", "a.b"]


def test_parameters_reach_the_generator(server: ScriptedServer, client: openai.OpenAI) -> None:
    client.chat.completions.create(
        model=MODEL,
        messages=user("Hi"),
        temperature=0.5,
        top_p=0.9,
        max_completion_tokens=7,
        seed=-1,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias={"65": -100},
        extra_body={"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "priority": 3, "cache_salt": "mine"},
    )
    request = server.requests[0]
    assert (request.temperature, request.top_p, request.max_tokens, request.seed) == (0.5, 0.9, 7, 2**64 - 1)
    assert (request.presence_penalty, request.frequency_penalty) == (0.5, -0.5)
    assert (request.logit_bias, request.top_k, request.min_p) == (((65, -100.0),), 5, 0.1)
    assert (request.repetition_penalty, request.priority, request.cache_salt) == (1.1, 3, "\nmine")


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(client: openai.OpenAI, stream: bool) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=user("Hi"), logprobs=True, top_logprobs=2, stream=stream
    )
    choices = [part.choices[0] for part in (answer if stream else [answer])]
    entries = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content]
    assert "".join(entry.token for entry in entries) == "Hello!"
    assert entries[0].bytes == [72] and entries[0].logprob == 0.0


def test_limit_of_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=user("Hi"), max_tokens=3)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("Hel", "length")


def test_a_call_and_its_result(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.say(call_text("get_weather", '{"city": "Rome"}'))
    answer = client.chat.completions.create(model=MODEL, messages=user("Weather?"), tools=[TOOL])
    message = answer.choices[0].message
    assert (message.content, answer.choices[0].finish_reason) == (None, "tool_calls")
    (call,) = message.tool_calls
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert json.loads(call.function.arguments) == {"city": "Rome"}
    server.say("Sunny.")
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "sun"}
    history = [*user("Weather?"), message.model_dump(exclude_none=True), result]
    second = client.chat.completions.create(model=MODEL, messages=history, tools=[TOOL])
    assert second.choices[0].message.content == "Sunny."
    assert "<|im_start|>tool\nsun<|im_end|>" in server.prompt()


def test_calls_are_streamed(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.say("I look." + call_text("get_weather", '{"city": "Rome"}') + "\n" + call_text("get_weather", "{}"))
    calls: dict[int, list[Any]] = {}
    reasons = []
    for chunk in client.chat.completions.create(model=MODEL, messages=user("Hi"), tools=[TOOL], stream=True):
        reasons.append(chunk.choices[0].finish_reason)
        for call in chunk.choices[0].delta.tool_calls or ():
            calls.setdefault(call.index, []).append(call)
    assert reasons[-1] == "tool_calls" and set(reasons[:-1]) == {None}
    for pieces in calls.values():
        assert pieces[0].id and pieces[0].function.name == "get_weather" and pieces[0].function.arguments == ""
        assert all(piece.id is None and piece.function.name is None for piece in pieces[1:])
    joined = ["".join(piece.function.arguments for piece in pieces) for pieces in calls.values()]
    assert [json.loads(arguments) for arguments in joined] == [{"city": "Rome"}, {}]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_calls_can_be_required(server: ScriptedServer, client: openai.OpenAI, choice: Any) -> None:
    server.say("</think>" + call_text("get_weather", '{"city": "Rome"}'))
    answer = client.chat.completions.create(model=MODEL, messages=user("Hi"), tools=[TOOL], tool_choice=choice)
    assert len(answer.choices[0].message.tool_calls) == 1
    assert server.requests[0].constraint is not None


def test_what_is_no_call_is_content(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.say('<tool_call>\n{"name": "get_weather", "arguments": {"city": </tool_call>')
    answer = client.chat.completions.create(model=MODEL, messages=user("Hi"), tools=[TOOL])
    assert answer.choices[0].finish_reason == "stop" and "get_weather" in answer.choices[0].message.content
    assert not answer.choices[0].message.tool_calls


@pytest.mark.parametrize("stream", [False, True])
def test_thoughts(server: ScriptedServer, client: openai.OpenAI, stream: bool) -> None:
    server.say(THOUGHT + "Hello!")
    answer = client.chat.completions.create(model=MODEL, messages=user("Hi"), stream=stream)
    texts = {"content": "", "reasoning_content": "", "reasoning": ""}
    for part in answer if stream else [answer]:
        message = part.choices[0].delta if stream else part.choices[0].message
        for name in texts:
            texts[name] += getattr(message, name, None) or ""
    assert texts == {"content": "Hello!", "reasoning_content": "Hm.", "reasoning": "Hm."}
    if not stream:
        assert 0 < answer.usage.completion_tokens_details.reasoning_tokens < answer.usage.completion_tokens


def test_thinking_can_be_off(server: ScriptedServer, client: openai.OpenAI) -> None:
    client.chat.completions.create(model=MODEL, messages=user("Hi"), reasoning_effort="none")
    assert server.prompt().endswith("<think>\n\n</think>\n\n")


class Capital(BaseModel):
    name: str


def test_structured_answers_are_parsed(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.say('Easy.</think>{"name": "Rome"}')
    answer = client.chat.completions.parse(model=MODEL, messages=user("Capital?"), response_format=Capital)
    assert answer.choices[0].message.parsed == Capital(name="Rome")
    assert server.requests[0].constraint.kind is ConstraintKind.JSON_SCHEMA


@pytest.mark.parametrize(
    "extra",
    [
        {"structured_outputs": {"regex": "a+"}},
        {"structured_outputs": {"choice": ["yes", "no"]}},
        {"guided_json": {"type": "object"}},
        {"grammar": 'root ::= "yes" | "no"'},
        {"response_format": {"type": "json_object"}},
    ],
)
def test_forms_of_an_answer(server: ScriptedServer, client: openai.OpenAI, extra: dict[str, Any]) -> None:
    client.chat.completions.create(model=MODEL, messages=user("Hi"), reasoning_effort="none", extra_body=extra)
    assert server.requests[0].constraint is not None


def test_completions(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.say(" there")
    answer = client.completions.create(model=MODEL, prompt=["Hello", "Bye"], max_tokens=3, n=2, echo=True)
    assert [choice.text for choice in answer.choices] == ["Hello th"] * 2 + ["Bye th"] * 2
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    tokens = client.completions.create(model=MODEL, prompt=[72, 105], max_tokens=100)
    assert tokens.choices[0].text == " there" and server.requests[-1].prompt_token_ids == (72, 105)


def test_completions_streamed(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.say(" there")
    chunks = list(client.completions.create(model=MODEL, prompt="Hi", max_tokens=100, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == " there"
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_a_prompt_is_scored(client: openai.OpenAI, max_tokens: int) -> None:
    answer = client.completions.create(model=MODEL, prompt="abc", max_tokens=max_tokens, echo=True, logprobs=1)
    logprobs = answer.choices[0].logprobs
    assert logprobs.tokens == ["a", "b", "c", "H"][: 3 + max_tokens]
    assert logprobs.token_logprobs == [None, 0.0, 0.0, 0.0][: 3 + max_tokens]
    assert logprobs.text_offset == [0, 1, 2, 3][: 3 + max_tokens]
    assert answer.choices[0].text == "abcH"[: 3 + max_tokens]


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
def test_embeddings(server: ScriptedServer, client: openai.OpenAI, encoding: Any) -> None:
    given = {} if encoding is None else {"encoding_format": encoding}
    answer = client.embeddings.create(model=MODEL, input=["a", "bc"], **given)
    assert [item.index for item in answer.data] == [0, 1] and answer.usage.prompt_tokens == 3
    length = sum(value * value for value in EMBEDDING) ** 0.5
    if encoding != "base64":
        assert answer.data[0].embedding == pytest.approx([value / length for value in EMBEDDING])
    else:
        assert isinstance(answer.data[0].embedding, str)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL, OTHER_MODEL]
    assert client.models.retrieve(OTHER_MODEL).id == OTHER_MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")


@pytest.mark.parametrize(
    ("changes", "parameter"),
    [
        ({"temperature": -1}, "temperature"),
        ({"n": 0}, "n"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"extra_body": {"best_of": 2}}, "best_of"),
        ({"extra_body": {"use_beam_search": True}}, "use_beam_search"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"store": True}, "store"),
        ({"audio": {"voice": "x", "format": "wav"}}, "audio"),
    ],
)
def test_what_cannot_be_honoured_is_named(client: openai.OpenAI, changes: dict[str, Any], parameter: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=user("Hi"), **changes)
    assert caught.value.param == parameter and caught.value.type == "invalid_request_error"


def test_a_request_beyond_the_context(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=user("x" * 5000))
    assert caught.value.code == "context_length_exceeded"


def test_an_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nothing", messages=user("Hi"))
    assert caught.value.code == "model_not_found"


def test_a_defect_is_the_servers(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.say(RuntimeError("secret"))
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model=MODEL, messages=user("Hi"))
    assert "secret" not in str(caught.value) and caught.value.request_id


def test_keys() -> None:
    def answer(url: str, key: str) -> Any:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
            return client.chat.completions.create(model=MODEL, messages=user("Hi"))

    with scripted_server(api_key="abaci-secret") as server:
        assert answer(server.url, "abaci-secret").choices[0].message.content == "Hello!"
        with pytest.raises(openai.AuthenticationError) as caught:
            answer(server.url, "wrong")
    assert caught.value.code == "invalid_api_key"


def test_unknown_parameters_are_told(client: openai.OpenAI) -> None:
    answer = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=user("Hi"), extra_body={"novelty": 1}
    )
    assert "novelty" in answer.headers["x-abaci-warning"]
    assert (
        "x-abaci-warning"
        not in client.chat.completions.with_raw_response.create(model=MODEL, messages=user("Hi")).headers
    )


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_is_not_worked_for(server: ScriptedServer, stream: bool) -> None:
    server.say("x" * 2000)
    server.generator.pause_seconds = 0.01
    body = {"messages": user("Hi"), "stream": stream, "max_tokens": 2000}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=httpx.Timeout(60.0, read=0.005))
    server.wait_until(lambda: server.generator.cancelled)
    server.generator.pause_seconds = 0.0
    server.wait_until(lambda: server.services.queue.num_inside == 0)


async def _answers(url: str) -> list[str]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        created = client.chat.completions.create
        answers = await asyncio.gather(*(created(model=MODEL, messages=user("Hi")) for _ in range(8)))
        return [answer.choices[0].message.content for answer in answers]


def test_asynchronous_client(server: ScriptedServer) -> None:
    assert asyncio.run(_answers(server.url)) == ["Hello!"] * 8
