"""No name, path, manifest or reference leads out of the folder it belongs to: whatever is typed, listed or written."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abaci.errors import AbaciError, UsageError
from abaci.hub import huggingface_cache
from abaci.hub.references import StoredFile, StoredModel, read_reference, written_reference
from abaci.hub.repositories import is_sound_path
from abaci.hub.store import Store
from abaci.hub.wanted import Digest, WantedFile, WantedModel, checked_path

DIGEST = Digest.sha256("0" * 64)
PIECES = st.sampled_from(
    ["..", ".", "", "a", "b.gguf", "/", "\\", "~", "C:", "\0", "\n", "%2e%2e", "．．", "a b", "\ud800"]
)
PATHS = st.text(max_size=60) | st.lists(PIECES, max_size=9).map("/".join) | st.lists(PIECES, max_size=9).map("".join)


@settings(max_examples=400)
@given(PATHS)
def test_a_path_stays_in_its_folder(path: str) -> None:
    folder = Path("/srv/models/one")
    try:
        checked_path(path)
    except UsageError:
        assert not is_sound_path(path)
        return
    assert os.path.normpath(folder / path) == str(folder / path)
    assert (folder / path).is_relative_to(folder)
    assert (folder / path) != folder
    assert "\\" not in path
    assert not any(part.startswith((".", "~")) and part in (".", "..") for part in path.split("/"))


@pytest.mark.parametrize(
    "path",
    [
        *(
            "",
            "/",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "a\\b",
            "C:\\x",
            "c:x",
            "a\0",
            "a\nb",
            ".hidden",
        ),
        *(
            "a/.b",
            "x" * 201,
            "/".join("a" * 9),
            "a ",
            "a.",
            "a?",
            "a*",
            'a"',
            "a|b",
            "<a>",
            "a\x1b[2Jb",
            "a\u202eb",
            "a\x85b",
        ),
    ],
)
def test_paths_that_are_refused(path: str) -> None:
    with pytest.raises(UsageError):
        WantedFile(path, 1, DIGEST)


@pytest.mark.parametrize("path", ["config.json", "1_Pooling/config.json", "a-b_c.d+e@f/模型.gguf", "x" * 200])
def test_paths_that_are_taken(path: str) -> None:
    assert WantedFile(path, 1, DIGEST).path == path


def test_a_model_has_each_file_once() -> None:
    for paths in ([], ["a", "a"], ["a", "A"], ["a", "a/b"]):
        with pytest.raises(UsageError):
            WantedModel("x", tuple(WantedFile(path, 1, DIGEST) for path in paths))
    with pytest.raises(UsageError):
        WantedFile("a", -1, DIGEST)


@pytest.mark.parametrize("value", ["", "0" * 63, "0" * 65, "0" * 63 + "G", "0" * 63 + "A", "../" * 20, "0" * 64 + "\n"])
def test_hashes_that_are_none(value: str) -> None:
    with pytest.raises(UsageError):
        Digest.sha256(value)


@settings(max_examples=200)
@given(st.text(min_size=1, max_size=400))
def test_any_name_is_kept_below_the_store(name: str) -> None:
    store = Store(Path("/srv/store"))
    path = store._reference_path(name)
    assert path.parent == store.home / "models"
    assert len(os.fsencode(path.name)) <= 255
    assert store.get(name) is None


@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=300))
def test_two_names_never_meet(one: str, other: str) -> None:
    store = Store(Path("/srv/store"))
    assert (store._reference_path(one) == store._reference_path(other)) == (one == other)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
GOOD: dict[str, Any] = json.loads(
    written_reference(
        StoredModel(
            "x:1b", Path("/s/files/a"), (StoredFile("a", Path("/s/files/a"), 3, 4, "0" * 64, True),), "s", "MIT"
        ),
        Path("/s"),
    )
)


@settings(max_examples=300)
@given(st.sampled_from([*GOOD, "files.0"]), st.sampled_from(sorted(GOOD["files"][0])), JSON | PATHS)
def test_a_reference_is_read_or_refused(name: str, inner: str, value: object) -> None:
    document = json.loads(json.dumps(GOOD))
    if name == "files.0":
        document["files"][0][inner] = value
    else:
        document[name] = value
    try:
        model = read_reference(json.dumps(document), Path("/s/models/x.json"), Path("/s"))
    except AbaciError as error:
        assert "x.json" in error.message or "hash" in error.message
        return
    for file in model.files:
        checked_path(file.path)
        assert ".." not in file.location.parts


def test_a_reference_that_names_another_file_deletes_nothing(tmp_path: Path) -> None:
    """Somebody wrote a reference that claims a file of the user's as the store's own."""
    mine = tmp_path / "thesis.txt"
    mine.write_text("years of work")
    store = Store(tmp_path / "home")
    for location in (mine, store.home / "models" / "notes", tmp_path / "blobs" / "thesis.txt"):
        location.parent.mkdir(parents=True, exist_ok=True)
        if not location.exists():
            location.write_text("years of work")
        file = StoredFile("a", location, 3, 4, "0" * 64, is_ours=True)
        model = store.refer(StoredModel("evil", location, (file,), "", ""))
        assert store.remove(model) == 0
        assert location.exists()


@given(st.text(max_size=80), PATHS)
def test_the_shared_cache_is_never_left(repository: str, path: str) -> None:
    try:
        found = huggingface_cache.cached_file(repository, "main", path)
    except UsageError:
        return
    assert found is None


@pytest.mark.parametrize("revision", ["", "../x", "a//b", "/x", "x/", "a..b", "-x", "a\nb", "a b"])
def test_revisions_that_are_none(revision: str) -> None:
    with pytest.raises(UsageError):
        huggingface_cache.checked_revision(revision)
