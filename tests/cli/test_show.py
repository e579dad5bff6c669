"""`abaci show` of what is not simply a model, and what it warns of."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from adapter_files import RandomAdapter
from golden_folders import golden_folder
from golden_models import golden_path
from typer.testing import CliRunner, Result

from abaci.cli.app import app
from abaci.errors import UnsupportedModelError
from abaci.quantize.importance import Importance, write_importance
from abaci.tensor import WeightFormat


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABACI_HOME", str(tmp_path / "home"))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    pairs = {f"blk.{i}.attn_q.weight": (np.ones((4, 32), np.float32), np.ones((32, 4), np.float32)) for i in range(2)}
    return RandomAdapter("llama", 16.0, WeightFormat.F32, pairs).write(tmp_path / "lora.gguf")


@pytest.fixture
def importance(tmp_path: Path) -> Path:
    path = tmp_path / "importance.gguf"
    write_importance(path, Importance({"blk.0.ffn_up.weight": np.ones((1, 32), np.float32)}, "books.txt"))
    return path


def abaci(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def rows(result: Result) -> dict[str, str]:
    assert result.exit_code == 0, result.output
    return {name: value for name, _, value in (line.partition(" ") for line in result.stdout.splitlines()) if name}


def test_an_adapter(adapter: Path) -> None:
    shown = {name: value.strip() for name, value in rows(abaci("show", str(adapter))).items()}
    assert shown["kind"] == "adapter (lora) of 2 matrices, for abaci run MODEL --lora FILE"
    assert (shown["rank"], shown["alpha"], shown["parameters"]) == ("4", "16.0", "512")
    assert "context" not in shown
    assert "template" not in shown
    described = json.loads(abaci("show", str(adapter), "--json").stdout)
    assert described["adapter"] == {"type": "lora", "alpha": 16.0, "ranks": [4], "num_matrices": 2}
    assert described["importance"] is None


def test_importance(importance: Path) -> None:
    shown = abaci("show", str(importance)).stdout
    assert "importance of the inputs of 1 matrices" in shown
    assert "books.txt" in shown
    assert "None" not in shown


def test_small_models_have_their_parameters_counted() -> None:
    assert rows(abaci("show", str(golden_path("qwen2"))))["parameters"].strip() != "0 million"


def test_warnings_of_a_folder_are_told(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(golden_folder("llama"), tmp_path / "model"))
    (folder / "generation_config.json").write_text(json.dumps({"max_new_tokens": 3}))
    shown = abaci("show", str(folder))
    assert "warning: generation_config.json has settings that are not followed: max_new_tokens" in shown.stderr
    (note,) = json.loads(abaci("show", str(folder), "--json").stdout)["notes"]
    assert note.endswith("max_new_tokens")


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "{}", "out"],
        ["convert", "{}", "out.gguf"],
        ["quantize", "{}", "out.gguf", "--type", "q8_0", "--no-measure"],
    ],
)
@pytest.mark.parametrize("kind", ["adapter", "importance"])
def test_what_is_no_model_is_neither_converted_nor_quantised(
    tmp_path: Path, kind: str, arguments: list[str], request: pytest.FixtureRequest
) -> None:
    source = str(request.getfixturevalue(kind))
    places = {"{}": source, "out": str(tmp_path / "out"), "out.gguf": str(tmp_path / "out.gguf")}
    result = abaci(*(places.get(argument, argument) for argument in arguments))
    assert result.exit_code == UnsupportedModelError.exit_code
    assert result.stderr.startswith(f"error: {source}: ")
    assert "no model" in result.stderr
    assert not list(tmp_path.glob("out*"))
