"""What must not hurt a server: clients that vanish, stall or flood, signals, a full disk, a crash. Real processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from real_server import RealServer, real_server
from waiting import wait_until

LONG = {"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True, "stream": True, "temperature": 0}
SHORT = {"prompt": "Once upon a time", "max_tokens": 3, "temperature": 0}


@pytest.fixture(scope="module")
def server(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    environment = {"ABACI_MAX_QUEUED_REQUESTS": "4", "ABACI_MAX_SEQUENCES": "4", "ABACI_SLOW_READER_SECONDS": "1"}
    with real_server(smollm2_path, tmp_path_factory.mktemp("state"), environment=environment) as running:
        yield running


def is_idle(server: RealServer) -> bool:
    return not server.metric("abaci_num_requests_running") + server.metric("abaci_num_requests_waiting")


def test_a_client_that_vanishes_frees_its_sequence(server: RealServer) -> None:
    with server.client() as client, client.stream("POST", "/v1/completions", json=LONG) as answer:
        lines = answer.iter_lines()  # kept: httpx closes the stream when it is collected
        next(lines)
        wait_until(lambda: server.metric("abaci_num_requests_running") == 1)
    wait_until(lambda: is_idle(server))
    assert server.metric("abaci_kv_cache_usage_perc") == 0


def test_a_client_that_does_not_read_is_dropped(server: RealServer) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps({**LONG, "logprobs": 100}).encode()
    with socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        stalled.connect((host, int(port)))
        head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n\r\n"
        stalled.sendall(head.encode() + body)
        wait_until(lambda: server.metric("abaci_num_requests_running") == 1)
        with server.client() as client:  # others are served meanwhile
            assert client.post("/v1/completions", json=SHORT).status_code == 200
        wait_until(lambda: is_idle(server))


def test_more_than_may_wait_is_refused_with_a_time_to_come_back(server: RealServer) -> None:
    with server.client() as client:
        streams = [
            client.send(client.build_request("POST", "/v1/completions", json=LONG), stream=True) for _ in range(8)
        ]
        assert {stream.status_code for stream in streams} == {200}
        refused = client.post("/v1/completions", json=SHORT)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        for stream in streams:
            stream.close()
        wait_until(lambda: is_idle(server))
        assert client.post("/v1/completions", json=SHORT).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"prompt": NaN}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "a", "max_tokens": 99999999999999999999}',
        b'{"prompt": [999999999]}',
        b'{"prompt": [[]]}',
        b'{"prompt": "a", "logit_bias": {"99999999": 1}}',
        b'{"prompt": "a", "stop": ""}',
        b'{"prompt": "a", "n": 1000000}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_malformed_bodies(server: RealServer, body: bytes) -> None:
    with server.client() as client:
        answer = client.post("/v1/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_malformed_requests_below_http(server: RealServer) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    for text in (b"\0" * 1000, b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/models HTTP/1.1\r\n" + b"a: b\r\n" * 100_000):
        with socket.create_connection((host, int(port))) as connection:
            connection.settimeout(10)
            try:
                connection.sendall(text)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1000)
            except OSError:
                pass
    with server.client() as client:
        assert client.get("/health").status_code == 200


def test_sigterm_lets_running_requests_end(smollm2_path: Path, tmp_path: Path) -> None:
    with real_server(smollm2_path, tmp_path) as server, server.client() as client:
        body = {**LONG, "max_tokens": 100}
        with client.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.signal(signal.SIGTERM)
            received = [line for line in lines if line]
        assert received[-1] == "data: [DONE]"
        assert '"finish_reason":"length"' in received[-2]
        assert server.wait() == 0
        with pytest.raises(httpx.ConnectError):
            client.get("/health")


def abaci(state_dir: Path, *arguments: str) -> Any:
    """Run a verb; its JSON."""
    command = [sys.executable, "-m", "abaci", *arguments, "--json"]
    environment = {**os.environ, "ABACI_STATE_DIR": str(state_dir)}
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)


def test_keys_usage_and_responses_outlive_a_crash(smollm2_path: Path, tmp_path: Path) -> None:
    secret = abaci(tmp_path, "key", "create", "alice")["key"]
    headers = {"authorization": f"Bearer {secret}"}
    with real_server(smollm2_path, tmp_path) as server, server.client(headers=headers) as client:
        assert client.post("/v1/completions", json=SHORT, headers={"authorization": "Bearer no"}).status_code == 401
        for _ in range(3):
            assert client.post("/v1/completions", json=SHORT).status_code == 200
        stored = client.post("/v1/responses", json={"input": "Hello", "max_output_tokens": 16}).json()["id"]
        wait_until(lambda: client.get("/usage").json()["total"]["requests"] == 4)
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                try:
                    client.post("/v1/completions", json=LONG)
                except httpx.HTTPError:
                    return

        loader = threading.Thread(target=load)
        loader.start()
        time.sleep(0.5)
        server.kill()
        stop.set()
        loader.join()
    with real_server(smollm2_path, tmp_path) as server, server.client(headers=headers) as client:
        assert client.get("/usage").json()["total"]["requests"] >= 4
        assert client.get(f"/v1/responses/{stored}").json()["id"] == stored
        assert client.post("/v1/completions", json=SHORT).status_code == 200
    assert abaci(tmp_path, "usage")["rows"][0]["key"] == "alice"


def test_a_full_disk_does_not_stop_answers(smollm2_path: Path, tmp_path: Path) -> None:
    with real_server(smollm2_path, tmp_path):
        pass  # the database is there
    size = max(file.stat().st_size for file in tmp_path.iterdir())
    with real_server(smollm2_path, tmp_path, max_file_bytes=size) as server, server.client() as client:
        for _ in range(20):
            assert client.post("/v1/completions", json=SHORT).status_code == 200
        assert client.get("/health").status_code == 200


def test_the_model_file_replaced_under_a_running_server(smollm2_path: Path, tmp_path: Path) -> None:
    model, other = tmp_path / "model.gguf", tmp_path / "other"
    os.link(smollm2_path, model)
    with real_server(model, tmp_path / "state") as server, server.client() as client:
        body = {**LONG, "max_tokens": 100}
        undisturbed = client.post("/v1/completions", json={**body, "stream": False}).json()["choices"][0]["text"]
        with client.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            other.write_bytes(b"not a model")
            other.replace(model)
            refused = client.post("/v1/completions", json=SHORT)
            pieces = [json.loads(line[6:]) for line in [first, *lines] if line.startswith("data: {")]
        assert "".join(piece["choices"][0]["text"] for piece in pieces) == undisturbed
        assert refused.status_code == 500
        assert str(model) in refused.json()["error"]["message"]
        os.link(smollm2_path, other)
        other.replace(model)
        assert client.post("/v1/completions", json=SHORT).status_code == 200
