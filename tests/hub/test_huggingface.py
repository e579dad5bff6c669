"""The hub through its own library, against a server on this machine that speaks as much of it as a download needs."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

CONTENT = bytes(range(256)) * 400
ETAG = "e" * 64
COMMIT = "c" * 40


@dataclass
class FakeHub:
    """What the server has and what it was asked."""

    url: str = ""
    size: int = len(CONTENT)
    silent: threading.Event | None = None
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Method and headers of each request for a file, not of what else the library may ask."""


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self.wfile.write(self._answer())

    def _answer(self) -> bytes:
        if "/resolve/" in self.path:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.hub.requests.append((self.command, headers))
        if self.hub.silent is not None:
            self.hub.silent.wait(20)
        found = self.path == "/maker/model/resolve/main/tiny.gguf"
        content = CONTENT if found else b""
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(404 if not found else 206 if begin else 200)
        self.send_header("ETag", f'"{ETAG}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-Size", str(self.hub.size))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        return content[begin:]

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield hub
        if hub.silent is not None:
            hub.silent.set()
        server.shutdown()
        thread.join()


def fetch(hub: FakeHub, tmp_path: Path, already: bytes = b"", **environment: str) -> tuple[bytes, str]:
    """What is in the partial file afterwards, and the reason for giving way if there is one."""
    partial = tmp_path / "partial"
    partial.write_bytes(already)
    plain = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    result = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("fetch_from_hub.py")), str(partial), str(len(CONTENT))],
        env={**plain, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.stdout == ""
    assert (result.returncode == 0) == (result.stderr == ""), result.stderr
    return partial.read_bytes(), result.stderr.strip()


def test_a_file_arrives_with_the_users_token(fake_hub: FakeHub, tmp_path: Path) -> None:
    assert fetch(fake_hub, tmp_path, HF_TOKEN="hf_secret") == (CONTENT, "")
    assert [command for command, _ in fake_hub.requests] == ["HEAD", "GET"]
    assert fake_hub.requests[1][1]["authorization"] == "Bearer hf_secret"


def test_a_download_resumes_at_the_byte(fake_hub: FakeHub, tmp_path: Path) -> None:
    assert fetch(fake_hub, tmp_path, already=CONTENT[:1234]) == (CONTENT, "")
    assert fake_hub.requests[-1][1]["range"] == "bytes=1234-"


def test_offline_asks_nobody(fake_hub: FakeHub, tmp_path: Path) -> None:
    content, reason = fetch(fake_hub, tmp_path, HF_HUB_OFFLINE="1")
    assert (content, fake_hub.requests) == (b"", [])
    assert "HF_HUB_OFFLINE" in reason


def test_the_librarys_cache_is_used(fake_hub: FakeHub, tmp_path: Path) -> None:
    repository = tmp_path / "hf" / "hub" / "models--maker--model"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (snapshot / "tiny.gguf").write_bytes(CONTENT)
    assert fetch(fake_hub, tmp_path, HF_HUB_OFFLINE="1") == (CONTENT, "")
    assert fake_hub.requests == []


def test_a_silent_hub_gives_way_within_five_seconds(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.silent = threading.Event()
    started = time.monotonic()
    content, reason = fetch(fake_hub, tmp_path)
    assert time.monotonic() - started < 5.9  # starting Python and importing the library included
    assert content == b""
    assert len(reason.splitlines()) == 1


def test_a_dead_hub_gives_way(fake_hub: FakeHub, tmp_path: Path) -> None:
    content, reason = fetch(fake_hub, tmp_path, HF_ENDPOINT="http://127.0.0.1:1")
    assert (content, len(reason.splitlines())) == (b"", 1)


def test_a_file_of_another_size_is_not_fetched(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.size = 17
    assert fetch(fake_hub, tmp_path) == (b"", f"its file has 17 bytes, not {len(CONTENT):,}")
    assert [command for command, _ in fake_hub.requests] == ["HEAD"]
