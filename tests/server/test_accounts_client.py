"""Keys, limits, files, batches and usage over HTTP, with OpenAI's own client where it has words for them."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from scripted_server import IM_END, MODEL, OTHER_MODEL, ScriptedServer, scripted_server

from abaci.server.database import Database
from abaci.server.keys import KeyLimits, KeyStore

URL = "/v1/chat/completions"
DEADLINE_SECONDS = 10.0


def client_of(server: ScriptedServer, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[openai.OpenAI]:
    with client_of(server) as client:
        yield client


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[tuple[ScriptedServer, KeyStore]]:
    """A server whose keys can be changed beside it, as the command line does."""
    with scripted_server(state_dir=tmp_path) as server:
        database = Database.open(tmp_path)
        yield server, KeyStore(database)
        database.close()


def new_client(keyed: tuple[ScriptedServer, KeyStore], name: str, limits: KeyLimits | None = None) -> openai.OpenAI:
    server, store = keyed
    key, secret = store.create(name, limits)
    server.wait_until(lambda: server.services.accounts.keys.get(key.id) is not None)
    return client_of(server, secret)


def chat_line(i: int, **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"question {i}"}]
    return {"custom_id": f"line-{i}", "method": "POST", "url": URL, "body": {"messages": messages, **body}}


def upload(client: openai.OpenAI, lines: list[dict[str, Any]], **options: Any) -> Any:
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return client.files.create(file=("in.jsonl", content), purpose="batch", **options)


def submit(client: openai.OpenAI, lines: list[dict[str, Any]], endpoint: Any = URL) -> Any:
    file = upload(client, lines)
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")


def ended(client: openai.OpenAI, batch: Any) -> Any:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while batch.status in ("validating", "in_progress", "finalizing", "cancelling"):
        assert time.monotonic() < deadline, f"the batch is still {batch.status}"
        time.sleep(0.02)
        batch = client.batches.retrieve(batch.id)
    return batch


def results(client: openai.OpenAI, file_id: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def ask(client: openai.OpenAI, model: str = MODEL, **options: Any) -> Any:
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi"}], **options)


def test_a_batch_from_upload_to_output(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.say("Answer.")
    lines = [chat_line(i, model=MODEL) for i in range(5)] + [chat_line(5, temperature="hot")]
    batch = submit(client, lines)
    assert (batch.object, batch.endpoint, batch.completion_window) == ("batch", URL, "24h")
    assert batch.output_file_id is None
    batch = ended(client, batch)
    assert batch.status == "completed"
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (6, 5, 1)
    outputs = results(client, batch.output_file_id)
    assert [output["custom_id"] for output in outputs] == [f"line-{i}" for i in range(5)]
    assert outputs[0]["response"]["body"]["choices"][0]["message"]["content"] == "Answer."
    (failure,) = results(client, batch.error_file_id)
    assert failure["response"]["status_code"] == 400
    assert "temperature" in failure["response"]["body"]["error"]["message"]
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    assert all(request.is_background for request in server.requests)
    assert [listed.id for listed in client.batches.list()] == [batch.id]


def test_embeddings_and_completions_run_in_batches_too(server: ScriptedServer, client: openai.OpenAI) -> None:
    for endpoint, body in (("/v1/embeddings", {"input": "a"}), ("/v1/completions", {"prompt": "a"})):
        line = {"custom_id": "1", "method": "POST", "url": endpoint, "body": body}
        assert ended(client, submit(client, [line], endpoint)).request_counts.completed == 1


def test_a_bad_batch_says_what_is_wrong(client: openai.OpenAI) -> None:
    batch = ended(client, submit(client, [chat_line(0), chat_line(0)]))
    assert batch.status == "failed"
    assert [(error.code, error.line) for error in batch.errors.data] == [("duplicate_custom_id", 2)]
    file_id = upload(client, []).id
    for changes, named in (
        ({"endpoint": "/v1/elsewhere"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"extra_body": {"output_expires_after": {"anchor": "created_at", "seconds": 3600}}}, "output_expires_after"),
    ):
        with pytest.raises(openai.BadRequestError, match=named):
            client.batches.create(
                **{"input_file_id": file_id, "endpoint": URL, "completion_window": "24h"} | changes  # type: ignore[arg-type]
            )
    with pytest.raises(openai.NotFoundError):
        client.batches.create(input_file_id="file-none", endpoint=URL, completion_window="24h")


def test_a_batch_is_cancelled_while_it_runs(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.say("A long answer that takes its time.")
    server.generator.pause_seconds = 0.02
    batch = submit(client, [chat_line(i) for i in range(50)])
    server.wait_until(lambda: server.requests)
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = ended(client, batch)
    assert batch.status == "cancelled"
    assert batch.cancelled_at >= batch.cancelling_at
    with pytest.raises(openai.NotFoundError):
        client.batches.cancel("batch_none")


def test_files_over_http(client: openai.OpenAI) -> None:
    files = [upload(client, [chat_line(i)], expires_after={"anchor": "created_at", "seconds": 3600}) for i in range(3)]
    assert (files[0].object, files[0].filename, files[0].purpose) == ("file", "in.jsonl", "batch")
    assert files[0].expires_at == files[0].created_at + 3600
    content = client.files.content(files[0].id).read()
    assert len(content) == files[0].bytes
    assert json.loads(content) == chat_line(0)
    assert [file.id for file in client.files.list(limit=1)] == [file.id for file in reversed(files)]
    assert [file.id for file in client.files.list(order="asc", after=files[0].id)] == [file.id for file in files[1:]]
    assert client.files.delete(files[0].id).deleted
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(files[0].id)


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        ({"files": {"file": ("a", b"x")}, "data": {"purpose": "fine-tune"}}, "purpose"),
        ({"files": {"file": ("a", b"x")}}, "purpose"),
        ({"data": {"purpose": "batch"}}, "file"),
        ({"files": {"other": ("a", b"x")}, "data": {"purpose": "batch"}}, "file"),
        ({"content": b"nonsense", "headers": {"content-type": "multipart/form-data; boundary=x"}}, "form"),
        ({"content": b"nonsense", "headers": {"content-type": "multipart/form-data"}}, "form"),
        ({"json": {"purpose": "batch"}}, "file"),
        ({"files": {"file": ("a", b"x")}, "data": {"purpose": "batch", "expires_after[seconds]": "60"}}, "expires"),
        (
            {
                "files": {"file": ("a", b"x")},
                "data": {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "60"},
            },
            "expires",
        ),
    ],
)
def test_bad_uploads_are_refused(server: ScriptedServer, request_: dict[str, Any], named: str) -> None:
    answer = httpx.post(f"{server.url}/v1/files", **request_)
    assert answer.status_code == 400
    assert named in answer.json()["error"]["message"]


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=10001", "order=up", "purpose=none"])
def test_bad_queries_are_refused(server: ScriptedServer, query: str) -> None:
    assert httpx.get(f"{server.url}/v1/files?{query}").status_code == 400


def test_keys_see_their_own_files_and_batches_only(keyed: tuple[ScriptedServer, KeyStore]) -> None:
    ours, theirs = new_client(keyed, "ours"), new_client(keyed, "theirs")
    batch = ended(ours, submit(ours, [chat_line(0)]))
    for call in (theirs.batches.retrieve, theirs.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            call(batch.id)
    for file_id in (batch.input_file_id, batch.output_file_id):
        with pytest.raises(openai.NotFoundError):
            theirs.files.content(file_id)
    assert list(theirs.files.list()) == list(theirs.batches.list()) == []


def test_a_key_revoked_while_the_server_runs_is_out_and_its_batches_with_it(
    keyed: tuple[ScriptedServer, KeyStore],
) -> None:
    server, store = keyed
    client, other = new_client(keyed, "team"), new_client(keyed, "other")
    server.say("x" * 50)
    server.generator.pause_seconds = 0.002
    batch = submit(client, [chat_line(i) for i in range(100)])
    server.wait_until(lambda: server.requests)
    store.revoke("team")
    server.wait_until(lambda: server.services.accounts.keys.find(client.api_key) is None)
    with pytest.raises(openai.AuthenticationError):
        ask(client)
    assert ask(other).choices[0].finish_reason == "stop"
    service = server.services.accounts.batch_service
    owner = store.find("team").id
    server.wait_until(lambda: not service.batches.get(owner, batch.id).is_open)
    found = service.batches.get(owner, batch.id)
    assert found.num_failed > 0
    assert found.num_completed + found.num_failed == 100


def test_limits_of_a_key_hold_and_change_while_the_server_runs(keyed: tuple[ScriptedServer, KeyStore]) -> None:
    server, store = keyed
    client = new_client(keyed, "team", KeyLimits(requests_per_minute=1, models=(MODEL,)))
    ask(client)
    with pytest.raises(openai.RateLimitError, match="requests per minute") as raised:
        ask(client)
    assert 1 <= int(raised.value.response.headers["retry-after"]) <= 60
    with pytest.raises(openai.PermissionDeniedError, match=OTHER_MODEL):
        ask(client, OTHER_MODEL)
    key_id = store.change("team", {"requests_per_minute": None, "models": None}).id
    keys = server.services.accounts.keys
    server.wait_until(lambda: (key := keys.get(key_id)) is not None and key.limits == KeyLimits())
    ask(client)
    ask(client, OTHER_MODEL)


def test_a_batch_waits_for_its_keys_limit(keyed: tuple[ScriptedServer, KeyStore]) -> None:
    client = new_client(keyed, "team", KeyLimits(requests_per_minute=1))
    batch = submit(client, [chat_line(i) for i in range(2)])
    server, store = keyed
    server.wait_until(lambda: client.batches.retrieve(batch.id).request_counts.completed == 1)
    store.change("team", {"requests_per_minute": None})
    assert ended(client, batch).request_counts.completed == 2


def test_usage_is_seen_by_key(keyed: tuple[ScriptedServer, KeyStore]) -> None:
    server, _ = keyed
    server.say("Hello!")
    ours, theirs = new_client(keyed, "ours"), new_client(keyed, "theirs")
    num_prompt_tokens = ask(ours).usage.prompt_tokens
    ended(ours, submit(ours, [chat_line(0)]))
    ask(theirs)

    def usage_of(client: openai.OpenAI) -> Any:
        return httpx.get(f"{server.url}/usage", headers={"authorization": f"Bearer {client.api_key}"}).json()

    server.wait_until(lambda: usage_of(ours)["total"]["requests"] == 2)
    server.wait_until(lambda: usage_of(theirs)["total"]["requests"] == 1)
    (row,) = usage_of(ours)["rows"]
    assert (row["key"], row["model"], row["errors"]) == ("ours", MODEL, 0)
    assert row["prompt_tokens"] == 2 * num_prompt_tokens + len("question 0") - len("Hi")
    assert row["completion_tokens"] == 2 * len((*b"Hello!", IM_END))


def test_what_ran_is_seen_by_key(keyed: tuple[ScriptedServer, KeyStore]) -> None:
    server, _ = keyed
    server.say("Hello!")
    ours, theirs = new_client(keyed, "ours"), new_client(keyed, "theirs")
    ask(ours)
    ask(ours, OTHER_MODEL)
    ask(theirs)

    def top_of(client: openai.OpenAI, query: str = "") -> Any:
        headers = {"authorization": f"Bearer {client.api_key}"}
        return httpx.get(f"{server.url}/usage/top{query}", headers=headers).json()

    server.wait_until(lambda: top_of(ours)["total"]["requests"] == 2)
    assert {row["name"] for row in top_of(ours)["rows"]} == {MODEL, OTHER_MODEL}
    server.wait_until(lambda: top_of(theirs)["total"]["requests"] == 1)
    assert [row["name"] for row in top_of(theirs, "?by=key&since=7d")["rows"]] == ["theirs"]
    assert len(top_of(theirs, "?since=7d")["periods"]) == 7
    for query in ("?by=day", "?since=soon", "?further=1"):
        assert top_of(theirs, query)["error"]["type"] == "invalid_request_error"
