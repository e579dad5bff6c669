"""What holds for the requests of a call, whatever its dialect."""

import contextlib
import threading
from typing import Any

import httpx
from scripted_server import ScriptedServer

from abaci.generation import GenerationRequest, TokenSink

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}


def post(server: ScriptedServer, key: str | None = None, **more: Any) -> httpx.Response:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return httpx.post(f"{server.url}/v1/chat/completions", json={**BODY, **more}, headers=headers, trust_env=False)


def test_no_request_can_take_the_salt_of_another_caller(server: ScriptedServer) -> None:
    alice, bob = server.create_key("alice"), server.create_key("bob")
    assert post(server, alice).status_code == 200
    salt_of_alice = server.requests[-1].cache_salt
    assert salt_of_alice
    assert post(server, bob, cache_salt=salt_of_alice).status_code == 200
    assert post(server, bob, cache_salt=f"\n{salt_of_alice}").status_code == 200
    salts = [request.cache_salt for request in server.requests]
    assert len(set(salts)) == 3
    assert len({request.tenant for request in server.requests}) == 2


def test_a_client_that_leaves_while_its_grammar_is_compiled(server: ScriptedServer) -> None:
    compiling, go_on = threading.Event(), threading.Event()
    submit = server.generator.submit

    def slowly(request: GenerationRequest, sink: TokenSink) -> None:
        compiling.set()
        assert go_on.wait(10)
        submit(request, sink)

    server.generator.submit = slowly  # type: ignore[method-assign]
    form = {"type": "json_object"}
    with contextlib.suppress(httpx.ReadTimeout):
        httpx.post(
            f"{server.url}/v1/chat/completions", json={**BODY, "response_format": form}, timeout=0.3, trust_env=False
        )
    assert compiling.is_set()
    server.wait_until(lambda: server.generator.cancelled)  # the server has noticed; there is nothing to cancel yet
    go_on.set()
    server.wait_until(lambda: server.requests)
    request_id = server.requests[0].request_id
    server.wait_until(lambda: (request_id, None) in server.generator.cancelled[1:])
    assert server.services.queue.num_inside == 0
