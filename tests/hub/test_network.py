"""The door to the network: what may pass, what goes along, and that there is no other."""

import ast
import contextlib
import email.utils
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hub_server import HubServer, running_hub
from hypothesis import given
from hypothesis import strategies as st

import abaci
from abaci.errors import OfflineError, UsageError
from abaci.hub import network
from abaci.hub.addresses import CheckedAddress, is_private_number, look_up
from abaci.hub.network import Credential, Network, Request, check_reach
from abaci.hub.pace import Patience, RateLimit, read_rate, retry_after_seconds
from abaci.hub.reach import SourceUnavailableError

SOURCES = Path(abaci.__file__).parent
OPENING = {"aiohttp", "ftplib", "http.client", "httpx", "huggingface_hub", "requests", "smtplib", "socket", "ssl"}
OPENING |= {"urllib.request", "urllib3", "websockets", "xmlrpc.client"}
DOORS = {
    "hub/network.py": "the door itself",
    "hub/connections.py": "connects for the door",
    "hub/addresses.py": "looks names up for the door",
    "server/listening.py": "listens",
    "cli/server_client.py": "asks a server of ours, and calls check_reach first",
    "bench/http/client.py": "asks servers that the benchmark has started on this machine",
    "bench/http/servers.py": "asks servers that it has started on this machine",
}
STARTING = {"subprocess", "os.popen", "os.system", "pty"}
STARTERS = {
    "hub/python_index.py": "starts pip, after asking the door",
    "bench/process.py": "measures this program",
    "bench/http/engine_alone.py": "measures this program",
    "bench/http/servers.py": "starts servers on this machine",
}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def opening(names: set[str]) -> set[str]:
    return {name for name in names if any(name == one or name.startswith(f"{one}.") for one in OPENING)}


@pytest.mark.parametrize("path", sorted(SOURCES.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCES)))
def test_there_is_one_door(path: Path) -> None:
    name = str(path.relative_to(SOURCES))
    modules = imported(path)
    assert name in DOORS or not opening(modules), f"{name} can open connections: {opening(modules)}"
    assert name in STARTERS or not modules & STARTING, f"{name} can start programs"
    text = path.read_text(encoding="utf-8")
    for call in ("open_connection(", "create_connection(", "sock_connect(", "urlopen("):
        assert call not in text or name in DOORS, f"{name} calls {call}"


def test_only_the_door_has_connections() -> None:
    users = {path.name for path in SOURCES.rglob("*.py") if "abaci.hub.connections" in imported(path)}
    assert users == {"network.py"}


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with running_hub() as server:
        server.repositories = {"maker/model": {"small.json": b"{}", "large.gguf": bytes(5000)}}
        yield server


def read(request: Request, door: Network | None = None) -> bytes:
    with (door or Network()).open(request) as answer:
        return answer.read_all(1 << 20)


def test_offline_forbids_all(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("looked up"))
    for name in ("ABACI_OFFLINE", "HF_HUB_OFFLINE"):
        with monkeypatch.context() as own:
            own.setenv(name, "1")
            door = Network.from_environment()
            assert door.is_offline
            with pytest.raises(OfflineError, match=f"{name} is set"):
                read(Request(f"{hub.hub_url}/maker/model/resolve/main/small.json"), door)
            with pytest.raises(OfflineError):
                door.knock("127.0.0.1", 9)
            with pytest.raises(OfflineError):
                check_reach("https://example.org/v1")
            check_reach("http://127.0.0.1:8000")
            check_reach("http://localhost:8000")
    assert hub.asked == []
    monkeypatch.setenv("ABACI_OFFLINE", "0")
    assert not Network.from_environment().is_offline


def test_a_token_goes_to_its_origin_and_no_further(hub: HubServer) -> None:
    credential = Credential(f"{hub.hub_url}/anything", {"Authorization": "Bearer secret"})
    assert len(read(Request(f"{hub.hub_url}/maker/model/resolve/main/large.gguf", (credential,)))) == 5000
    assert [one.headers.get("authorization") for one in hub.asked] == ["Bearer secret", None]
    assert "secret" not in repr(credential)


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://hub.example/x", True),
        ("https://HUB.example:443/x", True),
        ("http://hub.example/x", False),
        ("https://hub.example:444/x", False),
        ("https://hub.example.evil.example/x", False),
        ("https://cdn.hub.example/x", False),
    ],
)
def test_what_an_origin_is(url: str, sent: bool) -> None:
    credential = Credential("https://hub.example", {"Authorization": "Bearer secret"})
    assert bool(credential.headers_for(urlsplit(url))) == sent


