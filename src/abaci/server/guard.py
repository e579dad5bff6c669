"""The door: everything that holds for every request before a handler sees it. Pure ASGI.

Request id, route table (what is not listed does not exist), Host and Origin, the caller's key, the size of the body;
and errors, which leave in the envelope of the path's dialect. It knows no dialect otherwise and no model.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from abaci.errors import AbaciError, ForbiddenError, PayloadTooLargeError
from abaci.server.auth import Authenticator
from abaci.server.config import ServerConfig
from abaci.server.replies import SERVER_SEND
from abaci.server.routes import Route, RouteTable, Rule
from abaci.server.traces import TRACE_PARENT
from abaci.server.wire import ANTHROPIC_REQUEST_ID_HEADER, REQUEST_ID_HEADER, error_response, request_id_of

_LOG = logging.getLogger("abaci.server")
_FAILURE: Final = "failure"
_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})


class RouteNotFoundError(AbaciError):
    """No such path on this server."""

    http_status = 404


class MethodNotAllowedError(AbaciError):
    """The path exists, but not for this method."""

    http_status = 405


@dataclass(frozen=True, slots=True)
class Access:
    """One line of the access log."""

    request_id: str
    method: str
    path: str
    status: int
    seconds: float
    key: str | None


class Guard:
    """ASGI middleware around the application."""

    def __init__(
        self, app: ASGIApp, config: ServerConfig, authenticator: Authenticator, on_access: Callable[[Access], None]
    ) -> None:
        self.app = app
        self.config = config
        self._authenticator = authenticator
        self._on_access = on_access
        self._table = RouteTable()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Every request passes here; other kinds of connection than HTTP are not served."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await _Exchange(self, scope, receive, send).run()
        else:
            await send({"type": "websocket.close", "code": 1008})

    def check(self, scope: Scope, headers: Headers) -> None:
        """Raise what speaks against this request; leave the caller in `scope["state"]`."""
        route = self._route(scope["path"], scope["method"])
        self._check_host(headers)
        self._check_origin(scope, headers)
        state = scope.setdefault("state", {})
        if route.rule is not Rule.PUBLIC:
            caller = state["caller"] = self._authenticator.identify(headers)
            if route.rule is Rule.ADMIN and not caller.is_admin:
                raise ForbiddenError(
                    f"the key {caller.name!r} may not change what this server has",
                    hint="Use the key that the server was started with.",
                )
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.config.max_body_bytes:
            raise self.too_large()

    def too_large(self) -> PayloadTooLargeError:
        """The error for a body beyond the limit."""
        return PayloadTooLargeError(
            f"the body is larger than {self.config.max_body_bytes:,} bytes",
            hint="Send less; whoever runs the server may raise `max_body_bytes`.",
        )

    def _route(self, path: str, method: str) -> Route:
        routes = self._table.find(path)
        if not routes:
            raise RouteNotFoundError(f"there is nothing at {path[:200]}", hint="GET /openapi.json lists what there is.")
        for route in routes:
            if method in route.methods:
                return route
        allowed = ", ".join(sorted({allowed for route in routes for allowed in route.methods}))
        raise MethodNotAllowedError(f"{method} is not possible at {path[:200]}", hint=f"Send {allowed}.")

    def _check_host(self, headers: Headers) -> None:
        """Against DNS rebinding: a page of a foreign name that resolves to us must not reach an open server."""
        allowed = self.config.allowed_hosts
        if "*" in allowed or (not allowed and not self.config.is_loopback):
            return
        host = headers.get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if name.lower() not in _LOOPBACK_NAMES and name not in allowed and host not in allowed:
            raise ForbiddenError(
                f"this server does not answer to the name {name[:100]!r}", hint="Add it to allowed_hosts."
            )

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        """Browsers name the page that sends a request; only our own page and those allowed may."""
        origin = headers.get("origin")
        if origin is None or origin in self.config.allowed_origins or "*" in self.config.allowed_origins:
            return
        own = urlsplit(origin)
        if own.scheme == scope.get("scheme", "http") and own.netloc == headers.get("host", ""):
            return
        raise ForbiddenError(f"pages of {origin[:100]!r} may not call this server", hint="Add it to allowed_origins.")

    def log(self, access: Access) -> None:
        """Tell of a finished request."""
        self._on_access(access)


class ErrorCarrier:
    """ASGI middleware inside the application: takes errors to the guard, past a framework that would answer itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Never raises; the guard does so in its place."""
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            scope["state"][_FAILURE] = error


def raise_failure(scope: Scope) -> None:
    """Raise the error that the ErrorCarrier left behind, if there is one."""
    if _FAILURE in scope["state"]:
        raise scope["state"][_FAILURE]


class _Exchange:
    """One request on its way through the guard."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self._guard = guard
        self._scope = scope
        self._receive = receive
        self._send = send
        self._headers = Headers(scope=scope)
        self._request_id = request_id_of(self._headers)
        self._status: int | None = None
        self._received_bytes = 0

    async def run(self) -> None:
        begin = perf_counter()
        scope = self._scope
        scope.setdefault("state", {}).update({"request_id": self._request_id, SERVER_SEND: self._send})
        TRACE_PARENT.set(self._headers.get("traceparent"))
        try:
            if not _is_preflight(scope, self._headers):
                self._guard.check(scope, self._headers)
            await self._guard.app(scope, self._counted_receive, self._marked_send)
            raise_failure(scope)
        except Exception as error:
            if not isinstance(error, AbaciError) or error.http_status >= 500:
                _LOG.error("request %s failed", self._request_id, exc_info=error)
            if self._status is not None:  # too late for an error document: the connection is cut
                raise
            response = error_response(error, scope["path"])
            await response(scope, self._receive, self._marked_send)
        finally:
            caller = scope["state"].get("caller")
            self._guard.log(
                Access(
                    self._request_id,
                    scope["method"],
                    scope["path"],
                    self._status or 499,
                    perf_counter() - begin,
                    None if caller is None else caller.name,
                )
            )

    async def _counted_receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._received_bytes += len(message.get("body", b""))
            if self._received_bytes > self._guard.config.max_body_bytes:
                raise self._guard.too_large()
        return message

    async def _marked_send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID_HEADER] = self._request_id
            headers[ANTHROPIC_REQUEST_ID_HEADER] = self._request_id
            headers.setdefault("x-content-type-options", "nosniff")
        await self._send(message)


def _is_preflight(scope: Scope, headers: Headers) -> bool:
    """A browser asking whether it may ask; answered by the CORS middleware, which knows the allowed origins."""
    return scope["method"] == "OPTIONS" and "access-control-request-method" in headers
