"""The door: what passes and what is turned away, and in which words."""

import asyncio
import json
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse

from abaci.errors import AbaciError, RateLimitedError
from abaci.server.auth import Authenticator, Caller
from abaci.server.config import ServerConfig
from abaci.server.guard import Access, Guard

KEY = "abaci-secret"


class Door:
    """A guard around an application that tells who came."""

    def __init__(self, error: Exception | None = None, **settings: Any) -> None:
        self.accesses: list[Access] = []
        self._error = error
        config = ServerConfig(**settings)
        self._guard = Guard(self._inside, config, Authenticator(config.api_key), self.accesses.append)

    def request(
        self, path: str, method: str = "POST", body: bytes = b"{}", chunked: bool = False, **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and decoded body of one exchange."""
        sent: list[Any] = []
        given = {"host": "localhost:8000", **{name.replace("_", "-"): value for name, value in headers.items()}}
        if not chunked:
            given.setdefault("content-length", str(len(body)))
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> Any:
            return next(messages)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "scheme": "http",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
        }
        asyncio.run(self._guard(scope, receive, send))
        content = b"".join(message.get("body", b"") for message in sent[1:])
        answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], answered, json.loads(content) if content else None

    async def _inside(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        body = await request.body()
        if self._error is not None:
            raise self._error
        caller: Caller = request.state.caller
        await JSONResponse({"caller": caller.name, "bytes": len(body)})(scope, receive, send)


def test_open_on_loopback_without_a_key() -> None:
    status, _, answer = Door().request("/v1/chat/completions")
    assert (status, answer) == (200, {"caller": "local", "bytes": 2})


def test_key_as_openai_and_as_anthropic_send_it() -> None:
    door = Door(api_key=KEY)
    assert door.request("/v1/chat/completions", authorization=f"Bearer {KEY}")[0] == 200
    assert door.request("/v1/chat/completions", authorization=f"bearer {KEY}")[0] == 200
    assert door.request("/v1/chat/completions", x_api_key=KEY)[0] == 200


@pytest.mark.parametrize("authorization", ["", "Bearer ", "Bearer wrong", f"Basic {KEY}", KEY, "Bearer \xff"])
def test_wrong_key(authorization: str) -> None:
    status, headers, answer = Door(api_key=KEY).request("/v1/models", "GET", authorization=authorization)
    assert status == 401
    assert headers["www-authenticate"] == "Bearer"
    assert answer["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("path", ["/metrics", "/usage", "/v1/models", "/openapi.json", "/tokenize"])
def test_nothing_but_pages_and_health_is_open(path: str) -> None:
    door = Door(api_key=KEY)
    assert {door.request(path, method)[0] for method in ("GET", "POST")} <= {401, 405}


def test_what_is_not_in_the_table_does_not_exist() -> None:
    door = Door()
    for path in ("/v2/models", "/v1/chat/completions/", "/docs", "/v1", "/assets/"):
        assert door.request(path, "GET")[0] == 404
    status, _, answer = door.request("/v1/chat/completions", "DELETE")
    assert status == 405
    assert "POST" in answer["error"]["message"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""])
def test_foreign_names_do_not_reach_a_loopback_server(host: str) -> None:
    assert Door().request("/v1/chat/completions", host=host)[0] == 403


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9", "[::1]:8000", "LOCALHOST:8000"])
def test_own_names(host: str) -> None:
    assert Door().request("/v1/chat/completions", host=host)[0] == 200


def test_allowed_hosts() -> None:
    assert Door(allowed_hosts=("box.lan",)).request("/v1/chat/completions", host="box.lan:8000")[0] == 200
    assert Door(host="0.0.0.0", api_key=KEY, allowed_hosts=("box.lan",)).request("/ping", host="other")[0] == 403


def test_pages_of_other_origins() -> None:
    assert Door().request("/v1/chat/completions", origin="http://localhost:8000")[0] == 200
    assert Door().request("/v1/chat/completions", origin="https://evil.example")[0] == 403
    assert Door().request("/v1/chat/completions", origin="null")[0] == 403
    allowed = Door(allowed_origins=("https://app.example",))
    assert allowed.request("/v1/chat/completions", origin="https://app.example")[0] == 200


@pytest.mark.parametrize("chunked", [True, False])
def test_body_beyond_the_limit(chunked: bool) -> None:
    status, _, answer = Door(max_body_bytes=1024).request("/v1/chat/completions", body=b"x" * 1025, chunked=chunked)
    assert status == 413
    assert "1,024" in answer["error"]["message"]


def test_request_id_is_kept_if_harmless_else_made() -> None:
    door = Door()
    assert door.request("/v1/chat/completions", x_request_id="abc-1")[1]["x-request-id"] == "abc-1"
    made = door.request("/v1/chat/completions", x_request_id="a\tb" * 200)[1]["x-request-id"]
    assert len(made) == 32
    assert door.accesses[0].request_id == "abc-1"


def test_errors_in_each_dialect() -> None:
    door = Door(RateLimitedError("too fast", retry_after_seconds=3.2))
    status, headers, answer = door.request("/v1/chat/completions")
    assert (status, headers["retry-after"]) == (429, "4")
    assert answer["error"]["type"] == "rate_limit_error"


def test_defects_are_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    status, headers, answer = Door(ValueError("secret detail")).request("/v1/chat/completions")
    assert status == 500
    assert "secret" not in json.dumps(answer)
    assert headers["x-request-id"] in caplog.text
    for path in ("/v1/chat/completions", "/v1/messages"):
        told = Door(AbaciError("known", hint="do this")).request(path)[2]["error"]
        assert (told["message"], told["hint"]) == ("known (do this)", "do this")
        assert "hint" not in Door(AbaciError("known")).request(path)[2]["error"]
