"""Ollama's own Python client against the server, synchronous and not, streaming and not."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from scripted_server import (
    CONTEXT_LENGTH,
    DEADLINE_SECONDS,
    MODEL,
    OTHER_MODEL,
    ScriptedServer,
    call_text,
    scripted_server,
)

from abaci import hub
from abaci.errors import DownloadError
from abaci.generation import ConstraintKind
from abaci.hub.references import StoredModel
from abaci.hub.store import stored_file
from abaci.hub.wanted import WantedFile
from abaci.server.ollama.names import duration_seconds
from abaci.server.wire import ParameterError

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
USER = [{"role": "user", "content": "Hi"}]
THOUGHT = "<think>\nHm.\n</think>\n\nHello."


@pytest.fixture
def server(reused_server: ScriptedServer) -> ScriptedServer:
    return reused_server


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[ollama.Client]:
    with ollama.Client(server.url) as client:
        yield client


def test_chat(server: ScriptedServer, client: ollama.Client) -> None:
    server.say("Grüß Gott.")
    answer = client.chat(MODEL, USER)
    assert (answer.message.role, answer.message.content, answer.message.thinking) == ("assistant", "Grüß Gott.", None)
    assert (answer.model, answer.done, answer.done_reason) == (MODEL, True, "stop")
    assert answer.prompt_eval_count == len(server.requests[0].prompt_token_ids)
    assert answer.eval_count == len("Grüß Gott.".encode()) + 1
    assert 0 < answer.prompt_eval_duration <= answer.total_duration and answer.load_duration >= 0
    assert datetime.fromisoformat(answer.created_at).tzinfo == UTC


def test_chat_streamed(server: ScriptedServer, client: ollama.Client) -> None:
    server.say("Grüß Gott.")
    parts = list(client.chat(MODEL, USER, stream=True))
    assert "".join(part.message.content for part in parts) == "Grüß Gott."
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert (parts[-1].message.content, parts[-1].done_reason, parts[0].done_reason) == ("", "stop", None)
    assert parts[-1].eval_count == len("Grüß Gott.".encode()) + 1


def test_streaming_is_the_default(server: ScriptedServer) -> None:
    response = httpx.post(f"{server.url}/api/generate", json={"model": MODEL, "prompt": "Hi"})
    assert response.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert "".join(line["response"] for line in lines) == "Hello!" and lines[-1]["done"]


def test_generate(server: ScriptedServer, client: ollama.Client) -> None:
    answer = client.generate(MODEL, "Hi", system="Be kind.")
    assert (answer.response, answer.done_reason) == ("Hello!", "stop")
    assert server.prompt().startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n")


def test_a_raw_prompt_is_sent_as_it_is(server: ScriptedServer, client: ollama.Client) -> None:
    server.say(" world<think>")
    answer = client.generate(MODEL, "<|im_start|>Hello,", raw=True, options={"stop": ["<th"]})
    assert (server.prompt(), answer.response) == ("<|im_start|>Hello,", " world")


def test_a_prompt_without_text_loads_and_unloads(server: ScriptedServer, client: ollama.Client) -> None:
    assert client.ps().models == []
    assert client.generate(MODEL).done_reason == "load"
    assert [model.model for model in client.ps().models] == [MODEL]
    assert client.chat(MODEL).done_reason == "load"
    assert client.generate(MODEL, keep_alive=0).done_reason == "unload"
    assert client.ps().models == []
    assert not server.requests


def test_options(server: ScriptedServer, client: ollama.Client) -> None:
    options = {
        "num_ctx": CONTEXT_LENGTH,
        "num_predict": 3,
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.8,
        "min_p": 0.1,
        "repeat_penalty": 1.5,
        "presence_penalty": 0.25,
        "frequency_penalty": -0.5,
        "seed": 42,
        "mirostat": 0,
        "tfs_z": 1.0,
    }
    answer = client.chat(MODEL, USER, options=options)
    assert (answer.message.content, answer.done_reason) == ("Hel", "length")
    request = server.requests[0]
    assert (request.max_tokens, request.temperature, request.top_k, request.top_p) == (3, 0.5, 7, 0.8)
    assert (request.min_p, request.repetition_penalty, request.presence_penalty) == (0.1, 1.5, 0.25)
    assert (request.frequency_penalty, request.seed) == (-0.5, 42)


def test_no_limit_of_tokens(server: ScriptedServer, client: ollama.Client) -> None:
    client.chat(MODEL, USER, options={"num_predict": -1, "top_k": 0})
    request = server.requests[0]
    assert request.max_tokens == CONTEXT_LENGTH - len(request.prompt_token_ids)


def test_stop_strings(server: ScriptedServer, client: ollama.Client) -> None:
    server.say("one two three")
    answer = client.chat(MODEL, USER, options={"stop": [" two"]})
    assert (answer.message.content, answer.done_reason) == ("one", "stop")


@pytest.mark.parametrize("stream", [False, True])
def test_calls_come_whole(server: ScriptedServer, client: ollama.Client, stream: bool) -> None:
    server.say("I look." + call_text("get_weather", '{"city": "Rome"}') + "\n" + call_text("get_weather", "{}"))
    answer = client.chat(MODEL, USER, tools=[TOOL], stream=stream)
    parts = list(answer) if stream else [answer]
    assert "".join(part.message.content for part in parts) == "I look."
    calls = [call.function for part in parts for call in part.message.tool_calls or ()]
    assert [(call.name, call.arguments) for call in calls] == [("get_weather", {"city": "Rome"}), ("get_weather", {})]


@pytest.mark.parametrize("stream", [False, True])
def test_half_a_character_in_a_call(server: ScriptedServer, client: ollama.Client, stream: bool) -> None:
    server.say("ä" + call_text("get_weather", r'{"city": "\ud800"}'))
    answer = client.chat(MODEL, USER, tools=[TOOL], stream=stream)
    calls = [call for part in (answer if stream else [answer]) for call in part.message.tool_calls or ()]
    assert [call.function.arguments for call in calls] == [{"city": "\ud800"}]


def test_results_of_tools(server: ScriptedServer, client: ollama.Client) -> None:
    server.say(call_text("get_weather", '{"city": "Rome"}'))
    first = client.chat(MODEL, USER, tools=[TOOL])
    result = {"role": "tool", "content": "sun", "tool_name": "get_weather"}
    client.chat(MODEL, [*USER, first.message, result], tools=[TOOL])
    assert '{"name": "get_weather", "arguments": {"city": "Rome"}}' in server.prompt()
    assert "<|im_start|>tool\nsun<|im_end|>" in server.prompt()


@pytest.mark.parametrize("stream", [False, True])
def test_thinking(server: ScriptedServer, client: ollama.Client, stream: bool) -> None:
    server.say(THOUGHT)
    answer = client.chat(MODEL, USER, think=True, stream=stream)
    parts = list(answer) if stream else [answer]
    assert "".join(part.message.thinking or "" for part in parts) == "Hm."
    assert "".join(part.message.content for part in parts) == "Hello."
    assert client.generate(MODEL, "Hi", think="low").thinking == "Hm."
    client.chat(MODEL, USER, think=False)
    assert server.prompt().endswith("<think>\n\n</think>\n\n")


def test_thoughts_of_the_history_are_kept(server: ScriptedServer, client: ollama.Client) -> None:
    client.chat(MODEL, [*USER, {"role": "assistant", "content": "Hello.", "thinking": "Hm."}, *USER])
    assert "<think>\nHm.\n</think>\n\nHello.<|im_end|>" in server.prompt()


@pytest.mark.parametrize("form", ["json", {"type": "object", "properties": {"a": {"type": "integer"}}}])
def test_form_of_the_answer(server: ScriptedServer, client: ollama.Client, form: Any) -> None:
    client.chat(MODEL, USER, format=form, think=False)
    assert server.requests[0].constraint.kind is ConstraintKind.JSON_SCHEMA


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(server: ScriptedServer, client: ollama.Client, stream: bool) -> None:
    answer = client.chat(MODEL, USER, logprobs=True, stream=stream)
    parts = list(answer) if stream else [answer]
    entries = [entry for part in parts for entry in part.logprobs or ()]
    assert "".join(entry.token for entry in entries) == "Hello!"


def test_embeddings(server: ScriptedServer, client: ollama.Client) -> None:
    answer = client.embed(MODEL, ["a", "bc"])
    assert [list(vector) for vector in answer.embeddings] == [[0.6, 0.0, 0.8]] * 2
    assert answer.prompt_eval_count == 3
    assert list(client.embed(MODEL, "a", dimensions=1).embeddings[0]) == [1.0]
    assert list(client.embeddings(MODEL, "a").embedding) == [3.0, 0.0, 4.0]


def test_long_texts_are_cut_only_on_request(server: ScriptedServer, client: ollama.Client) -> None:
    client.embed(MODEL, "x" * (CONTEXT_LENGTH + 5), truncate=True)
    assert len(server.requests[0].prompt_token_ids) == CONTEXT_LENGTH
    client.embed(MODEL, "x" * (CONTEXT_LENGTH + 5))
    assert len(server.requests[1].prompt_token_ids) == CONTEXT_LENGTH + 5


def test_list_and_show(server: ScriptedServer, client: ollama.Client) -> None:
    listed = client.list().models
    assert [model.model for model in listed] == [MODEL, OTHER_MODEL]
    assert (listed[0].size, listed[0].digest) == (123_456, "ab" * 32)
    assert (listed[0].details.parameter_size, listed[0].details.quantization_level) == ("1.0B", "Q4_K_M")
    assert client.show(MODEL).template == ""
    client.generate(MODEL)
    shown = client.show(MODEL)
    assert "<|im_start|>" in shown.template
    assert shown.modelinfo["qwen2.context_length"] == CONTEXT_LENGTH
    assert set(shown.capabilities) == {"completion", "tools", "thinking"}


def test_version_and_heartbeat(server: ScriptedServer) -> None:
    assert httpx.get(f"{server.url}/api/version").json().keys() == {"version"}
    assert httpx.get(server.url).text == "Ollama is running"
    assert httpx.head(server.url).status_code == 200


def test_names_with_and_without_the_default_tag(server: ScriptedServer, client: ollama.Client) -> None:
    client.copy(MODEL, "plain")
    client.copy(MODEL, "tagged:latest")
    for name in ("plain", "plain:latest", "tagged", "tagged:latest"):
        assert client.generate(name, "Hi").model == name
    for name in (f"{MODEL}:latest2", "scripted"):
        with pytest.raises(ollama.ResponseError) as caught:
            client.generate(name, "Hi")
        assert caught.value.status_code == 404


def test_copies_are_names(server: ScriptedServer, client: ollama.Client) -> None:
    client.copy(MODEL, "mine")
    assert "mine" in [model.model for model in client.list().models]
    client.delete("mine")
    assert "mine" not in [model.model for model in client.list().models]
    for source, destination in ((MODEL, OTHER_MODEL), ("nothing", "mine")):
        with pytest.raises(ollama.ResponseError):
            client.copy(source, destination)
    with pytest.raises(ollama.ResponseError, match="started with"):
        client.delete(MODEL)


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("chat", {"options": {"num_ctx": 10**6}}, "num_ctx"),
        ("chat", {"options": {"mirostat": 2}}, "mirostat"),
        ("chat", {"options": {"num_thread": 4}}, "num_thread"),
        ("chat", {"options": {"num_predict": 0}}, "num_predict"),
        ("chat", {"options": {"temperature": "hot"}}, "temperature"),
        ("chat", {"options": {"repeat_last_n": 64}}, "repeat_last_n"),
        ("chat", {"format": "xml"}, "format"),
        ("chat", {"think": "much"}, "think"),
        ("chat", {"keep_alive": "soon"}, "keep_alive"),
        ("chat", {"top_logprobs": 3}, "top_logprobs"),
        ("chat", {"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}, "images"),
        ("chat", {"messages": [{"role": "user", "content": "x", "mood": "good"}]}, "mood"),
        ("chat", {"model": ""}, "model"),
        ("generate", {"suffix": "x"}, "suffix"),
        ("generate", {"template": "x"}, "template"),
        ("generate", {"context": [1]}, "context"),
        ("generate", {"images": ["aGk="]}, "images"),
        ("generate", {"raw": True, "system": "x"}, "raw"),
        ("embed", {"options": {"mirostat": 2}, "input": "x"}, "mirostat"),
        ("embed", {"input": "x", "dimensions": 9}, "dimensions"),
        ("embed", {"input": []}, "input"),
        ("pull", {"insecure": True}, "insecure"),
    ],
)
def test_what_cannot_be_honoured_is_named(server: ScriptedServer, path: str, body: dict[str, Any], named: str) -> None:
    usual = {"chat": {"messages": USER}, "generate": {"prompt": "Hi"}}.get(path, {})
    response = httpx.post(f"{server.url}/api/{path}", json={"model": MODEL, **usual, **body})
    assert response.status_code == 400
    assert response.json().keys() == {"error"} and named in response.json()["error"]


def test_what_has_no_effect_is_told(server: ScriptedServer) -> None:
    body = {"model": MODEL, "prompt": "Hi", "novelty": 1, "options": {"curiosity": 2}}
    warning = httpx.post(f"{server.url}/api/generate", json=body).headers["x-abaci-warning"]
    assert "novelty" in warning and "options.curiosity" in warning


def test_errors(server: ScriptedServer, client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        client.chat("nothing", USER)
    assert caught.value.status_code == 404 and "nothing" in caught.value.error
    server.say(RuntimeError("broken"))
    with pytest.raises(ollama.ResponseError) as caught:
        client.chat(MODEL, USER)
    assert caught.value.status_code == 500
    with pytest.raises(ollama.ResponseError, match="internal error"):
        list(client.chat(MODEL, USER, stream=True))


@pytest.mark.parametrize("call", ["create", "push"])
def test_making_models_is_refused(client: ollama.Client, call: str) -> None:
    with pytest.raises(ollama.ResponseError, match="not provided") as caught:
        getattr(client, call)(MODEL)
    assert caught.value.status_code == 400


def test_keep_alive_is_for_whoever_runs_the_server(server: ScriptedServer, client: ollama.Client) -> None:
    client.chat(MODEL, USER, keep_alive="5m")
    client.chat(MODEL, USER, keep_alive=-1)
    client.chat(MODEL, USER)
    assert server.services.pool.kept_alive == [(MODEL, 300.0), (MODEL, None)]


def test_what_changes_the_machine_needs_the_key_of_the_server() -> None:
    with scripted_server() as server:
        key = server.create_key("guest")
        with ollama.Client(server.url, headers={"authorization": f"Bearer {key}"}) as guest:
            assert guest.chat(MODEL, USER, keep_alive="5m").message.content == "Hello!"
            assert server.services.pool.kept_alive == []
            for change in (
                lambda: guest.pull(MODEL),
                lambda: guest.delete(MODEL),
                lambda: guest.copy(MODEL, "mine"),
                lambda: guest.generate(MODEL, keep_alive=0),
            ):
                with pytest.raises(ollama.ResponseError) as caught:
                    change()
                assert caught.value.status_code == 403


class Pull:
    """Stands in for a download: two steps, or steps without end until nobody listens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.is_endless = False
        self.was_abandoned = threading.Event()
        self.error: Exception | None = None
        monkeypatch.setattr(hub, "pull", self)

    def __call__(self, name: str, *, progress: hub.DownloadListener) -> None:
        self.names.append(name)
        progress.noticed("a source has gone")
        progress.advanced("somewhere", 50, 100)
        if self.error is not None:
            raise self.error
        try:
            while self.is_endless:
                progress.advanced("somewhere", 50, 100)
                time.sleep(0.005)
        except Exception:
            self.was_abandoned.set()
            raise
        progress.advanced("somewhere", 100, 100)


