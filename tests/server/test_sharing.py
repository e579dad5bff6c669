"""Files of the store for other servers: by hash, with a key, only when configured; and the peer that fetches them."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from scripted_server import MODEL, ScriptedServer, scripted_server

from abaci import hub
from abaci.errors import DownloadError
from abaci.hub.download import SilentListener, fetch
from abaci.hub.network import Network
from abaci.hub.sources import LocalSource
from abaci.hub.wanted import Digest, WantedFile, WantedModel
from abaci.server.keys import KeyLimits

CONTENT = bytes(range(256)) * 9_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
KEY = "the-key"
FILE = WantedFile("tiny.gguf", len(CONTENT), Digest.sha256(SHA256))


@pytest.fixture
def sharing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    monkeypatch.setenv("ABACI_HOME", str(tmp_path / "home"))
    (tmp_path / "tiny.gguf").write_bytes(CONTENT)
    local = WantedFile(FILE.path, FILE.num_bytes, FILE.digest, (LocalSource(tmp_path),))
    fetch(WantedModel("tiny:1b", (local,)), hub.Store(), SilentListener(), Network())
    with scripted_server(api_key=KEY, share_store=True) as running:
        yield running


def get(server: ScriptedServer, sha256: str, key: str = KEY, **headers: str) -> httpx.Response:
    return httpx.get(f"{server.url}/abaci/blobs/{sha256}", headers={"authorization": f"Bearer {key}", **headers})


def test_a_file_is_given_by_its_hash_whole_and_in_parts(sharing: ScriptedServer) -> None:
    assert get(sharing, SHA256).content == CONTENT
    part = get(sharing, SHA256, range="bytes=1000-1999")
    assert (part.status_code, part.content) == (206, CONTENT[1000:2000])
    assert part.headers["content-range"] == f"bytes 1000-1999/{len(CONTENT)}"


def test_it_needs_the_key(sharing: ScriptedServer) -> None:
    assert get(sharing, SHA256, key="another").status_code == 401
    limited = sharing.create_key("limited", KeyLimits(models=(MODEL,)))
    assert get(sharing, SHA256, key=limited).status_code == 403


@pytest.mark.parametrize("sha256", ["0" * 64, SHA256.upper(), "..", "%2e%2e%2fmodels", "tiny.gguf", SHA256[:-1]])
def test_nothing_else_is_given(sharing: ScriptedServer, sha256: str) -> None:
    assert get(sharing, sha256).status_code == 404


def test_a_file_that_changed_is_not_given(sharing: ScriptedServer) -> None:
    stored = hub.Store().get("tiny:1b")
    assert stored is not None
    os.utime(stored.path, ns=(1, 1))
    assert get(sharing, SHA256).status_code == 404


def test_it_is_off_unless_configured(server: ScriptedServer) -> None:
    assert httpx.get(f"{server.url}/abaci/blobs/{SHA256}").status_code == 404


def test_a_peer_fetches_by_hash_alone(sharing: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = hub.Store(tmp_path / "other")
    monkeypatch.setenv("ABACI_PEERS", f"{sharing.url}, http://127.0.0.1:1")
    with pytest.raises(DownloadError, match="answered 401"):
        fetch(WantedModel("tiny:1b", (FILE,)), other, SilentListener(), Network())
    monkeypatch.setenv("ABACI_PEER_KEY", KEY)
    model = fetch(WantedModel("tiny:1b", (FILE,)), other, SilentListener(), Network())
    assert model.path.read_bytes() == CONTENT
    assert model.path.is_relative_to(other.home)
    assert model.source == f"peer {sharing.url.removeprefix('http://')}"