@pytest.mark.parametrize(
    "number",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fd00::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "fe80::1%eth0",
    ],
)
def test_private_numbers(number: str) -> None:
    assert is_private_number(number)


@pytest.mark.parametrize("number", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_numbers(number: str) -> None:
    assert not is_private_number(number)


def test_a_foreign_server_may_not_lead_inside(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that counts as public redirects to this machine; the number is what is judged, whatever the name."""
    port = urlsplit(hub.hub_url).port or 0

    def look(host: str, port: int, *, private_allowed: bool) -> tuple[CheckedAddress, ...]:
        if host == "public.example":
            return (CheckedAddress(socket.AF_INET, "127.0.0.1", port, is_private=False),)
        return look_up(host, port, private_allowed=private_allowed)

    monkeypatch.setattr(network, "look_up", look)
    assert read(Request(f"http://public.example:{port}/maker/model/resolve/main/small.json")) == b"{}"
    with pytest.raises(SourceUnavailableError, match="inside this network"):
        read(Request(f"http://public.example:{port}/maker/model/resolve/main/large.gguf"))
    assert hub.asked_of("content") == []
    with pytest.raises(SourceUnavailableError, match="inside this network"):
        read(Request(f"{hub.hub_url}/maker/model/resolve/main/small.json", private_allowed=False))


def test_a_name_is_looked_up_once_and_that_number_is_used(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = socket.getaddrinfo

    def rebinding(host: str, *rest: object, **more: object) -> object:
        asked.append(host)
        return real("127.0.0.1" if len(asked) == 1 else "192.0.2.1", *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    port = urlsplit(hub.hub_url).port
    assert read(Request(f"http://name.example:{port}/maker/model/resolve/main/small.json")) == b"{}"
    assert asked == ["name.example"]


def test_an_address_that_is_silent_holds_nobody_up(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first address takes no connections any more, the second one refuses, the third is the server."""
    port = urlsplit(hub.hub_url).port or 0
    with socket.socket() as silent, socket.socket() as filler, socket.socket() as closed:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        fillers = [filler, *(socket.socket() for _ in range(3))]
        for one in fillers:
            one.setblocking(False)
            one.connect_ex(silent.getsockname())
        closed.bind(("127.0.0.1", 0))
        ports = (silent.getsockname()[1], closed.getsockname()[1], port)
        addresses = tuple(CheckedAddress(socket.AF_INET, "127.0.0.1", one, is_private=True) for one in ports)
        monkeypatch.setattr(network, "look_up", lambda *_, **__: addresses)
        started = time.monotonic()
        assert read(Request(f"{hub.hub_url}/maker/model/resolve/main/small.json")) == b"{}"
        assert time.monotonic() - started < 2
        for one in fillers:
            one.close()


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n"])
def test_a_host_that_never_ends_the_head_of_its_answer_is_given_up(head: bytes) -> None:
    """Each line comes soon enough; what counts is the whole."""
    is_closed = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(head)
            for _ in range(100):
                connection.sendall(b"X-A: b\r\n" if head else b"H")
                time.sleep(0.05)
            return
        is_closed.set()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,))
        thread.start()
        started = time.monotonic()
        with pytest.raises(SourceUnavailableError, match=r"127\.0\.0\.1 does not answer"):
            read(Request(f"http://127.0.0.1:{server.getsockname()[1]}/", stall_seconds=0.3))
        assert time.monotonic() - started < 2
        thread.join(timeout=3)
        assert is_closed.is_set()  # and nobody goes on listening to it


def test_no_way_leads_from_https_to_http() -> None:
    with pytest.raises(SourceUnavailableError, match="without encryption"):
        network._next_url(urlsplit("https://hub.example/x"), "http://hub.example/y")
    assert network._next_url(urlsplit("https://hub.example/x"), "/y").geturl() == "https://hub.example/y"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "file:///etc/passwd",
        "ftp://host/x",
        "gopher://x",
        "http://",
        "http://h/a b",
        "http://host/\r\nX: 1",
        "http://host:0/",
        "http://host:99999/",
        "http://host\\@evil/",
        "http://hôte/",
        "http://user:word@host/",
    ],
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(SourceUnavailableError, match="not a URL"):
        read(Request(url))


def test_a_proxy_is_asked_in_its_place(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "near.example,127.0.0.1")
    proxy = hub.hub_url.replace("http://", "http://me:word@")
    door = Network(proxies={"http": proxy, "no": "near.example,127.0.0.1"})
    assert read(Request("http://far.example/maker/model/resolve/main/small.json"), door) == b"{}"
    assert hub.asked[-1].path == "http://far.example/maker/model/resolve/main/small.json"
    assert hub.asked[-1].headers["proxy-authorization"] == "Basic bWU6d29yZA=="
    assert read(Request(f"{hub.hub_url}/maker/model/resolve/main/small.json"), door) == b"{}"
    assert hub.asked[-1].path == "/maker/model/resolve/main/small.json"
    assert "proxy-authorization" not in hub.asked[-1].headers
    with pytest.raises(SourceUnavailableError, match="inside this network"):
        read(Request("http://10.0.0.1/x", private_allowed=False), door)


