"""The verbs that tell before they do: fit, recommend, and top, which tells afterwards."""

import json
from datetime import UTC, datetime

import pytest
from golden_models import golden_path
from typer.testing import CliRunner

from abaci.cli import top as top_command
from abaci.cli.app import app
from abaci.kernels.ceilings import Ceilings
from abaci.kernels.rates import FormatRates, StepRates
from abaci.runtime import machine_rates as measured
from abaci.runtime.journal import Journal, UsedModel
from abaci.runtime.machine_rates import MachineRates


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("ABACI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ABACI_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("ABACI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("ABACI_OFFLINE", "1")
    monkeypatch.setenv("ABACI_JOURNAL", "1")


@pytest.fixture(autouse=True)
def _fixed_rates(monkeypatch):
    def measure(formats, threads, target, known, tell):
        tell("measuring")
        rates = dict.fromkeys(formats, FormatRates(20e9, 500e9, 20e9))
        return MachineRates(0, 0, Ceilings(25e9, 1e12), 2e-5, StepRates(5e-6, 1e-9, 0.9, 5e10, 1e11), rates)

    monkeypatch.setattr(measured, "measure_rates", measure)


def abaci(*arguments):
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.stderr
    return result


def test_fit_of_a_file():
    result = abaci("fit", str(golden_path("llama")), "--context", "64")
    assert "verdict" in result.stdout
    assert "tokens/s" in result.stdout
    assert "measuring" in result.stderr
    document = json.loads(abaci("fit", str(golden_path("llama")), "--json").stdout)
    assert document["basis"] == "file"
    assert document["memory"]["verdict"] == "fits"
    assert document["speed"]["decode_tokens_per_second"] > 0


def test_fit_of_a_catalog_model_offline():
    document = json.loads(abaci("fit", "qwen2.5:7b", "--json").stdout)
    assert document["basis"] == "catalog"
    assert document["memory"]["weight_bytes"] > 4e9


def test_a_model_too_large_has_no_speed(monkeypatch):
    monkeypatch.setattr("abaci.runtime.fit.total_memory_bytes", lambda: 1 << 30)
    monkeypatch.setattr("abaci.runtime.fit.available_memory_bytes", lambda: 1 << 29)
    document = json.loads(abaci("fit", "qwen2.5:7b", "--json").stdout)
    assert document["memory"]["verdict"] == "too_large"
    assert document["speed"] is None
    assert "too large for this machine" in abaci("fit", "qwen2.5:7b").stdout
    refused = CliRunner().invoke(app, ["pull", "qwen2.5:7b"])
    assert refused.exit_code == 6
    assert "cannot run here" in refused.stderr


def test_recommend():
    result = abaci("recommend", "--task", "chat", "--max-memory", "8GB", "--min-speed", "1")
    assert "ahead of" in result.stdout
    document = json.loads(abaci("recommend", "--max-memory", "8GB", "--limit", "3", "--json").stdout)
    assert len(document["models"]) <= 3
    assert all(one["memory"]["total_bytes"] <= 8e9 for one in document["models"])
    for arguments in (["--task", "dancing"], ["--max-memory", "much"]):
        assert CliRunner().invoke(app, ["recommend", *arguments]).exit_code == 2


def test_top():
    assert "Nothing has run here" in abaci("top").stdout
    today = datetime.now(UTC).date().isoformat()
    Journal.of_this_user().append(
        [UsedModel(today, "qwen2.5:7b", 3, 1000, 0, 500), UsedModel(today, "mine", 1, 1, 0, 0)]
    )
    text = abaci("top").stdout
    assert "qwen2.5:7b" in text
    assert "1,500" in text
    document = json.loads(abaci("top", "--by", "family", "--since", "all", "--json").stdout)
    assert [row["name"] for row in document["rows"]] == ["Qwen2.5", "other"]
    for arguments in (["--by", "moon"], ["--since", "soon"]):
        assert CliRunner().invoke(app, ["top", *arguments]).exit_code == 2


def test_top_asks_the_hub_only_when_told_to(monkeypatch):
    today = datetime.now(UTC).date().isoformat()
    Journal.of_this_user().append([UsedModel(today, "qwen2.5:7b", 1, 10, 0, 5)])
    asked = []

    def answer(repositories, network):
        asked.extend(repositories)
        return dict.fromkeys(repositories, 1234)

    monkeypatch.setattr("abaci.hub.popularity.download_counts", answer)
    assert "HUB" not in abaci("top").stdout
    assert asked == []
    assert "1,234" in abaci("top", "--hub").stdout
    assert asked == ["Qwen/Qwen2.5-7B-Instruct"]


def test_looking_makes_no_database(tmp_path):
    abaci("top")
    assert not (tmp_path / "state").exists()


def test_bars_and_columns_show_the_smallest():
    assert top_command._bar(1, 10_000) != ""
    assert top_command._bar(0, 10_000) == ""
    assert top_command._bar(10, 10) == "█" * 10
    assert top_command._sparkline((0, 1, 1000, 500)) == " ▁█▄"
