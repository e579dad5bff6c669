"""Several sources for one file: shared, replaced when they fail or fall behind, found out when they lie."""

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hub_server import HubServer, running_hub
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_sources import Recorder

from abaci.errors import IntegrityError, ResourceError
from abaci.hub import ranged
from abaci.hub.download import fetch
from abaci.hub.http_source import UrlSource
from abaci.hub.network import Network
from abaci.hub.pace import Patience
from abaci.hub.partial import PartialFile
from abaci.hub.ranged import Parallelism, fetch_ranges
from abaci.hub.reach import SourceUnavailableError
from abaci.hub.sources import Transfer
from abaci.hub.store import Store
from abaci.hub.wanted import Digest, WantedFile, WantedModel

CONTENT = bytes((index * 7 + index // 251) % 256 for index in range(1_000_003))
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = Parallelism(
    chunk_bytes=50_000, slow_seconds=0.1, slow_factor=1.5, patience=Patience(4, first_wait_seconds=0.01)
)


@pytest.fixture
def servers() -> Iterator[list[HubServer]]:
    """Three that have the file."""
    with ExitStack() as stack:
        running = [stack.enter_context(running_hub()) for _ in range(3)]
        for server in running:
            server.repositories = {"maker/model": {"tiny.gguf": CONTENT}}
        yield running


def source(server: HubServer) -> UrlSource:
    return UrlSource(f"{server.content_url}/{SHA256}")


def get(
    path: Path, servers: list[HubServer], parallelism: Parallelism = QUICK, notices: list[str] | None = None
) -> tuple[bytes, list[str]]:
    """What is in the file afterwards, and the hosts that delivered."""
    with PartialFile(path) as partial:
        said = [] if notices is None else notices
        transfer = Transfer("tiny.gguf", len(CONTENT), partial, lambda num_bytes: None, Network(), said.append)
        delivered = fetch_ranges([source(server) for server in servers], transfer, parallelism)
        assert partial.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    return path.read_bytes(), [one.url for one in delivered if isinstance(one, UrlSource)]


def test_all_sources_share_the_file(servers: list[HubServer], tmp_path: Path) -> None:
    for server in servers:
        server.faults.seconds_per_piece = 0.002
    content, delivered = get(tmp_path / "file", servers)
    assert content == CONTENT
    assert len(delivered) == 3
    asked = [one.headers["range"] for server in servers for one in server.asked]
    assert len(asked) <= 21 + 4


def test_a_failing_source_is_replaced(servers: list[HubServer], tmp_path: Path) -> None:
    servers[0].faults.statuses = [(500, {})] * 100
    servers[1].faults.cut_after = [10_000] * 3 + [0] * 100
    notices: list[str] = []
    assert get(tmp_path / "file", servers, notices=notices)[0] == CONTENT


def test_a_source_that_falls_silent_is_overtaken(servers: list[HubServer], tmp_path: Path) -> None:
    servers[0].faults.silent = threading.Event()
    started = time.monotonic()
    assert get(tmp_path / "file", servers[:2])[0] == CONTENT
    assert time.monotonic() - started < 3.5


def test_a_slow_source_is_overtaken_and_dropped(servers: list[HubServer], tmp_path: Path) -> None:
    servers[0].faults.seconds_per_piece = 0.2
    servers[0].piece_bytes = 1000
    notices: list[str] = []
    started = time.monotonic()
    assert get(tmp_path / "file", servers, notices=notices)[0] == CONTENT
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("first_seconds", [0.0, 0.3])
def test_a_source_that_never_answers_gives_way(
    servers: list[HubServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_seconds: float
) -> None:
    """Also one that hangs up first and is silent on the second try: both together have their time."""
    monkeypatch.setattr(ranged, "REACH_SECONDS", 0.5)
    monkeypatch.setattr(ranged, "GIVE_WAY_SECONDS", 0.7)
    monkeypatch.setattr(ranged, "_LEAST_REACH_SECONDS", 0.1)
    num_asked = 0

    def stay_silent(handler: object) -> bool:
        nonlocal num_asked
        num_asked += 1
        if first_seconds and num_asked == 1:
            time.sleep(first_seconds)
            handler.connection.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
        else:
            time.sleep(2)
        return True

    servers[0].routes = stay_silent
    silent = UrlSource(f"{servers[0].hub_url}/file")
    with PartialFile(tmp_path / "partial") as partial:
        transfer = Transfer("tiny.gguf", len(CONTENT), partial, lambda num_bytes: None, Network(), lambda text: None)
        started = time.monotonic()
        with pytest.raises(SourceUnavailableError, match="does not answer"):
            fetch_ranges([silent], transfer, QUICK)
        assert time.monotonic() - started < 1.2
    assert num_asked == (2 if first_seconds else 1)


def test_a_missing_file_leaves_the_others(servers: list[HubServer], tmp_path: Path) -> None:
    servers[0].repositories.clear()
    notices: list[str] = []
    content, delivered = get(tmp_path / "file", servers[:2], notices=notices)
    assert content == CONTENT
    assert len(delivered) == 1
    assert "answered 404" in notices[0]


def test_all_reasons_are_told(servers: list[HubServer], tmp_path: Path) -> None:
    servers[0].repositories.clear()
    servers[1].faults.wrong_size = 5
    with pytest.raises(SourceUnavailableError) as caught:
        get(tmp_path / "file", servers[:2])
    assert "404" in str(caught.value)
    assert "has 5 bytes, not 1,000,003" in str(caught.value)


def test_what_came_before_the_last_failure_is_kept(servers: list[HubServer], tmp_path: Path) -> None:
    servers[0].faults.cut_after = [30_000] + [0] * 100
    with pytest.raises(SourceUnavailableError):
        get(tmp_path / "file", servers[:1])
    kept = (tmp_path / "file").read_bytes()
    assert 0 < len(kept) < len(CONTENT)
    assert kept == CONTENT[: len(kept)]
    servers[0].faults.cut_after = []
    assert get(tmp_path / "file", servers[:1])[0] == CONTENT


@settings(max_examples=12, deadline=None)
@given(
    already=st.integers(0, len(CONTENT)),
    chunk_bytes=st.integers(20_000, 400_000),
    connections=st.integers(1, 6),
    cuts=st.lists(st.integers(0, 60_000), max_size=6),
)
def test_every_byte_is_at_its_place(
    already: int, chunk_bytes: int, connections: int, cuts: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("ranged") / "file"
    path.write_bytes(CONTENT[:already])
    parallelism = Parallelism(connections, chunk_bytes, patience=Patience(9, first_wait_seconds=0.001))
    with running_hub() as one, running_hub() as other:
        for server in (one, other):
            server.repositories = {"maker/model": {"tiny.gguf": CONTENT}}
        one.faults.cut_after = cuts
        assert get(path, [one, other], parallelism)[0] == CONTENT


def test_a_source_that_lies_is_found_out(servers: list[HubServer], tmp_path: Path) -> None:
    servers[0].faults.wrong_byte_at = 17
    for server in servers:
        server.faults.seconds_per_piece = 0.001
    recorder = Recorder()
    file = WantedFile("tiny.gguf", len(CONTENT), Digest.sha256(SHA256), (source(servers[0]), source(servers[1])))
    store = Store(tmp_path / "home")
    model = fetch(WantedModel("tiny:1b", (file,)), store, recorder, Network())
    assert model.path.read_bytes() == CONTENT
    servers[1].faults.wrong_byte_at = 99
    store.remove(model)
    with pytest.raises(IntegrityError):
        fetch(WantedModel("tiny:1b", (file,)), store, recorder, Network())
    assert not list((store.home / "files").iterdir())
    assert not list((store.home / "partial").iterdir())


def test_a_file_that_changes_on_the_way_is_not_mixed(servers: list[HubServer], tmp_path: Path) -> None:
    versions = iter(f'"{number}"' for number in range(1000))
    servers[0].etag = lambda: next(versions)
    with pytest.raises(SourceUnavailableError, match="was changed while it was fetched"):
        get(tmp_path / "file", servers[:1])


def test_a_stream_that_breaks_off_is_continued(servers: list[HubServer], tmp_path: Path) -> None:
    servers[0].faults.ignores_ranges = True
    servers[0].faults.cut_after = [0, 300_000, 600_000, 100]
    assert get(tmp_path / "file", servers[:1])[0] == CONTENT
    servers[0].faults.cut_after = [0, 300_000] + [0] * 100
    with pytest.raises(SourceUnavailableError, match="ended early"):
        get(tmp_path / "other", servers[:1])
    kept = (tmp_path / "other").read_bytes()
    assert kept == CONTENT[: len(kept)] != b""


def test_a_disk_that_fills_stops_everything(servers: list[HubServer], tmp_path: Path) -> None:
    class Full(PartialFile):
        def write(self, chunk: bytes) -> int:
            if self.num_bytes > 300_000:
                raise ResourceError("the disk is full")
            return super().write(chunk)

    with Full(tmp_path / "file") as partial:
        transfer = Transfer("tiny.gguf", len(CONTENT), partial, lambda num_bytes: None, Network())
        with pytest.raises(ResourceError):
            fetch_ranges([source(server) for server in servers], transfer, QUICK)


def test_an_interrupt_leaves_a_beginning(servers: list[HubServer], tmp_path: Path) -> None:
    servers[0].faults.seconds_per_piece = 0.005

    def show(num_bytes: int) -> None:
        if num_bytes > 200_000:
            raise KeyboardInterrupt

    with PartialFile(tmp_path / "file") as partial:
        transfer = Transfer("tiny.gguf", len(CONTENT), partial, show, Network())
        with pytest.raises(KeyboardInterrupt):
            fetch_ranges([source(servers[0])], transfer, QUICK)
    kept = (tmp_path / "file").read_bytes()
    assert kept == CONTENT[: len(kept)]
