"""The command as a whole: start, errors, exit codes, the verbs around the store."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from abaci.cli.app import app
from abaci.hub import load_catalog
from abaci.version import __version__


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABACI_HOME", str(tmp_path / "home"))


def abaci(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def abaci_json(*arguments: str) -> Any:
    result = abaci(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def loaded_by(*arguments: str) -> tuple[str, set[str]]:
    """What a command prints, and the modules it has loaded when it leaves."""
    program = (
        "import os, sys\n"
        "from abaci.cli import main\n"
        "def leave(code=0):\n"
        "    print(*(m for m in sys.modules if not m.startswith('_')), file=sys.stderr, flush=True)\n"
        "    leave_at_once(code)\n"
        "os._exit, leave_at_once = leave, os._exit\n"
        f"sys.argv = ['abaci', *{arguments!r}]\n"
        "main()\n"
        "leave()"
    )
    result = subprocess.run([sys.executable, "-uc", program], capture_output=True, text=True, check=True)
    return result.stdout, set(result.stderr.split())


def test_version_comes_at_once_and_loads_nothing_heavy() -> None:
    printed, loaded = loaded_by("--version")
    assert printed == f"abaci {__version__}\n"
    own = {module for module in loaded if module.startswith("abaci")}
    assert own == {"abaci", "abaci.cli", "abaci.cli.streams", "abaci.version"}
    assert not loaded & {"numpy", "typer", "rich", "huggingface_hub", "tokenizers", "jinja2", "asyncio"}


def test_help_loads_nothing_heavy() -> None:
    printed, loaded = loaded_by("--help")
    assert "--version" in printed
    assert "abaci.cli.app" in loaded
    assert not loaded & {"numpy", "rich", "huggingface_hub", "tokenizers", "jinja2", "asyncio", "abaci.hub"}
    assert not [module for module in loaded if module.startswith(("abaci.kernels", "abaci.engine", "abaci.runtime"))]


def test_numpy_gets_no_threads_unless_the_user_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import os, sys\n"
        "from abaci.cli import main\n"
        "os._exit = lambda code: print(os.environ['OPENBLAS_NUM_THREADS'])\n"
        "sys.argv = ['abaci', 'list', '--json']\n"
        "main()"
    )

    def num_threads() -> str:
        return subprocess.check_output([sys.executable, "-c", program], text=True).splitlines()[-1]

    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    assert num_threads() == "1"
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    assert num_threads() == "3"


@pytest.mark.parametrize("arguments", [("--version", "--json"), ("--json", "--version")])
def test_the_version_comes_as_json_too(arguments: tuple[str, str]) -> None:
    printed, loaded = loaded_by(*arguments)
    assert json.loads(printed) == {"version": __version__}
    assert "typer" not in loaded


def test_a_home_that_is_no_folder_is_not_said_to_be_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.touch()
    monkeypatch.setenv("ABACI_HOME", str(home))
    result = abaci("list")
    assert (result.exit_code, result.stdout) == (6, "")
    assert result.stderr.startswith(f"error: {home}/models: Not a directory\nhint: ABACI_HOME ")


def test_output_that_cannot_be_written_is_an_error() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "abaci", "list", "--catalog"]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    error, hint = result.stderr.splitlines()
    assert (result.returncode, error) == (6, "error: No space left on device")
    assert hint.startswith("hint: ")


def test_a_reader_that_leaves_is_no_error_worth_a_word() -> None:
    command = [sys.executable, "-m", "abaci", "list", "--catalog"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_version_takes_less_than_three_tenths_of_a_second() -> None:
    def seconds() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "abaci", "--version"], check=True, capture_output=True)
        return time.perf_counter() - started

    assert min(seconds() for _ in range(5)) < 0.3


@pytest.mark.parametrize(
    ("arguments", "exit_code", "error", "hint"),
    [
        (["show", "qwen2.5"], 3, "error: no model is called 'qwen2.5'", "hint: Did you mean qwen2.5:0.5b, "),
        (["run", "qwen", "hello"], 3, "error: no model is called 'qwen'", "hint: Did you mean qwen"),
        (["rm", "smollm2:135m"], 3, "error: smollm2:135m is not here", "hint: Fetch it: abaci pull smollm2:135m"),
        (["verify", "nothing"], 3, "error: no model is called 'nothing'", "hint: "),
        (["run", "smollm2:135m", ""], 2, "error: the prompt is empty", "hint: "),
        (
            ["run", "smollm2:135m", "x", "--raw", "--system", "y"],
            2,
            "error: --system has no place in a --raw",
            "hint: ",
        ),
    ],
)
def test_an_error_is_a_line_a_hint_and_a_code(arguments: list[str], exit_code: int, error: str, hint: str) -> None:
    result = abaci(*arguments)
    lines = result.stderr.splitlines()
    assert (result.exit_code, result.stdout, len(lines)) == (exit_code, "", 2)
    assert lines[0].startswith(error)
    assert lines[1].startswith(hint)


@pytest.mark.parametrize("name", ["qwen3:0.6c", "qwen", "xyzzy", "./none.gguf"])
def test_every_verb_answers_an_unknown_name_in_the_same_words(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABACI_OFFLINE", "1")
    told = abaci("run", name, "hello").stderr
    assert len(told.splitlines()) == 2
    for verb in ("bench", "fit", "licence", "pull", "rm", "serve", "show", "verify"):
        assert abaci(verb, name).stderr == told, verb
    for verb, *more in (("fit", "--check"), ("convert", "to.gguf"), ("quantize", "to.gguf", "--type", "q4_0")):
        assert abaci(verb, name, *more).stderr == told, verb
    assert abaci("cp", name, "other").stderr == told


def test_a_flag_that_is_none_is_a_usage_error() -> None:
    result = abaci("list", "--nothing")
    assert result.exit_code == 2
    assert "--nothing" in result.stderr


def test_control_c_ends_cleanly(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("abaci.hub.load_catalog", interrupt)
    result = abaci("list")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "\ninterrupted\n")


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"not a model at all")
    result = abaci("show", str(tmp_path / "broken.gguf"))
    assert result.exit_code == 4
    assert "broken.gguf" in result.stderr


def test_a_model_from_pull_to_rm(smollm2_path: Path) -> None:
    name = "smollm2:135m"
    assert abaci_json("list") == []
    assert "abaci search" in abaci("list").stderr
    pulled = abaci_json("pull", name, "--from", str(smollm2_path))
    assert pulled["num_bytes"] == smollm2_path.stat().st_size
    assert [(model["name"], model["num_bytes"]) for model in abaci_json("list")] == [(name, pulled["num_bytes"])]
    of_catalog = abaci_json("list", "--catalog")
    assert [model["name"] for model in of_catalog if model["path"]] == [name]
    assert {model["name"] for model in of_catalog} == load_catalog().models.keys()
    assert any(line.startswith(name) for line in abaci("list").stdout.splitlines())
    assert "yes" in next(line for line in abaci("list", "--catalog").stdout.splitlines() if line.startswith(name))
    assert abaci_json("verify") == abaci_json("verify", name)
    assert abaci_json("verify")[0]["sha256"] == pulled["sha256"]
    assert abaci_json("rm", name) == {"name": name, "freed_bytes": pulled["num_bytes"]}
    assert abaci("show", name).exit_code == 3


def test_verify_finds_a_flipped_bit(smollm2_path: Path) -> None:
    path = Path(abaci_json("pull", "smollm2:135m", "--from", str(smollm2_path))["path"])
    with path.open("r+b") as file:
        file.seek(50_000_000)
        [byte] = file.read(1)
        file.seek(50_000_000)
        file.write(bytes([byte ^ 1]))
    result = abaci("verify")
    assert result.exit_code == 5
    assert "abaci verify --repair smollm2:135m" in result.stderr


def test_show_tells_what_is_in_a_file(smollm2_path: Path) -> None:
    abaci_json("pull", "smollm2:135m", "--from", str(smollm2_path))
    shown = abaci_json("show", "smollm2:135m")
    assert (shown["architecture"], shown["context_length"], shown["licence"]) == ("llama", 8192, "Apache-2.0")
    assert {label: count["num_tensors"] for label, count in shown["tensors"].items()} == {
        "Q4_1": 210,
        "F32": 61,
        "Q8_0": 1,
    }
    assert shown["sha256"].startswith("b179c9523d0e")
    assert shown["chat_template_from"] == "file"
    text = abaci("show", "smollm2:135m").stdout
    for part in ("llama", "210 Q4_1", "8192 tokens", "Apache-2.0", "b179c9523d0e", "<|im_start|>"):
        assert part in text


def test_python_dash_m_is_the_command() -> None:
    result = subprocess.run([sys.executable, "-m", "abaci", "--help"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("Usage: abaci ")
    for verb in ("run", "pull", "list", "show", "rm", "verify"):
        assert f"\n  {verb} " in result.stdout
