"""Keeping a store in order: what it costs, second names, what nothing names, repair; and stores of earlier versions."""

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
from scripted_sources import Recorder

from abaci.errors import AbaciError, DownloadError, IntegrityError, UsageError
from abaci.hub import maintenance
from abaci.hub.download import fetch
from abaci.hub.maintenance import copy, damaged_files, leftovers, prune, repair, usage
from abaci.hub.network import Network
from abaci.hub.references import StoredModel
from abaci.hub.sources import LocalSource
from abaci.hub.store import Store
from abaci.hub.wanted import Digest, WantedFile, WantedModel

SMALL, LARGE = b"{}" * 50, b"weights" * 500


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def wanted(tmp_path: Path, name: str, **contents: bytes) -> WantedModel:
    files = []
    for stem, content in contents.items():
        path = f"{stem}.gguf" if len(contents) == 1 else f"{stem}.json"
        (tmp_path / path).write_bytes(content)
        digest = Digest.sha256(hashlib.sha256(content).hexdigest())
        files.append(WantedFile(path, len(content), digest, (LocalSource(tmp_path),)))
    return WantedModel(name, tuple(files), "MIT")


def pull(tmp_path: Path, store: Store, name: str = "tiny:1b", **contents: bytes) -> StoredModel:
    return fetch(wanted(tmp_path, name, **(contents or {"a": SMALL, "b": LARGE})), store, Recorder())


def of_ollama(store: Store) -> StoredModel:
    digest = hashlib.sha256(LARGE).hexdigest()
    blob = Path(os.environ["OLLAMA_MODELS"]) / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(LARGE)
    file = WantedFile("other.gguf", len(LARGE), Digest.sha256(digest))
    return fetch(WantedModel("ollama/other:1b", (file,)), store, Recorder())


def test_what_a_store_costs(tmp_path: Path, store: Store) -> None:
    model = pull(tmp_path, store)
    copy(store, model, "second")
    of_ollama(store)
    (store.home / "partial" / "x").write_bytes(b"begun")
    found = usage(store)
    by_name = {one.name: one for one in found.models}
    whole = len(SMALL) + len(LARGE)
    assert (by_name["second"].num_bytes, by_name["second"].shared_bytes) == (whole, whole)
    assert by_name["ollama/other:1b"].elsewhere_bytes in (0, len(LARGE))
    assert found.own_bytes + found.elsewhere_bytes in (whole, whole + len(LARGE))
    assert [(one.num_bytes, one.is_partial) for one in found.leftovers] == [(5, True)]


def test_files_with_the_same_bytes_are_kept_once(tmp_path: Path, store: Store) -> None:
    first = pull(tmp_path, store, a=SMALL, b=LARGE)
    second = pull(tmp_path, store, "other:1b", b=LARGE, c=b"own" * 99)
    assert len(list((store.home / "files").iterdir())) == 3
    assert store.remove(first) == len(SMALL)
    store.verify(second)
    assert store.remove(second) == len(LARGE) + 297
    assert list((store.home / "files").iterdir()) == []
    assert list((store.home / "folders").iterdir()) == []


def test_a_second_name(tmp_path: Path, store: Store) -> None:
    model = pull(tmp_path, store)
    second = copy(store, model, "second")
    assert (second.path, second.files) == (model.path, model.files)
    assert store.remove(model) == 0
    store.verify(second)
    for name in ("second", "smollm2:135m", "./path"):
        with pytest.raises(UsageError):
            copy(store, second, name)
    with pytest.raises(AbaciError, match="removed meanwhile"):
        copy(store, model, "third")


def test_prune_deletes_what_nothing_names_and_no_more(tmp_path: Path, store: Store) -> None:
    model = pull(tmp_path, store)
    assert prune(store, lambda: None) == ()
    (store.home / "partial" / "x").write_bytes(b"begun")
    (store.home / "files" / "y").write_bytes(b"nobody's")
    (store.home / "folders" / "z" / "deep").mkdir(parents=True)
    (store.home / "folders" / "z" / "deep" / "link").symlink_to(tmp_path / "a.json")
    (store.home / "models" / ".123.abc").write_text("half a reference")
    assert len(leftovers(store)) == 4
    assert sum(one.num_bytes for one in prune(store, lambda: None)) == 5 + 8 + 16
    assert leftovers(store) == ()
    assert (tmp_path / "a.json").read_bytes() == SMALL
    store.verify(model)


