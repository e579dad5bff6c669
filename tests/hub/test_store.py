"""The store: references, changed files, removal."""

import os
from pathlib import Path

import pytest
from scripted_sources import Recorder, ScriptedSource, entry_of

from abaci.errors import AbaciError, IntegrityError, ResourceError
from abaci.hub.download import download
from abaci.hub.references import StoredModel
from abaci.hub.store import Store, default_home

CONTENT = b"weights" * 100


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def model(store: Store) -> StoredModel:
    return download(entry_of(CONTENT, ScriptedSource(CONTENT)), store, Recorder())


def test_a_new_store_is_empty_and_makes_no_folder(tmp_path: Path) -> None:
    store = Store(tmp_path / "none")
    assert (store.all(), store.get("tiny:1b")) == ([], None)
    assert not store.home.exists()


def test_all_gives_back_names(store: Store, model: StoredModel) -> None:
    assert store.all() == [model]
    assert model.name == "tiny:1b"


def test_an_unchanged_file_is_not_read(store: Store, model: StoredModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abaci.hub.store.sha256_of", lambda *_: pytest.fail("hashed"))
    assert store.check(model) == model


def test_a_touched_file_is_hashed_once_and_known_again(store: Store, model: StoredModel) -> None:
    os.utime(model.path, ns=(1, 1))
    renewed = store.check(model)
    assert renewed.files[0].modified_nanoseconds == 1
    assert store.get(model.name) == renewed


@pytest.mark.parametrize("content", [b"short", CONTENT[:-1] + b"?"])
def test_a_changed_file_is_refused(store: Store, model: StoredModel, content: bytes) -> None:
    model.path.write_bytes(content)
    os.utime(model.path, ns=(1, 1))
    with pytest.raises(IntegrityError) as caught:
        store.check(model)
    assert caught.value.hint == "Fetch it again: abaci verify --repair tiny:1b"


def test_a_missing_file_is_refused(store: Store, model: StoredModel) -> None:
    model.path.unlink()
    for look in (store.check, store.verify):
        with pytest.raises(IntegrityError):
            look(model)


def test_verify_sees_a_change_that_size_and_time_hide(store: Store, model: StoredModel) -> None:
    model.path.write_bytes(CONTENT[:-1] + b"?")
    os.utime(model.path, ns=(1, model.files[0].modified_nanoseconds))
    store.check(model)
    with pytest.raises(IntegrityError, match="SHA-256"):
        store.verify(model)


def test_remove_frees_the_file(store: Store, model: StoredModel) -> None:
    assert store.remove(model) == len(CONTENT)
    assert not model.path.exists()
    assert store.get(model.name) is None


def test_remove_spares_a_file_that_another_name_needs(store: Store, model: StoredModel) -> None:
    reference = store.home / "models" / "tiny%3A1b.json"
    (store.home / "models" / "alias.json").write_text(reference.read_text().replace("tiny:1b", "alias"))
    assert store.remove(model) == 0
    assert model.path.exists()
    assert [other.name for other in store.all()] == ["alias"]


@pytest.mark.parametrize("text", ["", "{}", '{"version": 2}', "[]", "not json"])
def test_a_reference_that_is_none_is_named(store: Store, model: StoredModel, text: str) -> None:
    reference = store.home / "models" / "tiny%3A1b.json"
    reference.write_text(text)
    with pytest.raises(AbaciError, match=r"tiny%3A1b\.json"):
        store.get("tiny:1b")


def test_names_stay_inside_the_store(store: Store, tmp_path: Path) -> None:
    (tmp_path.parent / "outside.json").write_text("{}")
    assert store.get("../../outside") is None


def test_a_store_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="file") as caught:
        Store(tmp_path / "file").partial_path("0")
    assert "ABACI_HOME" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("environment", "home"),
    [
        ({"ABACI_HOME": "/a", "XDG_DATA_HOME": "/x", "HOME": "/h"}, "/a"),
        ({"XDG_DATA_HOME": "/x", "HOME": "/h"}, "/x/abaci"),
        ({"HOME": "/h"}, "/h/.local/share/abaci"),
    ],
)
def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], home: str) -> None:
    for name in ("ABACI_HOME", "XDG_DATA_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert default_home() == Path(home)