@pytest.fixture
def any_model() -> Iterator[ScriptedServer]:
    with scripted_server(any_model=True) as server:
        yield server


def test_pull(any_model: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = Pull(monkeypatch)
    name = hub.load_catalog().default
    entry = hub.pinned_entry(hub.load_catalog(), name)
    assert entry is not None
    with ollama.Client(any_model.url) as client:
        steps = list(client.pull(name, stream=True))
        assert (steps[0].status, steps[-1].status) == ("pulling manifest", "success")
        assert steps[1].status == "a source has gone"
        assert (steps[-3].total, steps[-3].completed) == (100, 100)
        assert steps[-3].digest == f"sha256:{entry.sha256}"
        assert client.pull(f"{name}:latest").status == "success"
        assert fetched.names == [name, name]
        fetched.error = DownloadError("nobody has it")
        with pytest.raises(ollama.ResponseError, match="nobody has it"):
            list(client.pull(name, stream=True))
        with pytest.raises(ollama.ResponseError) as caught:
            client.pull(name)
        assert caught.value.status_code == 502


def test_a_pull_keeps_to_the_licence_policy(
    any_model: ScriptedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fetched = Pull(monkeypatch)
    policy = tmp_path / "policy.toml"
    policy.write_text('[licences]\ndeny = ["gemma"]\n')
    monkeypatch.setenv("ABACI_LICENCE_POLICY", str(policy))
    monkeypatch.setenv("ABACI_HOME", str(tmp_path / "home"))
    with ollama.Client(any_model.url) as client, pytest.raises(ollama.ResponseError, match="policy denies") as caught:
        client.pull("gemma3:270m")
    assert caught.value.status_code == 403
    assert fetched.names == []


def test_a_download_that_nobody_waits_for_is_given_up(
    any_model: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = Pull(monkeypatch)
    fetched.is_endless = True
    body = {"model": hub.load_catalog().default}
    with httpx.stream("POST", f"{any_model.url}/api/pull", json=body) as response:
        lines = response.iter_lines()  # kept: the stream ends with its iterator
        next(lines)
        any_model.wait_until(lambda: fetched.names)
        assert not fetched.was_abandoned.is_set()
    assert fetched.was_abandoned.wait(DEADLINE_SECONDS)


@pytest.mark.parametrize("name", ["http://127.0.0.1/x", "../../etc/passwd", "/etc/passwd", "hf.co/a/b"])
def test_only_the_catalog_is_fetched(any_model: ScriptedServer, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    fetched = Pull(monkeypatch)
    with ollama.Client(any_model.url) as client, pytest.raises(ollama.ResponseError) as caught:
        client.pull(name)
    assert caught.value.status_code == 404 and not fetched.names


def test_what_would_not_be_served_is_not_fetched(client: ollama.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = Pull(monkeypatch)
    with pytest.raises(ollama.ResponseError, match="any_model") as caught:
        client.pull(hub.load_catalog().default)
    assert caught.value.status_code == 403 and not fetched.names


def test_delete_removes_the_file(any_model: ScriptedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ABACI_HOME", str(tmp_path))
    store = hub.Store()
    partial = store.partial_path("cd" * 32)
    partial.write_bytes(b"weights")
    path = store.adopt(WantedFile("stored.gguf", 7, None), partial, "cd" * 32)
    file = stored_file("stored.gguf", path, "cd" * 32, is_ours=True)
    store.refer(StoredModel("stored:1b", path, (file,), source="test", licence="MIT"))
    any_model.services.pool.only_stored.add("stored:1b")
    with ollama.Client(any_model.url) as client:
        assert client.delete("stored:1b").status == "success"
        assert not path.exists() and store.get("stored:1b") is None
        with pytest.raises(ollama.ResponseError) as caught:
            client.delete("nothing")
        assert caught.value.status_code == 404


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (0, 0),
        (-1, None),
        (1.5, 1.5),
        ("5m", 300),
        ("1h30m", 5400),
        ("250ms", 0.25),
        ("-1", None),
        ("-1m", None),
        ("7", 7),
    ],
)
def test_durations(given: float | str, seconds: float | None) -> None:
    assert duration_seconds("keep_alive", given) == seconds


@pytest.mark.parametrize("given", ["", "m", "5 minutes", "5m!", "--5m", "1e400"])
def test_what_is_no_duration(given: str) -> None:
    with pytest.raises(ParameterError, match="keep_alive"):
        duration_seconds("keep_alive", given)


async def _answers(url: str) -> tuple[str, str]:
    async with ollama.AsyncClient(url) as client:
        whole = await client.chat(MODEL, USER)
        parts = [part.message.content async for part in await client.chat(MODEL, USER, stream=True)]
        return whole.message.content, "".join(parts)


def test_asynchronous_client(server: ScriptedServer) -> None:
    assert asyncio.run(_answers(server.url)) == ("Hello!", "Hello!")