def test_prune_of_nothing_makes_no_folder(store: Store) -> None:
    assert prune(store, lambda: None) == ()
    assert not store.home.exists()


def test_verify_finds_and_repairs(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pull(tmp_path, store)
    large = next(file for file in model.files if file.num_bytes == len(LARGE))
    large.location.write_bytes(LARGE[:-1] + b"?")
    os.utime(large.location, ns=(1, large.modified_nanoseconds))
    shown: list[int] = []
    [(found, error)] = damaged_files(store, model, shown.append)
    assert (found, type(error)) == (large, IntegrityError)
    assert shown[-1] == model.num_bytes
    with pytest.raises(DownloadError):  # a name that no hub knows, and no peer: nowhere to fetch from
        repair(store, model, (found,), Recorder(), Network(offline_because="the test"))
    sources = {file.sha256: (LocalSource(tmp_path),) for file in model.files}
    monkeypatch.setattr(maintenance, "_sources", lambda *_: sources)
    mended = repair(store, model, (found,), Recorder(), Network())
    assert damaged_files(store, mended, shown.append) == ()


def test_a_damaged_file_of_another_tool_is_replaced_by_ones_own(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = of_ollama(store)
    [file] = model.files
    file.location.write_bytes(LARGE[:-1] + b"?")
    os.utime(file.location, ns=(1, file.modified_nanoseconds))
    (tmp_path / "other.gguf").write_bytes(LARGE)
    monkeypatch.setattr(maintenance, "_sources", lambda *_: {file.sha256: (LocalSource(tmp_path),)})
    mended = repair(store, model, (file,), Recorder(), Network())
    assert mended.files[0].is_ours
    assert file.location.read_bytes() == LARGE[:-1] + b"?"
    store.verify(mended)


def test_what_is_written_is_for_its_owner_only(tmp_path: Path, store: Store) -> None:
    mask = os.umask(0)
    try:
        pull(tmp_path, store)
    finally:
        os.umask(mask)
    for path in (store.home, *store.home.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert path.is_symlink() or mode == (0o700 if path.is_dir() else 0o600), path


def test_a_store_of_the_first_version_goes_on(tmp_path: Path, store: Store) -> None:
    """One file per model, its reference without a list, its beginnings under the same names."""
    digest = hashlib.sha256(LARGE).hexdigest()
    path = store.home / "files" / f"{digest}.gguf"
    for folder in ("files", "models", "partial", "locks"):
        (store.home / folder).mkdir(parents=True)
    path.write_bytes(LARGE)
    reference = store.home / "models" / "tiny%3A1b.json"
    fields = {
        "version": 1,
        "name": "tiny:1b",
        "path": f"files/{digest}.gguf",
        "num_bytes": len(LARGE),
        "modified_nanoseconds": path.stat().st_mtime_ns,
        "sha256": digest,
        "source": "Hugging Face hub",
        "licence": "MIT",
    }
    reference.write_text(json.dumps(fields))
    model = store.get("tiny:1b")
    assert model is not None
    assert (model.path, model.sha256, model.licence, store.all()) == (path, digest, "MIT", [model])
    assert store.check(model) == model
    assert json.loads(reference.read_text())["version"] == 1
    file = WantedFile("tiny.gguf", len(LARGE), Digest.sha256(digest))
    assert fetch(WantedModel("tiny:1b", (file,)), store, Recorder()) == model
    os.utime(path, ns=(1, 1))
    renewed = store.check(model)
    assert json.loads(reference.read_text())["version"] == 2
    assert store.get("tiny:1b") == renewed
    assert copy(store, renewed, "second").path == path
    assert (store.remove(renewed), path.exists()) == (0, True)
    assert leftovers(store) == ()
