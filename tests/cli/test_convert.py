"""`abaci convert`: both ways, and what it writes over."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from golden_models import golden_path
from typer.testing import CliRunner, Result

from abaci import hub
from abaci.cli.app import app
from abaci.errors import ResourceError
from abaci.formats.checkpoint import TEMPLATE_KEY
from abaci.formats.converting import TEMPLATE_ADDED
from abaci.formats.gguf import GgufCheckpoint, TensorSource, write_gguf
from abaci.tensor import WeightFormat

SOURCE = str(golden_path("qwen2"))
SUPPLIED = "{% for message in messages %}<turn>{{ message.content }}{% endfor %}"


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABACI_HOME", str(tmp_path / "home"))


def abaci(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize("name", ["model.gguf", "folder"])
def test_what_is_there_is_left_alone_unless_force_is_said(tmp_path: Path, name: str) -> None:
    destination = str(tmp_path / name)
    assert abaci("convert", SOURCE, destination).exit_code == 0
    again = abaci("convert", SOURCE, destination)
    assert again.exit_code == 2
    assert again.stderr == f"error: {destination} exists\nhint: Choose another name, or say --force.\n"
    forced = abaci("convert", SOURCE, destination, "--force")
    assert (forced.exit_code, forced.stderr) == (0, "")
    assert abaci("show", destination).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("order", [["convert"], ["quantize", "--type", "f16", "--allow-requantize", "--no-measure"]])
def test_what_llama_cpp_would_not_follow_is_told(order: list[str], tmp_path: Path) -> None:
    with GgufCheckpoint.open(SOURCE) as checkpoint:
        tensors: list[TensorSource] = [
            (name, info.format, info.shape, bytes(checkpoint.data(info))) for name, info in checkpoint.tensors.items()
        ]
        pairs = (
            checkpoint.tensors["blk.0.attn_q.weight"].shape[0]
            // int(str(checkpoint.metadata["qwen2.attention.head_count"]))
            // 2
        )
        tensors.append(("rope_freqs.weight", WeightFormat.F32, (pairs,), bytes(np.ones(pairs, np.float32))))
        write_gguf(tmp_path / "a.gguf", {**checkpoint.metadata, "qwen2.rope.scaling.yarn_truncate": False}, tensors)
    result = abaci(*order, str(tmp_path / "a.gguf"), str(tmp_path / "b.gguf"))
    assert result.exit_code == 0
    first, second, *_ = result.stderr.splitlines()
    assert first.startswith("warning: llama.cpp reads no rope_freqs.weight of the architecture qwen2")
    assert second.startswith("warning: llama.cpp does not read qwen2.rope.scaling.yarn_truncate")


def test_force_deletes_nothing_of_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    result = abaci("convert", SOURCE, str(tmp_path), "--force")
    assert result.exit_code == 2
    assert "notes.txt" in result.stderr
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["model.gguf", "folder"])
def test_a_folder_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    result = abaci("convert", SOURCE, str(tmp_path / "none" / name))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {tmp_path / 'none'}: no such folder\n")


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").mkdir()
    result = abaci("convert", SOURCE, str(tmp_path / "model.gguf"), "--force")
    assert (result.exit_code, result.stderr.splitlines()[0]) == (2, f"error: {tmp_path / 'model.gguf'} is a folder")


def test_the_ending_of_a_file_may_be_in_capitals(tmp_path: Path) -> None:
    assert abaci("convert", SOURCE, str(tmp_path / "model.GGUF")).exit_code == 0
    assert (tmp_path / "model.GGUF").is_file()


@pytest.mark.parametrize("name", ["model.gguf", "folder"])
def test_a_disk_without_room_is_refused_with_the_numbers(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    result = abaci("convert", SOURCE, str(tmp_path / name))
    assert result.exit_code == ResourceError.exit_code
    assert result.stderr.startswith(f"error: {tmp_path} has 0 MB free, {name} takes ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["folder", "--type", "q4_0"], "Choose one of: f32, f16, bf16."),
        (["model.gguf", "--type", "bf16"], f"Make a file of that type: abaci quantize {SOURCE} model.gguf --type bf16"),
    ],
)
def test_a_type_that_the_destination_cannot_have(arguments: list[str], hint: str) -> None:
    result = abaci("convert", SOURCE, *arguments)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[1] == f"hint: {hint}"


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file without a chat template, under a name that the catalog has one for."""
    path = tmp_path / "bare.gguf"
    with GgufCheckpoint.open(SOURCE) as checkpoint:
        metadata = {key: value for key, value in checkpoint.metadata.items() if key != TEMPLATE_KEY}
        tensors = [(name, info.format, info.shape, checkpoint.data(info)) for name, info in checkpoint.tensors.items()]
        write_gguf(path, metadata, tensors)
        del tensors
    resolve = hub.resolve

    def resolve_with_template(name: str, *, download: bool) -> hub.ResolvedModel:
        found = resolve(str(path) if name == "bare:1b" else name, download=download)
        return replace(found, chat_template=SUPPLIED) if name in ("bare:1b", SOURCE) else found

    monkeypatch.setattr(hub, "resolve", resolve_with_template)
    return "bare:1b"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["convert"], "copy.gguf"),
        (["convert"], "folder"),
        (["quantize", "--type", "q8_0", "--allow-requantize", "--no-measure"], "copy.gguf"),
        (["quantize", "--type", "q8_0", "--allow-requantize"], "copy.gguf"),
    ],
)
def test_a_template_of_the_catalog_goes_along(arguments: list[str], name: str, bare: str, tmp_path: Path) -> None:
    made = abaci(*arguments, bare, str(tmp_path / name))
    assert made.exit_code == 0, made.output
    assert f"{TEMPLATE_ADDED}\n" in made.stderr
    shown = json.loads(abaci("show", str(tmp_path / name), "--json").stdout)
    assert (shown["chat_template"], shown["chat_template_from"]) == (SUPPLIED, "file")


@pytest.mark.parametrize("name", ["copy.gguf", "folder"])
@pytest.mark.usefixtures("bare")
def test_a_template_of_its_own_stays(name: str, tmp_path: Path) -> None:
    made = abaci("convert", SOURCE, str(tmp_path / name))
    assert TEMPLATE_ADDED not in made.stderr
    with GgufCheckpoint.open(SOURCE) as checkpoint:
        own = checkpoint.metadata[TEMPLATE_KEY]
    assert json.loads(abaci("show", str(tmp_path / name), "--json").stdout)["chat_template"] == own != SUPPLIED
