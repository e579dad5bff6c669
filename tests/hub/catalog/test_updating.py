"""A later catalog is taken in if it is signed by the key, whole, well-formed and newer; else nothing changes."""

import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import minisign
import pytest
from documents import document, encoded

from abaci.errors import (
    AbaciError,
    DownloadError,
    FileFormatError,
    IntegrityError,
    NotFoundError,
    OfflineError,
    ResourceError,
    UsageError,
)
from abaci.hub.catalog import load_catalog, loading, reset_catalog, update_catalog
from abaci.hub.catalog.loading import load_packaged_catalog, update_path
from abaci.hub.network import Network

NETWORK = Network()


@pytest.fixture(scope="module")
def keys() -> minisign.KeyPair:
    return minisign.KeyPair.generate()


@pytest.fixture
def key(keys: minisign.KeyPair) -> str:
    return keys.public_key.to_base64().decode()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def publish(folder: Path, data: bytes, keys: minisign.KeyPair) -> str:
    path = folder / "catalog.json"
    path.write_bytes(data)
    Path(f"{path}.minisig").write_bytes(bytes(keys.secret_key.sign(data)))
    return str(path)


def assert_refused(kind: type[AbaciError], source: str, key: str | None, home: Path, match: str | None = None) -> None:
    before = update_path(home).read_bytes() if update_path(home).exists() else None
    with pytest.raises(kind, match=match) as caught:
        update_catalog(source, key, NETWORK, home)
    assert caught.value.hint
    assert (update_path(home).read_bytes() if update_path(home).exists() else None) == before


def test_a_signed_catalog_is_taken_in(tmp_path: Path, home: Path, keys: minisign.KeyPair, key: str) -> None:
    taken = update_catalog(publish(tmp_path, encoded(document()), keys), key, NETWORK, home)
    assert load_catalog(home) == taken
    assert list(taken.models) == ["tiny:1b"]
    assert update_path(home).stat().st_mode & 0o077 == 0
    reset_catalog(home)
    assert load_catalog(home) == load_packaged_catalog()


