"""The gate around a download from a hub: refused before a byte comes, asked once, known afterwards without the hub."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer, running_hub

import abaci.hub as hub
from abaci.errors import LicenceDeniedError, LicenceNotAcceptedError, ModelNotFoundError
from abaci.formats.gguf import write_gguf
from abaci.hub.licences.gate import LicenceGate
from abaci.hub.licences.model_facts import facts_of_name
from abaci.hub.licences.report import LicenceReport, examine

NAME = "hf.co/somebody/tuned-GGUF"
POLICY = "[use]\ncommercial = {commercial}\n[licences]\nask = [{ask}]\n"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("ABACI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ABACI_LICENCE_POLICY", str(tmp_path / "policy.toml"))
    write_gguf(tmp_path / "made.gguf", {"general.architecture": "llama", "general.license": "mit"}, [])
    with running_hub() as running:
        running.repositories = {"somebody/tuned-GGUF": {"tuned.Q4_K_M.gguf": (tmp_path / "made.gguf").read_bytes()}}
        running.card = {"license": "mit", "base_model": ["Qwen/Qwen2.5-3B"]}
        monkeypatch.setenv("HF_ENDPOINT", running.hub_url)
        yield running


def policy(tmp_path: Path, *, commercial: bool, ask: str = "") -> None:
    text = POLICY.format(commercial=str(commercial).lower(), ask=ask)
    (tmp_path / "policy.toml").write_text(text)


def test_a_repository_is_judged_by_its_card_before_anything_comes(server: HubServer, tmp_path: Path) -> None:
    policy(tmp_path, commercial=True)
    with pytest.raises(LicenceDeniedError, match="non-commercial purposes only"):
        LicenceGate().check_name(NAME)
    assert not [asked for asked in server.asked if "/resolve/" in asked.path]
    assert examine(facts_of_name(NAME), None).expression == "MIT AND LicenseRef-qwen-research"


def test_what_is_accepted_is_asked_once_though_the_file_adds_its_voice(server: HubServer, tmp_path: Path) -> None:
    policy(tmp_path, commercial=False, ask='"qwen-research"')
    with pytest.raises(LicenceNotAcceptedError, match="asks about LicenseRef-qwen-research"):
        LicenceGate().check_name(NAME)
    asked: list[LicenceReport] = []

    def accept(report: LicenceReport) -> bool:
        asked.append(report)
        return True

    gate = LicenceGate(ask=accept)
    gate.check_name(NAME)
    model = hub.pull(NAME)
    assert [report.model for report in asked] == [NAME]
    server.repositories.clear()
    LicenceGate().check_name(NAME)  # here already: nothing to ask the hub
    assert model.name == NAME
    assert examine(facts_of_name(NAME), None).expression == "MIT AND LicenseRef-qwen-research"
    policy(tmp_path, commercial=True)
    with pytest.raises(LicenceDeniedError, match="non-commercial purposes only"):
        LicenceGate().check_file(model)


def test_a_no_is_a_no(server: HubServer, tmp_path: Path) -> None:
    policy(tmp_path, commercial=False, ask='"mit"')
    with pytest.raises(LicenceNotAcceptedError):
        LicenceGate(ask=lambda report: False).check_name(NAME)
    LicenceGate(accept=True).check_name(NAME)
    LicenceGate().check_name(NAME)


def test_a_hub_that_cannot_be_asked_leaves_the_name(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert examine(facts_of_name("hf.co/x/Llama-3.1-8B-GGUF"), None).expression == (
        "LicenseRef-scancode-llama-3.1-license-2024"
    )
    assert examine(facts_of_name(NAME), None).expression == "NOASSERTION"
    assert server.asked == []


def test_names_of_nothing(server: HubServer) -> None:
    for name in ("no-such-model:1b", "./none.gguf"):
        with pytest.raises(ModelNotFoundError):
            facts_of_name(name)


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_is_accepted_for_a_file_does_not_hold_for_another_of_its_name(
    server: HubServer, tmp_path: Path, is_folder: bool
) -> None:
    policy(tmp_path, commercial=False, ask='"mit"')
    path = tmp_path / "made.gguf"
    name = str(tmp_path / "folder" if is_folder else path)
    if is_folder:
        (tmp_path / "folder").mkdir()
        path = path.rename(tmp_path / "folder" / "made.gguf")
    LicenceGate(accept=True).check_file(hub.resolve(name, download=False))
    LicenceGate().check_file(hub.resolve(name, download=False))
    write_gguf(path, {"general.architecture": "llama", "general.license": "mit", "general.name": "another"}, [])
    with pytest.raises(LicenceNotAcceptedError, match="made"):
        LicenceGate().check_file(hub.resolve(name, download=False))
