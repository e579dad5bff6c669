"""`abaci licence` and `abaci sbom`, and how pull, run and serve keep to a policy."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from typer.testing import CliRunner, Result

from abaci.cli.app import app
from abaci.cli.licence_gate import conditions_of, without_denied
from abaci.formats.gguf import write_gguf
from abaci.hub import ResolvedModel, load_catalog
from abaci.hub.licences import ModelFacts

NON_COMMERCIAL = "[use]\ncommercial = true\n"
ASKS = '[licences]\nask = ["mit"]\n'


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ABACI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.delenv("ABACI_LICENCE_POLICY", raising=False)
    return tmp_path / "home"


def abaci(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def model_file(folder: Path, **metadata: Any) -> str:
    """A file that says of itself what it is told to, and holds nothing."""
    path = folder / "model.gguf"
    named = {f"general.{name.replace('__', '.')}": value for name, value in metadata.items()}
    write_gguf(path, {"general.architecture": "llama", **named}, [])
    return str(path)


def policy_file(folder: Path, text: str) -> str:
    path = folder / "policy.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("licence", "policy", "decision", "exit_code"),
    [
        ("apache-2.0", NON_COMMERCIAL, "allow", 0),
        ("never-heard-of", NON_COMMERCIAL, "ask", 3),
        ("qwen-research", NON_COMMERCIAL, "deny", 4),
        ("qwen-research", "[use]\ncommercial = false\n", "allow", 0),
    ],
)
def test_the_contract(tmp_path: Path, licence: str, policy: str, decision: str, exit_code: int) -> None:
    model = model_file(tmp_path, license="other", license__name=licence)
    result = abaci("licence", model, "--policy", policy_file(tmp_path, policy), "--json")
    document = json.loads(result.stdout)
    assert (document["decision"], result.exit_code) == (decision, exit_code)
    assert {"licences", "obligations", "reasons"} <= set(document)
    assert "no legal advice" in document["disclaimer"]
    assert all(isinstance(reason, str) for reason in document["reasons"])
    text = abaci("licence", model, "--policy", policy_file(tmp_path, policy))
    assert text.exit_code == exit_code
    assert "no legal advice" in text.stdout
    assert f"model: {decision}" in text.stdout


def test_a_refusal_has_the_clause(tmp_path: Path) -> None:
    model = model_file(tmp_path, license="cc-by-nc-4.0")
    result = abaci("licence", model, "--policy", policy_file(tmp_path, NON_COMMERCIAL))
    assert "sections 1 and 2(a)(1): The material may be used for noncommercial purposes only" in result.stdout


def test_bases_are_inherited_and_disagreement_is_flagged(tmp_path: Path) -> None:
    model = model_file(
        tmp_path,
        license="mit",
        base_model__count=1,
        base_model__0__repo_url="https://huggingface.co/meta-llama/Llama-3.1-8B",
    )
    document = json.loads(abaci("licence", model, "--json").stdout)
    assert document["licences"] == "MIT AND LicenseRef-scancode-llama-3.1-license-2024"
    assert "Built with Llama" in {obligation.get("text") for obligation in document["obligations"]}
    assert document["decision"] == "allow"
    mislabelled = model_file(tmp_path, license="apache-2.0", name="Qwen2.5 3B Instruct")
    result = abaci("licence", mislabelled, "--json")
    assert (json.loads(result.stdout)["decision"], result.exit_code) == ("ask", 3)


def test_a_model_of_the_catalog_need_not_be_here() -> None:
    document = json.loads(abaci("licence", "gemma3:270m", "--json").stdout)
    assert document["licences"] == "LicenseRef-scancode-gemma-tou-2024-04-01"
    assert document["policy"] is None
    assert abaci("licence", "gemma3:271m").exit_code == 1


def test_a_notice(tmp_path: Path) -> None:
    result = abaci("licence", model_file(tmp_path, license="gemma"), "--notice")
    assert result.exit_code == 0
    assert "Gemma is provided under and subject to the Gemma Terms of Use" in result.stdout


def test_a_bill_of_materials(tmp_path: Path) -> None:
    result = abaci("sbom", model_file(tmp_path, license="apache-2.0", name="A model"))
    assert result.exit_code == 0, result.stderr
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(result.stdout) is None
    assert json.loads(result.stdout)["metadata"]["component"]["licenses"] == [{"expression": "Apache-2.0"}]


@pytest.mark.parametrize("verb", [["pull"], ["run"], ["serve", "--port", "0"]])
def test_a_denied_model_is_not_even_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path, verb: list[str]
) -> None:
    monkeypatch.setenv("ABACI_LICENCE_POLICY", policy_file(tmp_path, '[licences]\ndeny = ["gemma"]'))
    result = abaci(*verb, "gemma3:270m", *(["hello"] if verb == ["run"] else []))
    assert result.exit_code == 4
    assert "the policy denies LicenseRef-scancode-gemma-tou-2024-04-01" in result.stderr
    assert not home.exists()


def test_a_denied_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABACI_LICENCE_POLICY", policy_file(tmp_path, NON_COMMERCIAL))
    result = abaci("run", model_file(tmp_path, license="cc-by-nc-4.0"), "hello")
    assert result.exit_code == 4
    assert "noncommercial" in result.stderr


def test_what_is_asked_about_is_accepted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("ABACI_LICENCE_POLICY", policy_file(tmp_path, ASKS))
    model = model_file(tmp_path, license="mit")
    refused = abaci("run", model, "hello")
    assert refused.exit_code == 3
    assert "the policy asks about MIT" in refused.stderr
    assert "--accept-licence" in refused.stderr
    log = home / "licences" / "accepted.jsonl"
    assert not log.exists()

    accepted = abaci("run", model, "hello", "--accept-licence")
    assert "must be accepted" not in accepted.stderr  # it fails later: the file holds no tensors
    assert [json.loads(line)["how"] for line in log.read_text().splitlines()] == ["flag"]
    assert "must be accepted" not in abaci("run", model, "hello").stderr
    assert len(log.read_text().splitlines()) == 1

    model_file(tmp_path, license="gemma", name="Another")
    assert abaci("run", model, "hello").exit_code != 3  # ask is about MIT alone
    policy_file(tmp_path, '[licences]\nask = ["mit", "gemma"]\n')
    assert abaci("run", model, "hello").exit_code == 3  # another question


@pytest.mark.parametrize("answer", [True, False])
def test_the_person_at_the_terminal_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path, answer: bool
) -> None:
    monkeypatch.setenv("ABACI_LICENCE_POLICY", policy_file(tmp_path, ASKS))
    monkeypatch.setattr("abaci.cli.licence_gate.somebody_is_there", lambda: True)
    monkeypatch.setattr(typer, "confirm", lambda *_, **__: answer)
    result = abaci("run", model_file(tmp_path, license="mit"), "hello")
    assert "The licence policy asks" in result.stderr
    assert "no legal advice" in result.stderr
    assert (result.exit_code == 3) is not answer
    assert (home / "licences" / "accepted.jsonl").exists() is answer


@pytest.mark.parametrize(
    ("facts", "remark"),
    [
        (ModelFacts("m", catalog="MIT"), None),
        (ModelFacts("m", catalog="gemma"), None),
        (ModelFacts("m", catalog="qwen-research"), "has conditions (commercial-use): abaci licence m"),
        (ModelFacts("m", catalog="llama3.1"), "has conditions (monthly-users)"),
        (ModelFacts("m"), "NOASSERTION, is not certain"),
        (ModelFacts("m", catalog="MIT", metadata="gemma"), "is not certain"),
    ],
)
def test_who_fetches_a_model_with_conditions_is_told(
    monkeypatch: pytest.MonkeyPatch, facts: ModelFacts, remark: str | None
) -> None:
    monkeypatch.setattr("abaci.hub.licences.model_facts.facts_of_origin", lambda resolved: facts)
    told = conditions_of(ResolvedModel(Path("m.gguf"), "m", None, None, "", None))
    assert (told is None) is (remark is None)
    assert remark is None or (told is not None and remark in told)


def test_without_a_policy_nothing_is_asked(tmp_path: Path, home: Path) -> None:
    for licence in ("cc-by-nc-4.0", "never-heard-of"):
        result = abaci("run", model_file(tmp_path, license=licence), "hello")
        assert result.exit_code not in (3,), result.stderr
        assert "licence" not in result.stderr
    assert not (home / "licences").exists()


def test_a_policy_that_cannot_be_read_stops_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABACI_LICENCE_POLICY", str(tmp_path / "none.toml"))
    result = abaci("run", model_file(tmp_path, license="mit"), "hello")
    assert result.exit_code == 2
    assert "none.toml" in result.stderr


def test_what_is_denied_is_not_recommended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = load_catalog()
    assert without_denied(catalog) is catalog
    monkeypatch.setenv("ABACI_LICENCE_POLICY", policy_file(tmp_path, NON_COMMERCIAL))
    left = set(without_denied(catalog).models)
    gone = set(catalog.models) - left
    assert {"qwen2.5:3b", "qwen2.5-coder:3b"} <= gone
    assert {"qwen2.5:7b", "smollm2:135m", "deepseek-r1:8b", "gemma3:270m"} <= left


def test_a_policy_among_the_settings_counts(tmp_path: Path) -> None:
    settings = tmp_path / "settings" / "abaci"
    settings.mkdir(parents=True)
    (settings / "licence-policy.toml").write_text('[licences]\ndeny = ["mit"]\n')
    assert abaci("licence", model_file(tmp_path, license="mit")).exit_code == 4


def test_an_error_is_not_taken_for_a_decision(tmp_path: Path) -> None:
    damaged = Path(model_file(tmp_path, license="mit"))
    damaged.write_bytes(damaged.read_bytes()[:40])
    for model in ("no-such-model:1b", str(tmp_path / "none.gguf"), str(damaged)):
        result = abaci("licence", model, "--json")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "hint: " in result.stderr
