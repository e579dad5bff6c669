"""From what is typed to a file."""

import os
import re
from pathlib import Path

import pytest

from abaci import hub
from abaci.errors import IntegrityError, ModelNotFoundError, UsageError


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABACI_HOME", str(tmp_path / "home"))


def test_a_file_is_itself(tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    file.write_bytes(b"GGUF")
    resolved = hub.resolve(str(file), download=False)
    assert (resolved.path, resolved.name, resolved.sha256, resolved.licence) == (file, "mine", None, None)


def test_a_folder_is_its_one_model(tmp_path: Path) -> None:
    (tmp_path / "mine.gguf").write_bytes(b"")
    (tmp_path / "README.md").write_text("")
    assert hub.resolve(str(tmp_path), download=False).path == tmp_path / "mine.gguf"


def test_a_folder_of_shards_is_its_first(tmp_path: Path) -> None:
    for number in (3, 1, 2):
        (tmp_path / f"big-{number:05}-of-00003.gguf").write_bytes(b"")
    assert hub.resolve(str(tmp_path), download=False).path == tmp_path / "big-00001-of-00003.gguf"


def test_a_folder_of_several_models_names_them(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UsageError, match=r"a\.gguf, b\.gguf"):
        hub.resolve(str(tmp_path), download=False)


def test_a_folder_of_none(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no \.gguf file"):
        hub.resolve(str(tmp_path), download=False)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(UsageError, match=r"model\.bin is not a \.gguf file"):
        hub.resolve(str(tmp_path / "model.bin"), download=False)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.gguf")
    for path in (tmp_path, tmp_path / "model.gguf"):
        with pytest.raises(UsageError, match="neither a file nor a folder"):
            hub.resolve(str(path), download=False)


@pytest.mark.parametrize("name", ["", " "])
def test_no_name_is_not_the_current_folder(name: str) -> None:
    with pytest.raises(UsageError, match="name is empty"):
        hub.resolve(name, download=False)


@pytest.mark.parametrize("name", ["./none.gguf", "none.gguf", "/some/folder"])
def test_a_path_that_is_not_there(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="no file or folder"):
        hub.resolve(name, download=True)


@pytest.mark.parametrize(
    ("typed", "suggested"),
    [
        ("qwen2.5-coder", "qwen2.5-coder:0.5b"),
        ("qwen2.5", "qwen2.5:0.5b"),
        ("smolm2:135m", "smollm2:135m"),
        ("gemma", "gemma3:270m"),
    ],
)
def test_an_unknown_name_gets_the_near_ones(typed: str, suggested: str) -> None:
    with pytest.raises(ModelNotFoundError, match=re.escape(typed)) as caught:
        hub.resolve(typed, download=True)
    assert suggested in str(caught.value.hint)


def test_a_name_far_from_all_gets_the_list() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        hub.pull("xyzzy")
    assert "abaci search" in str(caught.value.hint)


def test_a_known_model_that_is_not_here_says_how_to_get_it() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        hub.resolve("smollm2:135m", download=False)
    assert caught.value.hint == "Fetch it: abaci pull smollm2:135m"


def test_pull_from_a_folder_with_another_file_keeps_nothing(tmp_path: Path) -> None:
    entry = hub.pinned_entry(hub.load_catalog(), "smollm2:135m")
    assert entry is not None
    with (tmp_path / entry.file_name).open("wb") as file:
        file.truncate(entry.num_bytes)
    with pytest.raises(IntegrityError):
        hub.pull("smollm2:135m", source=str(tmp_path))
    assert not list((tmp_path / "home").rglob("*.gguf"))


def test_real_weights_are_taken_from_a_file(smollm2_path: Path) -> None:
    resolved = hub.pull("smollm2:135m", source=str(smollm2_path))
    assert resolved == hub.resolve("smollm2:135m", download=False)
    assert resolved.path != smollm2_path
    assert resolved.licence == "Apache-2.0"


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("x" * 5000, UsageError, "5,000 characters"),
        ("x" * 300, UsageError, "no model can be called 'xxx"),
        ("a/" + "x" * 1000, UsageError, "cannot be part of a repository's name"),
        ("./" + "x" * 300, ModelNotFoundError, r"no file or folder \./xxx"),
    ],
)
def test_a_name_too_long_for_a_file_is_that_of_no_model(name: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as raised:
        hub.resolve(name, download=True)
    assert len(str(raised.value)) < 500


def test_a_path_too_long_for_a_file_is_that_of_no_own_file() -> None:
    hub.forbid_own_file("./" + "x" * 300)