def test_the_key_may_be_a_file_or_in_the_environment(
    tmp_path: Path, home: Path, keys: minisign.KeyPair, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = publish(tmp_path, encoded(document()), keys)
    file = tmp_path / "publisher.pub"
    file.write_bytes(bytes(keys.public_key))
    update_catalog(source, str(file), NETWORK, home)
    monkeypatch.setenv("ABACI_CATALOG_KEY", key)
    update_catalog(source, None, NETWORK, tmp_path / "other")


def test_without_a_key_nothing_is_trusted(
    tmp_path: Path, home: Path, keys: minisign.KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ABACI_CATALOG_KEY", raising=False)
    assert_refused(UsageError, publish(tmp_path, encoded(document()), keys), None, home)


def test_what_is_no_key(tmp_path: Path, home: Path, keys: minisign.KeyPair) -> None:
    assert_refused(UsageError, publish(tmp_path, encoded(document()), keys), "RWnonsense", home, "not a public key")


def test_another_key(tmp_path: Path, home: Path, keys: minisign.KeyPair) -> None:
    other = minisign.KeyPair.generate().public_key.to_base64().decode()
    assert_refused(IntegrityError, publish(tmp_path, encoded(document()), keys), other, home, "not signed")


def test_a_changed_byte_or_a_cut(tmp_path: Path, home: Path, keys: minisign.KeyPair, key: str) -> None:
    source = publish(tmp_path, encoded(document()), keys)
    whole = Path(source).read_bytes()
    for changed in (whole[:-1], whole + b" ", whole.replace(b"Tiny", b"Huge"), b""):
        Path(source).write_bytes(changed)
        assert_refused(IntegrityError, source, key, home, "not signed")


def test_a_damaged_signature(tmp_path: Path, home: Path, keys: minisign.KeyPair, key: str) -> None:
    source = publish(tmp_path, encoded(document()), keys)
    signature = Path(f"{source}.minisig")
    whole = signature.read_bytes()
    for changed in (b"", whole[:50], b"nonsense\n" * 4, whole.replace(b"timestamp:1", b"timestamp:2")):
        signature.write_bytes(changed)
        assert_refused(IntegrityError, source, key, home)
    signature.write_bytes(b"x" * 5_000)
    assert_refused(DownloadError, source, key, home, "more than")
    signature.unlink()
    assert_refused(NotFoundError, source, key, home)


def test_a_signature_of_another_catalog(tmp_path: Path, home: Path, keys: minisign.KeyPair, key: str) -> None:
    old = publish(tmp_path, encoded(document(version=1_000)), keys)
    signature = Path(f"{old}.minisig").read_bytes()
    new = publish(tmp_path, encoded(document(version=1_001)), keys)
    Path(f"{new}.minisig").write_bytes(signature)
    assert_refused(IntegrityError, new, key, home, "not signed")


def test_no_version_comes_twice_or_again(tmp_path: Path, home: Path, keys: minisign.KeyPair, key: str) -> None:
    packaged = load_packaged_catalog().version
    assert_refused(IntegrityError, publish(tmp_path, encoded(document(version=packaged)), keys), key, home, "version")
    update_catalog(publish(tmp_path, encoded(document(version=1_001)), keys), key, NETWORK, home)
    for version in (1_000, 1_001):
        source = publish(tmp_path, encoded(document(version=version)), keys)
        assert_refused(IntegrityError, source, key, home, "version 1001 is here")
    update_catalog(publish(tmp_path, encoded(document(version=1_002)), keys), key, NETWORK, home)
    assert load_catalog(home).version == 1_002


def test_a_signed_catalog_of_the_wrong_form(tmp_path: Path, home: Path, keys: minisign.KeyPair, key: str) -> None:
    for data in (b"not JSON", encoded(document(unknown=1)), encoded(document(default="none:1b"))):
        with pytest.raises(FileFormatError, match="catalog"):
            update_catalog(publish(tmp_path, data, keys), key, NETWORK, home)
        assert not update_path(home).exists()


def test_a_catalog_without_end(
    tmp_path: Path, home: Path, keys: minisign.KeyPair, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("abaci.hub.catalog.updating.MAX_CATALOG_BYTES", 100)
    with pytest.raises(DownloadError, match="more than 100 bytes"):
        update_catalog(publish(tmp_path, encoded(document()), keys), key, NETWORK, home)


def test_a_newer_release_replaces_an_old_update(
    tmp_path: Path, home: Path, keys: minisign.KeyPair, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    update_catalog(publish(tmp_path, encoded(document()), keys), key, NETWORK, home)
    released = replace(load_packaged_catalog(), version=1_000)
    monkeypatch.setattr(loading, "load_packaged_catalog", lambda: released)
    assert load_catalog(home) == released


def test_an_update_that_was_tampered_with_says_how_to_go_back(home: Path) -> None:
    update_path(home).parent.mkdir(parents=True)
    update_path(home).write_bytes(b"{")
    with pytest.raises(FileFormatError) as caught:
        load_catalog(home)
    assert "abaci catalog reset" in str(caught.value.hint)


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, home: Path, keys: minisign.KeyPair, key: str) -> None:
    home.write_text("a file where the folder should be")
    with pytest.raises(ResourceError):
        update_catalog(publish(tmp_path, encoded(document()), keys), key, NETWORK, home)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path))  # type: ignore[arg-type, misc]

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_over_the_network(tmp_path: Path, home: Path, keys: minisign.KeyPair, key: str, address: str) -> None:
    publish(tmp_path, encoded(document()), keys)
    assert_refused(DownloadError, f"{address}/none.json", key, home, "404")
    assert update_catalog(f"{address}/catalog.json", key, NETWORK, home).version == 1_000


def test_offline_means_offline(tmp_path: Path, home: Path, key: str) -> None:
    with pytest.raises(OfflineError):
        update_catalog("https://example.org/catalog.json", key, Network(offline_because="--offline"), home)
