"""OpenAI's own Python client against the server: what it sends is understood, what it gets it understands."""

from collections.abc import Iterator

import openai
import pytest
from scripted_server import MODEL, ScriptedServer


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def user(text: str) -> list[dict[str, str]]:
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
