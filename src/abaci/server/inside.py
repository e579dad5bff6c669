"""Calls the application from inside the process, as its own client: what batches are answered with.

The call passes every handler exactly as one from outside does, but not the guard: its caller is known already.
"""

import asyncio
from dataclasses import replace
from typing import Any

from starlette.types import ASGIApp, Message

from abaci.server.auth import Caller
from abaci.server.guard import raise_failure
from abaci.server.wire import compact_json, error_document, error_status


class InsideCalls:
    """POSTs JSON to routes of an application in the name of callers, as background work."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def post(self, path: str, body: bytes, caller: Caller, request_id: str) -> tuple[int, bytes]:
        """Status and body of the answer; an exception becomes what a client would have seen of it.

        Cancelling it is what a client's leaving is.
        """
        exchange = _Exchange(path, body, replace(caller, is_background=True), request_id)
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
            raise_failure(exchange.scope)
        except Exception as error:
            return error_status(error), compact_json(error_document(error, path)).encode()
        return exchange.status, bytes(exchange.answer)


class _Exchange:
    def __init__(self, path: str, body: bytes, caller: Caller, request_id: str) -> None:
        self.status = 500
        self.answer = bytearray()
        self._body: bytes | None = body
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
            "client": None,
            "server": None,
            "state": {"caller": caller, "request_id": request_id},
        }

    async def receive(self) -> Message:
        """The body, and then nothing: this client does not leave before its answer is there."""
        if self._body is None:
            await asyncio.get_running_loop().create_future()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.answer += message.get("body", b"")
