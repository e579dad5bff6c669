"""The verbs around the store, from a repository to nothing left: what they print, what they end with."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from abaci.cli.app import app

sys.path.insert(0, str(Path(__file__).parents[1] / "hub"))
from hub_server import HubServer, running_hub

GOLDEN = Path(__file__).parents[1] / "golden" / "folders" / "llama"
NAME = "hf.co/maker/golden"


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("ABACI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("ABACI_OFFLINE", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN", "ABACI_PEERS"):
        monkeypatch.setenv(name, "")
    with running_hub() as server:
        server.card = {"license": "apache-2.0"}
        server.repositories["maker/golden"] = {path.name: path.read_bytes() for path in GOLDEN.iterdir()}
        monkeypatch.setenv("HF_ENDPOINT", server.hub_url)
        yield server


def abaci(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def abaci_json(*arguments: str, exit_code: int = 0) -> Any:
    result = abaci(*arguments, "--json")
    assert result.exit_code == exit_code, result.stderr
    return json.loads(result.stdout)


def pull() -> Any:
    return abaci_json("pull", "maker/golden", "--force", "--accept-licence")


def test_a_folder_from_pull_to_prune() -> None:
    pulled = pull()
    assert pulled["name"] == NAME
    assert [file["path"] for file in pulled["files"]] == ["config.json", "model.safetensors"]
    assert Path(pulled["path"], "config.json").read_bytes() == (GOLDEN / "config.json").read_bytes()
    assert [model["name"] for model in abaci_json("list")] == [NAME]
    assert abaci_json("cp", "maker/golden", "mine")["path"] == pulled["path"]
    used = abaci_json("du")
    assert [model["name"] for model in used["models"]] == [NAME, "mine"]
    assert used["own_bytes"] == pulled["num_bytes"]
    assert [(one["name"], one["right"]) for one in abaci_json("verify")] == [(NAME, True), ("mine", True)]
    assert abaci_json("rm", "maker/golden")["freed_bytes"] == 0
    assert abaci_json("rm", "mine")["freed_bytes"] == pulled["num_bytes"]
    assert abaci_json("prune") == {"deleted": True, "num_bytes": 0, "files": []}


@pytest.mark.parametrize("words", [["verify"], ["rm"], ["cp", "new:1b"], ["pull"]])
def test_a_file_that_is_there_is_not_said_to_be_missing(words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "own.gguf"
    path.touch()
    verb, *more = words
    result = abaci(verb, str(path), *more)
    assert (result.exit_code, result.stderr.splitlines()[0]) == (
        3,
        f"error: {path} is a path, and what is fetched has a name",
    )
    assert path.exists()


def test_names_of_the_own_store_are_suggested_too() -> None:
    pull()
    abaci_json("cp", "maker/golden", "gold-medal:1b")
    for verb in ("show", "rm", "fit"):
        assert "hint: Did you mean gold-medal:1b?" in abaci(verb, "gold-medall:1b").stderr


def test_damage_is_found_and_repaired() -> None:
    weights = Path(pull()["path"], "model.safetensors").resolve()
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)
    [found] = abaci_json("verify", exit_code=5)
    assert (found["right"], found["damaged"]) == (False, [str(weights)])
    [mended] = abaci_json("verify", "maker/golden", "--repair")
    assert (mended["right"], mended["repaired"]) == (True, True)
    assert abaci("verify").exit_code == 0


def test_prune_says_first_what_it_would_do(tmp_path: Path) -> None:
    pull()
    (tmp_path / "home" / "partial" / "begun").write_bytes(b"12345")
    for arguments, deleted in ((("prune", "--dry-run"), False), (("prune",), True)):
        said = abaci_json(*arguments)
        assert (said["deleted"], said["num_bytes"]) == (deleted, 5)
    assert abaci_json("prune")["files"] == []
    assert abaci("prune").stdout == "nothing to delete\n"


@pytest.mark.parametrize("arguments", [("--offline", "pull", "maker/golden"), ("pull", "--offline", "maker/golden")])
def test_offline_asks_nobody(hub: HubServer, arguments: tuple[str, ...]) -> None:
    result = abaci(*arguments)
    assert result.exit_code == 5
    assert "ABACI_OFFLINE is set" in result.stderr
    assert hub.asked == []


def test_a_rate_that_is_none(hub: HubServer) -> None:
    result = abaci("pull", "maker/golden", "--limit-rate", "fast")
    assert result.exit_code == 2
    assert "'fast' is not a rate" in result.stderr
    assert hub.asked == []
