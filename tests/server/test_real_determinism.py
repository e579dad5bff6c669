"""Bytes over HTTP do not depend on load or on the prefix cache. Real weights, a real process."""

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from real_server import RealServer, real_server

from abaci import LLM

NUM_STREAMS = 64

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def chat(text: str, **more: Any) -> tuple[str, dict[str, Any]]:
    """A chat request."""
    return "/v1/chat/completions", {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 24,
        "seed": 7,
        **more,
    }


REQUESTS: tuple[tuple[str, dict[str, Any]], ...] = (
    chat("Say hello.", temperature=0),
    chat("Say hello.", temperature=1.3, top_p=0.9, stream=True, stream_options={"include_usage": True}),
    chat("Name a river.", logprobs=True, top_logprobs=3, stream=True),
    chat("Describe a person.", response_format={"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA}}),
    chat("Weather in Oslo?", tools=[TOOL], tool_choice="required", stream=True, max_tokens=96),
    chat("Count to ten.", n=3, temperature=0.8, top_k=40, min_p=0.02),
    chat("Repeat a word.", repetition_penalty=1.3, frequency_penalty=0.5, presence_penalty=0.2, stream=True),
    chat("Name two animals.", stop=[" and", "\n"], logit_bias={"30": -5}),
    (
        "/v1/completions",
        {"prompt": "Once upon a time", "max_tokens": 20, "temperature": 0.7, "seed": 3, "stream": True},
    ),
    (
        "/v1/completions",
        {"prompt": ["The capital of France is", "2 + 2 ="], "max_tokens": 4, "echo": True, "logprobs": 2, "seed": 1},
    ),
)


@pytest.fixture(scope="module")
def server(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with real_server(smollm2_path, tmp_path_factory.mktemp("state")) as running:
        yield running


@pytest.fixture(scope="module")
def alone(server: RealServer) -> list[bytes]:
    """What each request gets when nothing else runs; no cached prefix helps, as each has a salt of its own."""
    with server.client() as client:
        answers = [same(client.post(path, json=salted(body, f"alone-{i}"))) for i, (path, body) in enumerate(REQUESTS)]
    assert b'"finish_reason":"tool_calls"' in answers[4]
    return answers


def salted(body: dict[str, Any], salt: str) -> dict[str, Any]:
    return {**body, "cache_salt": salt}


def same(response: httpx.Response) -> bytes:
    """The body without what differs by design: ids, the date, how long it took, what the cache had, signs of life."""
    assert response.status_code == 200, response.text
    body = re.sub(rb'"(id|created|timings)":("[^"]*"|\d+|\{[^}]*\})', rb'"\1":0', response.content)
    body = body.replace(b": ping\n\n", b"")
    return re.sub(rb'"cached_tokens":\d+', b'"cached_tokens":0', body)


def test_among_sixty_four_streams(server: RealServer, alone: list[bytes]) -> None:
    async def run() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=120, trust_env=False, limits=limits) as client:
            jobs = [REQUESTS[index % len(REQUESTS)] for index in range(NUM_STREAMS)]
            return list(
                await asyncio.gather(
                    *(client.post(path, json=salted(body, f"load-{i}")) for i, (path, body) in enumerate(jobs))
                )
            )

    steps, tokens = server.metric("abaci_engine_steps_total"), server.metric("abaci_iteration_tokens_total")
    answers = asyncio.run(run())
    steps, tokens = (
        server.metric("abaci_engine_steps_total") - steps,
        server.metric("abaci_iteration_tokens_total") - tokens,
    )
    assert tokens / steps > 10, "they did not run together"
    assert server.metric("abaci_request_queue_time_seconds_count") >= NUM_STREAMS
    for index, answer in enumerate(answers):
        assert same(answer) == alone[index % len(REQUESTS)]


def test_with_the_prefix_cached(server: RealServer, alone: list[bytes]) -> None:
    prefix = "You are a careful assistant. " * 30
    path, body = chat("Say hello.", temperature=0.9, logprobs=True)
    body["messages"] = [{"role": "system", "content": prefix}, *body["messages"]]
    with server.client() as client:
        cold, warm = (client.post(path, json=salted(body, "prefix")) for _ in range(2))
    cached = [answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in (cold, warm)]
    assert cached[0] == 0
    assert cached[1] > 100
    assert same(cold) == same(warm)


def test_constrained_answers_have_their_form(alone: list[bytes]) -> None:
    person = json.loads(json.loads(alone[3])["choices"][0]["message"]["content"])
    assert set(person) == {"name", "age"}
    pieces = [json.loads(line[6:]) for line in alone[4].decode().splitlines() if line.startswith("data: {")]
    deltas = [call for piece in pieces for choice in piece["choices"] for call in choice["delta"].get("tool_calls", [])]
    names: defaultdict[int, str] = defaultdict(str)
    arguments: defaultdict[int, str] = defaultdict(str)
    for delta in deltas:  # one call or several, each in pieces
        names[delta["index"]] += delta["function"].get("name", "")
        arguments[delta["index"]] += delta["function"]["arguments"]
    assert set(names.values()) == {"get_weather"}
    for of_call in arguments.values():
        assert set(json.loads(of_call)) == {"city"}


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_log_likelihoods_are_those_of_score(server: RealServer, smollm2_path: Path, max_tokens: int) -> None:
    text = "An abacus is a frame with rods, on which beads are moved to count."
    with LLM(smollm2_path, context=512) as llm:
        token_ids = llm.tokenizer.encode(text)
        score = llm.score(token_ids, top_k=1)
    body = {"prompt": token_ids, "echo": True, "logprobs": 1, "max_tokens": max_tokens, "temperature": 0, "seed": 1234}
    with server.client() as client:
        logprobs = client.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]
    assert len(logprobs["token_logprobs"]) == len(token_ids) + max_tokens
    assert tuple(logprobs["token_logprobs"][: len(token_ids)]) == score.logprobs
    likeliest = [max(position.values()) for position in logprobs["top_logprobs"][1 : len(token_ids)]]
    assert likeliest == [max(position.values()) for position in score.top[:-1]]
