"""`abaci search` and `abaci catalog`, as they are typed."""

import json
from pathlib import Path

import minisign
import pytest
from typer.testing import CliRunner, Result

from abaci.cli.app import app


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABACI_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ABACI_CATALOG_KEY", raising=False)


def abaci(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_a_table() -> None:
    result = abaci("search", "coder", "--max-size", "1B")
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["NAME", "PARAMETERS", "CONTEXT", "LICENCE", "GOOD", "AT"]
    assert [row.split()[:3] for row in rows] == [["qwen2.5-coder:0.5b", "490M", "32K"]]


def test_json() -> None:
    (model,) = json.loads(abaci("search", "qwen3:30b", "--json").stdout)[:1]
    assert (model["num_parameters"], model["num_active_parameters"]) == (30_500_000_000, 3_300_000_000)
    assert all(score["source"].startswith("https://") for score in model["scores"])


def test_nothing_found_names_near_ones() -> None:
    result = abaci("search", "qwn2.5:7b")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "qwen2.5:7b" in result.stderr
    assert json.loads(abaci("search", "qwn2.5:7b", "--json").stdout) == []


@pytest.mark.parametrize("arguments", [("--task", "magic"), ("--max-size", "big"), ("--max-size", "-1")])
def test_what_cannot_be_honoured(arguments: tuple[str, ...]) -> None:
    result = abaci("search", *arguments)
    assert result.exit_code == 2
    assert "hint: " in result.stderr


def test_a_catalog_is_exported_signed_and_taken_in(tmp_path: Path) -> None:
    exported = json.loads(abaci("catalog", "export").stdout)
    present = exported["version"]
    data = json.dumps(exported | {"version": present + 1}).encode()
    keys = minisign.KeyPair.generate()
    path = tmp_path / "catalog.json"
    path.write_bytes(data)
    Path(f"{path}.minisig").write_bytes(bytes(keys.secret_key.sign(data)))
    assert abaci("catalog", "update", str(path)).exit_code == 2
    taken = abaci("catalog", "update", str(path), "--key", keys.public_key.to_base64().decode(), "--json")
    assert json.loads(taken.stdout)["version"] == present + 1
    assert abaci("catalog", "update", str(path), "--key", keys.public_key.to_base64().decode()).exit_code == 5
    assert abaci("catalog", "reset").stdout.startswith(f"catalog version {present}: ")