def test_certificates_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Path(__file__).parents[1] / "server" / "data"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(data / "localhost.pem", data / "localhost-key.pem")
    handler = type("Handler", (BaseHTTPRequestHandler,), {"do_GET": _hello, "log_message": lambda *_: None})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            url = f"https://localhost:{server.server_port}/"
            with pytest.raises(SourceUnavailableError, match=r"(?i)certificate"):
                read(Request(url))
            monkeypatch.setenv("SSL_CERT_FILE", str(data / "localhost.pem"))
            assert read(Request(url)) == b"hello"
            monkeypatch.setattr(
                network, "look_up", lambda *_, **__: look_up("127.0.0.1", server.server_port, private_allowed=True)
            )
            with pytest.raises(SourceUnavailableError, match=r"(?i)certificate"):
                read(Request(f"https://other.example:{server.server_port}/"))
        finally:
            server.shutdown()
            thread.join()


def _hello(self: BaseHTTPRequestHandler) -> None:
    self.send_response(200)
    self.send_header("Content-Length", "5")
    self.end_headers()
    self.wfile.write(b"hello")


def test_what_a_server_says_is_one_plain_line(hub: HubServer) -> None:
    hub.faults.hub_statuses = [(400, {"X-Error-Message": "no\x1b[2Jway \x9b31m" + "!" * 900})]
    with pytest.raises(SourceUnavailableError) as caught:
        read(Request(f"{hub.hub_url}/x"))
    assert str(caught.value).isprintable()
    assert "no [2Jway" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_redirects_end(hub: HubServer) -> None:
    hub.faults.hub_statuses = [(302, {"Location": "/again"})] * 50
    with pytest.raises(SourceUnavailableError, match="without end"):
        read(Request(f"{hub.hub_url}/x"))
    assert len(hub.asked) == 11


def test_long_answers_are_cut_off(hub: HubServer) -> None:
    with (
        Network().open(Request(f"{hub.hub_url}/maker/model/resolve/main/large.gguf")) as answer,
        pytest.raises(SourceUnavailableError, match="more than 100 bytes"),
    ):
        answer.read_all(100)


def test_a_limit_holds_for_all_connections(hub: HubServer) -> None:
    hub.repositories["maker/model"]["large.gguf"] = bytes(150_000)
    door = Network(rate=RateLimit(500_000))
    started = time.monotonic()
    assert len(read(Request(f"{hub.hub_url}/maker/model/resolve/main/large.gguf"), door)) == 150_000
    assert 0.2 < time.monotonic() - started < 2


def test_the_rate_of_many_is_the_limit() -> None:
    now, slept = [0.0], []
    limit = RateLimit(1000, lambda: now[0], slept.append)
    for _ in range(4):
        limit.take(500)
    assert slept == [0.5, 1.0, 1.5, 2.0]
    now[0] = 10.0
    limit.take(100)
    assert slept[-1] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("500", 500), ("500k", 500_000), ("2.5M", 2_500_000), ("1GiB/s", 1 << 30), ("3 ", 3), ("10kb", 10_000)],
)
def test_rates(text: str, rate: int) -> None:
    assert read_rate(text) == rate


@pytest.mark.parametrize("text", ["", "0", "-1", "fast", "1e9", "1T", "0.1", "nan", "9" * 40])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(UsageError):
        read_rate(text)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), (" 0 ", 0), (None, None), ("", None), ("soon", None), ("-1", None), ("9" * 30, None), ("1.5", None)],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header) == seconds


def test_retry_after_a_date() -> None:
    assert retry_after_seconds(email.utils.formatdate(1_000_030, usegmt=True), 1_000_000) == 30
    assert retry_after_seconds(email.utils.formatdate(999_000, usegmt=True), 1_000_000) == 0


@given(st.text())
def test_retry_after_takes_any_text(text: str) -> None:
    seconds = retry_after_seconds(text)
    assert seconds is None or seconds >= 0


@given(st.integers(1, 200), st.floats(0, 1), st.none() | st.floats(0, 100))
def test_waits_are_bounded_and_no_shorter_than_asked(failures: int, drawn: float, asked: float | None) -> None:
    wait = Patience(draw=lambda: drawn).wait_seconds(failures, asked)
    assert (asked or 0) <= wait <= (asked or 0) + 30
