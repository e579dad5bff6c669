"""The one door to the network. Every byte that comes from another machine into a model store passes here.

It asks whether the network may be used at all, connects to the address it has checked, follows redirects itself, hop by
hop, and sends a token only to the origin it belongs to. It knows no hub and writes no file. A test walks the sources of
the program to see that nothing else opens a connection.
"""

import contextlib
import http.client
import os
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from abaci.errors import OfflineError
from abaci.hub.addresses import is_loopback, is_private_host, look_up
from abaci.hub.connections import CONNECT_SECONDS, DirectConnection, DirectTlsConnection, TlsContext, dial, shut
from abaci.hub.pace import RateLimit, read_rate, retry_after_seconds
from abaci.hub.reach import REACH_SECONDS, SilentError, SourceUnavailableError, within
from abaci.version import __version__

OFFLINE_VARIABLES: Final = ("ABACI_OFFLINE", "HF_HUB_OFFLINE")
RATE_VARIABLE: Final = "ABACI_LIMIT_RATE"
STALL_SECONDS: Final = 30.0
_MAX_REDIRECTS: Final = 10
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_PORTS: Final = {"http": 80, "https": 443}


class HttpStatusError(SourceUnavailableError):
    """A server's refusal; the text says it in a line."""

    def __init__(self, reason: str, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = headers

    @property
    def retry_after_seconds(self) -> float | None:
        """For how long the server wants to be left alone."""
        return retry_after_seconds(self.headers.get("retry-after"))

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in (408, 425, 429) or self.status >= 500


@dataclass(frozen=True, slots=True)
class Credential:
    """Headers that go to one origin and no other. Not shown when printed."""

    url: str
    """Any URL of that origin: scheme, host and port count."""
    headers: Mapping[str, str] = field(repr=False)

    def headers_for(self, url: SplitResult) -> Mapping[str, str]:
        """What to send to `url`."""
        return self.headers if origin_of(url) == origin_of(urlsplit(self.url)) else {}


@dataclass(frozen=True, slots=True)
class Request:
    """What to get, and under which conditions."""

    url: str
    credentials: tuple[Credential, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    """Without secrets: they go along with every redirect."""
    begin: int | None = None
    """First byte wanted; None: the whole."""
    end: int | None = None
    """One past the last byte wanted; None: to the end."""
    private_allowed: bool = True
    """Whether the host may be inside this network: where the user, and no server, named it."""
    sign: Callable[[SplitResult], Mapping[str, str]] | None = None
    """Further headers for the first host."""
    explain: Callable[["HttpStatusError"], str | None] | None = None
    """Better words for a refusal than the server's own."""
    stall_seconds: float = STALL_SECONDS
    """A connection from which nothing comes for so long is given up, and a host that has not sent the whole head of its
    answer so long after the look-up of its name began."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's answer, its body unread."""

    url: str
    """Where it came from in the end."""
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    hops: tuple[Mapping[str, str], ...]
    """Headers of the redirects that led here, first to last."""
    read: Callable[[int], bytes]
    """At most so many bytes; empty at the end. Raises SourceUnavailableError."""

    def header(self, name: str) -> str | None:
        """The first that any hop sent."""
        return next((headers[name] for headers in (*self.hops, self.headers) if name in headers), None)

    def read_all(self, most_bytes: int) -> bytes:
        """The whole body. Raises SourceUnavailableError where it is longer than `most_bytes`."""
        body = bytearray()
        while piece := self.read(1 << 16):
            body += piece
            if len(body) > most_bytes:
                raise SourceUnavailableError(f"{host_of(self.url)} answered with more than {most_bytes:,} bytes")
        return bytes(body)


class Network:
    """Opens URLs. Safe from many threads; one rate limit holds for all that is read through it."""

    def __init__(
        self,
        *,
        offline_because: str | None = None,
        rate: RateLimit | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> None:
        self._offline_because = offline_because
        self.rate = rate or RateLimit(None)
        self._proxies = dict(proxies or {})
        self._tls = TlsContext()

    @classmethod
    def from_environment(cls, limit_rate: str | None = None) -> "Network":
        """As the environment has it: offline, proxies, rate. Raises UsageError for a rate that is none."""
        rate_text = limit_rate or os.environ.get(RATE_VARIABLE)
        return cls(
            offline_because=_offline_because(),
            rate=RateLimit(read_rate(rate_text) if rate_text else None),
            proxies=urllib.request.getproxies(),
        )

    @property
    def is_offline(self) -> bool:
        """Whether every access is forbidden."""
        return self._offline_because is not None

    def check(self, what: str) -> None:
        """Raise OfflineError where the network may not be used; `what` is who would have been asked."""
        if self._offline_because is not None:
            raise OfflineError(
                f"{what} is not asked: {self._offline_because} is set",
                hint=f"Where the network may be used, leave out --offline and {self._offline_because}.",
            )

    def knock(self, host: str, port: int) -> None:
        """See whether a host listens, for programs that take long to find out. Raises what `open` raises."""
        self.check(host)
        try:
            within(REACH_SECONDS, lambda: dial(look_up(host, port, private_allowed=True), CONNECT_SECONDS).close())
        except OSError as error:
            raise SourceUnavailableError(f"{host} cannot be reached: {error}") from error

    @contextlib.contextmanager
    def open(self, request: Request) -> Iterator[Answer]:
        """GET a URL, following redirects: never from https to http, nor from outside into this network.

        Raises OfflineError, HttpStatusError for an answer other than 200 and 206, SourceUnavailableError otherwise.
        """
        url = _checked_url(request.url)
        self.check(url.hostname or request.url)
        private_allowed = request.private_allowed
        hops: list[Mapping[str, str]] = []
        while True:
            with self._exchange(url, request, private_allowed, is_first=not hops) as (response, is_private):
                headers = {name.lower(): value for name, value in response.getheaders()}
                if response.status not in _REDIRECTS or "location" not in headers:
                    _check_answer(url, request, response, headers)
                    yield Answer(url.geturl(), response.status, headers, tuple(hops), self._reader(url, response))
                    return
            hops.append(headers)
            if len(hops) > _MAX_REDIRECTS:
                raise SourceUnavailableError(f"{url.hostname} redirects without end")
            private_allowed = private_allowed and is_private
            url = _next_url(url, headers["location"])

    @contextlib.contextmanager
    def _exchange(
        self, url: SplitResult, request: Request, private_allowed: bool, is_first: bool
    ) -> Iterator[tuple[http.client.HTTPResponse, bool]]:
        deadline_seconds = time.monotonic() + request.stall_seconds
        connection, target, is_private = self._connection(url, private_allowed, request.stall_seconds)
        headers = _headers(url, request, is_first) | self._proxy_headers(url)

        def ask() -> http.client.HTTPResponse:
            connection.request("GET", target, headers=headers)
            return connection.getresponse()

        with contextlib.closing(connection):
            with _told(url):
                try:
                    response = within(max(0.0, deadline_seconds - time.monotonic()), ask)
                except SilentError:
                    shut(connection)
                    raise TimeoutError from None
            with contextlib.closing(response):  # it has taken the socket over from the connection
                yield response, is_private

    def _connection(
        self, url: SplitResult, private_allowed: bool, stall_seconds: float
    ) -> tuple[http.client.HTTPConnection, str, bool]:
        """A connection, what to ask for over it, and whether it leads into this network."""
        host, port = url.hostname or "", url.port or _PORTS[url.scheme]
        target = url._replace(scheme="", netloc="", fragment="").geturl() or "/"
        proxy = self._proxy(url)
        if proxy is None:
            addresses = look_up(host, port, private_allowed=private_allowed)
            connection: http.client.HTTPConnection = (
                DirectTlsConnection(addresses, host, port, stall_seconds, self._tls.get())
                if url.scheme == "https"
                else DirectConnection(addresses, host, port, stall_seconds)
            )
            return connection, target, addresses[0].is_private
        if not private_allowed and is_private_host(host):
            raise SourceUnavailableError(
                f"{host} is an address inside this network, where a foreign server may not lead"
            )
        proxy_host, proxy_port = proxy.hostname or "", proxy.port or _PORTS.get(proxy.scheme, 80)
        if url.scheme == "http":
            plain = http.client.HTTPConnection(proxy_host, proxy_port, timeout=stall_seconds)
            return plain, url._replace(fragment="").geturl(), is_private_host(host)
        tunnel = http.client.HTTPSConnection(proxy_host, proxy_port, timeout=stall_seconds, context=self._tls.get())
        tunnel.set_tunnel(host, port, headers=_basic_authorization(proxy))
        return tunnel, target, is_private_host(host)

    def _proxy(self, url: SplitResult) -> SplitResult | None:
        address = self._proxies.get(url.scheme) or self._proxies.get("all")
        if not address or urllib.request.proxy_bypass(url.netloc.rpartition("@")[2]):
            return None
        proxy = urlsplit(address if "://" in address else f"http://{address}")
        if proxy.scheme != "http" or not proxy.hostname:
            raise SourceUnavailableError(f"the proxy {proxy.scheme}://{proxy.hostname} is not one of http://")
        return proxy

    def _proxy_headers(self, url: SplitResult) -> dict[str, str]:
        proxy = self._proxy(url)
        return {} if proxy is None or url.scheme == "https" else _basic_authorization(proxy)

    def _reader(self, url: SplitResult, response: http.client.HTTPResponse) -> Callable[[int], bytes]:
        def read(most_bytes: int) -> bytes:
            with _told(url):
                piece = response.read1(self.rate.piece_bytes(most_bytes))
            self.rate.take(len(piece))
            return piece

        return read


def origin_of(url: SplitResult) -> tuple[str, str, int | None]:
    """Scheme, host and port: what a token belongs to."""
    return url.scheme, (url.hostname or "").lower(), url.port or _PORTS.get(url.scheme)


def one_line(text: str) -> str:
    """What a server says, fit for a terminal: no control characters, one line, not long."""
    return "".join(character if character.isprintable() else " " for character in " ".join(text.split()))[:300]


def host_of(url: str) -> str:
    """The host of a URL, for messages."""
    return urlsplit(url).hostname or url


def check_reach(url: str) -> None:
    """Raise OfflineError where the environment forbids the network and `url` leads beyond this machine.

    For what must open its connection itself: the client of a server of ours, the exporter of traces.
    """
    host = host_of(url)
    if not is_loopback(host):
        Network(offline_because=_offline_because()).check(host)


def _offline_because() -> str | None:
    return next((name for name in OFFLINE_VARIABLES if os.environ.get(name, "").strip().lower() in _TRUE), None)


def _checked_url(text: str) -> SplitResult:
    """The URL, if it is one of HTTP without anything that two readers could read differently."""
    try:
        url = urlsplit(text)
        sound = url.scheme in _PORTS and bool(url.hostname) and url.port != 0 and url.username is None
    except ValueError:
        sound = False
    if not sound or not text.isascii() or any(character <= " " or character in "\\\x7f" for character in text):
        raise SourceUnavailableError(f"{text[:200]!r} is not a URL of http or https")
    return url


def _next_url(url: SplitResult, location: str) -> SplitResult:
    following = _checked_url(urljoin(url.geturl(), location))
    if url.scheme == "https" and following.scheme != "https":
        raise SourceUnavailableError(f"{url.hostname} redirects to a connection without encryption")
    return following


def _headers(url: SplitResult, request: Request, is_first: bool) -> dict[str, str]:
    headers = {"User-Agent": f"abaci/{__version__}", "Accept-Encoding": "identity", "Connection": "close"}
    headers |= request.headers
    if request.begin is not None:
        headers["Range"] = f"bytes={request.begin}-{'' if request.end is None else request.end - 1}"
    for credential in request.credentials:
        headers |= credential.headers_for(url)
    if is_first and request.sign is not None:
        headers |= request.sign(url)
    return headers


def _basic_authorization(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    secret = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(secret.encode()).decode()}"}


def _check_answer(
    url: SplitResult, request: Request, response: http.client.HTTPResponse, headers: Mapping[str, str]
) -> None:
    if response.status not in (200, 206):
        told = one_line(headers.get("x-error-message") or response.reason or "no reason given")
        refusal = HttpStatusError(f"{url.hostname} answered {response.status}: {told}", response.status, headers)
        better = None if request.explain is None else request.explain(refusal)
        raise refusal if better is None else HttpStatusError(better, response.status, headers)
    if headers.get("content-encoding", "identity") != "identity":
        raise SourceUnavailableError(f"{url.hostname} answered in another encoding than asked for")


@contextlib.contextmanager
def _told(url: SplitResult) -> Iterator[None]:
    """Every way in which a connection can fail, in one line."""
    try:
        yield
    except SourceUnavailableError:
        raise
    except TimeoutError as error:
        raise SourceUnavailableError(f"{url.hostname} does not answer") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SourceUnavailableError(f"{url.hostname}: {one_line(str(reason))}") from error
