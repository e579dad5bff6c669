"""Runs the application: sockets, TLS, signals, draining. Knows uvicorn, no route."""

import asyncio
import errno
import gc
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
import uvloop

from abaci.errors import ResourceError
from abaci.server.app import create_app
from abaci.server.config import ServerConfig
from abaci.server.services import Services

_LOG = logging.getLogger("abaci.server")
_BACKLOG = 2048
_SEND_BUFFER_BYTES = 128 << 10
_OWN_ADDRESS = "Give --host an address of this machine: 127.0.0.1 for itself only, 0.0.0.0 for others too."


def listen(config: ServerConfig, make_services: Callable[[], Any], on_ready: Callable[[Services, str], None]) -> None:
    """Serve until a signal ends it.

    `make_services` is awaited on the event loop; `on_ready` is told when requests are taken, with the server's URL.
    Raises ResourceError where the address cannot be had, and what `make_services` raises.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_listen(config, make_services, on_ready))


async def _listen(
    config: ServerConfig, make_services: Callable[[], Any], on_ready: Callable[[Services, str], None]
) -> None:
    listener = _bind(config.host, config.port)
    try:
        services: Services = await make_services()
    except BaseException:
        listener.close()
        raise
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, services.reload)
    server = _Server(
        uvicorn.Config(
            create_app(services),
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=max(1, round(config.drain_seconds)),
            h11_max_incomplete_event_size=64 << 10,
            ssl_certfile=config.tls_certificate,
            ssl_keyfile=config.tls_key,
            backlog=_BACKLOG,
        ),
        services,
        lambda: on_ready(services, _url(config, listener)),
    )
    await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    """Says when it listens, and tells the services when it is to end."""

    def __init__(self, config: uvicorn.Config, services: Services, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._services = services
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            # What is here by now stays: a full collection would stop all streams to look at every module and route.
            gc.collect()
            gc.freeze()
            self._on_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """A signal that was asked for and obeyed is no failure: uvicorn would raise it again once it has drained."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._drain, number)
        yield

    def _drain(self, number: int) -> None:
        """Take nothing new and let running requests end; a second Ctrl-C does not wait for them."""
        self._services.is_draining = True
        self.handle_exit(number, None)


def _bind(host: str, port: int) -> socket.socket:
    """Before models are loaded: a taken port should not take a minute to find out."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ResourceError(f"cannot listen on {host}: {error.strerror or error}", hint=_OWN_ADDRESS) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it: a client that does not read holds no more of the kernel's memory than this.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        listener.bind(address)
    except OSError as error:
        listener.close()
        message = f"cannot listen on {host} port {port}: {error.strerror or error}"
        hint = _OWN_ADDRESS if error.errno == errno.EADDRNOTAVAIL else "Choose another with --port."
        raise ResourceError(message, hint=hint) from error
    return listener


def _url(config: ServerConfig, listener: socket.socket) -> str:
    scheme = "http" if config.tls_certificate is None else "https"
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"{scheme}://{host}:{listener.getsockname()[1]}"
