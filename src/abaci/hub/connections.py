"""Connections to addresses that have been checked, plain and with TLS, for the door to the network and nobody else."""

import contextlib
import errno
import http.client
import os
import selectors
import socket
import ssl
import threading
import time
from typing import Final

from abaci.hub.addresses import CheckedAddress

CONNECT_SECONDS: Final = 4.0
_HEAD_START_SECONDS: Final = 0.25


class DirectConnection(http.client.HTTPConnection):
    """Connects to an address that was checked, whatever the name leads to by now."""

    def __init__(self, addresses: tuple[CheckedAddress, ...], host: str, port: int, stall_seconds: float) -> None:
        super().__init__(host, port, timeout=stall_seconds)
        self._addresses = addresses
        self._stall_seconds = stall_seconds

    def connect(self) -> None:
        """Called by the base class."""
        self.sock = dial(self._addresses, self._stall_seconds)


class DirectTlsConnection(DirectConnection):
    """The same with TLS, for the name."""

    default_port = 443

    def __init__(
        self,
        addresses: tuple[CheckedAddress, ...],
        host: str,
        port: int,
        stall_seconds: float,
        context: ssl.SSLContext,
    ) -> None:
        super().__init__(addresses, host, port, stall_seconds)
        self._context = context

    def connect(self) -> None:
        """Called by the base class."""
        super().connect()
        self.sock.settimeout(CONNECT_SECONDS)
        self.sock = self._context.wrap_socket(self.sock, server_hostname=self.host)
        self.sock.settimeout(self._stall_seconds)


def shut(connection: http.client.HTTPConnection) -> None:
    """End a connection that another thread waits on: what it waits for fails at once."""
    if connection.sock is not None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)  # TLS's own would first say goodbye


class TlsContext:
    """The system's certificates, read when first needed. `SSL_CERT_FILE` and `SSL_CERT_DIR` name others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None

    def get(self) -> ssl.SSLContext:
        """The context, for all connections."""
        with self._lock:
            if self._context is None:
                self._context = ssl.create_default_context()
            return self._context


def dial(addresses: tuple[CheckedAddress, ...], stall_seconds: float) -> socket.socket:
    """The first address that answers; each gets a head start over the next (RFC 8305). Raises OSError."""
    waiting, failure = list(addresses), OSError("no address")
    deadline_seconds = time.monotonic() + CONNECT_SECONDS
    with selectors.DefaultSelector() as begun:
        try:
            while waiting or begun.get_map():
                if waiting:
                    failure = _begin(waiting.pop(0), begun) or failure
                left = deadline_seconds - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                for key, _ in begun.select(min(_HEAD_START_SECONDS, left) if waiting else left):
                    connection = begun.unregister(key.fileobj).fileobj
                    assert isinstance(connection, socket.socket)
                    code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if code == 0:
                        connection.settimeout(stall_seconds)
                        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        return connection
                    connection.close()
                    failure = OSError(code, os.strerror(code))
            raise failure
        finally:
            for key in list(begun.get_map().values()):
                if isinstance(key.fileobj, socket.socket):
                    key.fileobj.close()


def _begin(address: CheckedAddress, begun: selectors.BaseSelector) -> OSError | None:
    """Start to connect to an address; what speaks against it at once."""
    connection = socket.socket(address.family, socket.SOCK_STREAM)
    connection.setblocking(False)
    code = connection.connect_ex((address.host, address.port))
    if code in (0, errno.EINPROGRESS):
        begun.register(connection, selectors.EVENT_WRITE)
        return None
    connection.close()
    return OSError(code, os.strerror(code))
