"""What operators see and set: metrics, logs, traces, pings, TLS, what is in memory."""

import gzip
import json
import logging
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from real_server import real_server
from scripted_server import MODEL, OTHER_MODEL, ScriptedServer, scripted_server
from typer.testing import CliRunner

from abaci.cli.app import app
from abaci.server.logs import JsonFormatter
from abaci.server.traces import Traces

CERTIFICATE = Path(__file__).parent / "data" / "localhost.pem"
"""Made for these tests, with its key beside it: self-signed, for localhost, valid for a hundred years."""

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "a secret question"}]}


def post(server: ScriptedServer, path: str = "/v1/chat/completions", **more: Any) -> httpx.Response:
    return httpx.post(server.url + path, json={**BODY, **more}, trust_env=False)


def get(server: ScriptedServer, path: str) -> httpx.Response:
    return httpx.get(server.url + path, trust_env=False)


# Metrics.


def test_metrics_have_vllms_names_under_our_prefix(server: ScriptedServer) -> None:
    assert post(server, n=2).status_code == 200
    assert post(server, stream=True).status_code == 200
    text = get(server, "/metrics").text
    labels = f'{{engine="0",model_name="{MODEL}"}}'
    assert f"abaci_time_to_first_token_seconds_count{labels} 2.0" in text
    assert f"abaci_e2e_request_latency_seconds_count{labels} 2.0" in text
    assert f"abaci_request_params_n_sum{labels} 3.0" in text
    assert f'abaci_request_success_total{{engine="0",finished_reason="stop",model_name="{MODEL}"}} 3.0' in text
    for name in (
        *("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prefix_cache_queries_total"),
        *("prefix_cache_hits_total", "num_preemptions_total", "prompt_tokens_total", "generation_tokens_total"),
        *("inter_token_latency_seconds_bucket", "time_per_output_token_seconds_bucket", "iteration_tokens_total"),
        *("cpu_threads_used", "cpu_cores_allowed", "weight_read_bytes_per_second"),
    ):
        assert f"\nabaci_{name}{{" in text, name
    assert "vllm:" not in text


def test_vllms_own_prefix_on_request() -> None:
    with scripted_server(vllm_metrics=True) as server:
        assert post(server).status_code == 200
        text = get(server, "/metrics").text
    assert "\nvllm:time_to_first_token_seconds_bucket{" in text
    assert "\nabaci_time_to_first_token_seconds_bucket{" in text
    assert "# TYPE vllm:num_requests_running gauge" in text


def test_refusals_are_counted() -> None:
    with scripted_server(max_queued_requests=0, max_sequences=1) as server:
        server.generator.pause_seconds = 0.2
        thread = threading.Thread(target=post, args=(server,))
        thread.start()
        server.wait_until(lambda: server.services.queue.num_inside == 1)
        assert post(server).status_code == 429
        thread.join()
        labels = f'{{engine="0",model_name="{MODEL}",reason="queue full"}}'
        assert f"abaci_admission_rejections_total{labels} 1.0" in get(server, "/metrics").text


# Logs.


def test_the_log_has_requests_but_no_prompts(server: ScriptedServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "abaci")
    response = post(server)
    server.wait_until(lambda: caplog.records)
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    entry = next(line for line in lines if line.get("request_id") == response.headers["x-request-id"])
    assert (entry["level"], entry["status"]) == ("info", 200)
    assert entry["message"] == "POST /v1/chat/completions 200"
    assert "secret" not in json.dumps(lines)


def test_prompts_are_logged_if_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "abaci")
    with scripted_server(log_prompts=True) as server:
        assert post(server).status_code == 200
    assert any("a secret question" in getattr(record, "prompt", "") for record in caplog.records)


# Streams.


def test_a_silent_stream_says_that_it_lives() -> None:
    with scripted_server(ping_seconds=0.05) as server:
        server.generator.pause_seconds = 0.2
        server.say("Hi")
        lines = post(server, stream=True).text.split("\n\n")
    assert ": ping" in lines
    assert (
        "".join(
            choice["delta"].get("content", "")
            for line in lines
            if line.startswith("data: {")
            for choice in json.loads(line[6:])["choices"]
        )
        == "Hi"
    )


# Traces.


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """Where spans are sent, and what came."""
    received: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    listener = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listener.server_port}/v1/traces", received
    listener.shutdown()
    listener.server_close()
    thread.join()


def test_a_request_is_a_span_of_its_callers_trace(collector: tuple[str, list[bytes]]) -> None:
    endpoint, received = collector
    trace = "0af7651916cd43dd8448eb211c80319c"
    with scripted_server(parts={"traces": Traces(endpoint)}) as server:
        headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        assert httpx.post(f"{server.url}/v1/chat/completions", json=BODY, headers=headers).status_code == 200
    sent = b"".join(received)
    assert bytes.fromhex(trace) in sent
    assert b"llm_request" in sent
    assert b"gen_ai.usage.completion_tokens" in sent
    assert b"secret" not in sent


# Residency, from the command line.


def test_ps_and_stop(server: ScriptedServer) -> None:
    run = CliRunner().invoke
    assert post(server, model=OTHER_MODEL).status_code == 200
    listed = run(app, ["ps", "--url", server.url, "--json"])
    assert [model["id"] for model in json.loads(listed.stdout)] == [OTHER_MODEL]
    assert OTHER_MODEL in run(app, ["ps", "--url", server.url]).stdout
    assert "is unloaded" in run(app, ["stop", OTHER_MODEL, "--url", server.url]).stdout
    assert "was not loaded" in run(app, ["stop", OTHER_MODEL, "--url", server.url]).stdout
    assert json.loads(run(app, ["ps", "--url", server.url, "--json"]).stdout) == []
    unknown = run(app, ["stop", "nothing", "--url", server.url])
    assert unknown.exit_code == 3


def test_ps_without_a_server() -> None:
    result = CliRunner().invoke(app, ["ps", "--url", "http://127.0.0.1:9"])
    assert result.exit_code == 6
    assert "abaci serve" in result.stderr


# TLS, and what keeps a server from starting.


def test_tls(smollm2_path: Path, tmp_path: Path) -> None:
    environment = {
        "ABACI_TLS_CERTIFICATE": str(CERTIFICATE),
        "ABACI_TLS_KEY": str(CERTIFICATE.with_name("localhost-key.pem")),
    }
    with real_server(smollm2_path, tmp_path, environment=environment) as server:
        assert server.url.startswith("https://")
        with httpx.Client(verify=ssl.create_default_context(cafile=CERTIFICATE), trust_env=False) as client:
            answer = client.post(f"{server.url}/v1/chat/completions", json={**BODY, "max_tokens": 2})
        assert answer.status_code == 200


def test_no_server_beyond_loopback_without_a_key(smollm2_path: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["serve", str(smollm2_path), "--host", "0.0.0.0", "--port", "0", "--state-dir", str(tmp_path)]
    )
    assert result.exit_code == 2
    assert "--api-key" in result.stderr


def test_a_taken_port_is_found_out_before_a_model_is_loaded(server: ScriptedServer, tmp_path: Path) -> None:
    port = server.url.rsplit(":", 1)[1]
    result = CliRunner().invoke(app, ["serve", "no-such-model", "--port", port, "--state-dir", str(tmp_path)])
    assert result.exit_code == 6
    assert "--port" in result.stderr
