"""`abaci run`: where the prompt comes from, what reaches the model, what is printed."""

import io
import json
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripted_model import ScriptedModel
from typer.testing import CliRunner, Result

from abaci.cli import run as run_module
from abaci.cli.app import app
from abaci.cli.keyboard import line_reader
from abaci.generation import SamplingParams
from abaci.tensor import CacheType


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ScriptedModel:
    scripted = ScriptedModel([["Hel", "lo", "."]])
    monkeypatch.setattr("abaci.cli.run._fetch", lambda name, gate: None)
    monkeypatch.setattr("abaci.cli.run._open", lambda *flags, **more: scripted)
    return scripted


def run(*arguments: str, piped: str | None = None) -> Result:
    return CliRunner().invoke(app, ["run", "any", *arguments], input=piped)


def test_an_answer_goes_to_standard_output_and_figures_to_standard_error(model: ScriptedModel) -> None:
    result = run("Hi")
    assert (result.exit_code, result.stdout) == (0, "Hello.\n")
    introduction, figures = result.stderr.splitlines()
    assert introduction == "scripted | 2 threads | context 128 | portable: Q4_1 Q8_0; float: F32"
    assert "prompt: 12 tokens (2 cached), 100.0/s | answer: 5 tokens, 20.0/s | memory " in figures
    assert figures.startswith("load ")


def test_flags_reach_the_model(model: ScriptedModel) -> None:
    flags = "--max-tokens 7 --temperature 0.5 --top-p 0.9 --top-k 40 --min-p 0.1 --repetition-penalty 1.2 --seed 3"
    run("Hi", *flags.split(), "--stop", "END", "--stop", "###", "--system", "Be brief.")
    [(prompt, params)] = model.asked
    assert prompt == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert params == SamplingParams(
        max_tokens=7,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.1,
        repetition_penalty=1.2,
        seed=3,
        stop=("END", "###"),
    )


def test_unset_flags_are_left_to_the_model(model: ScriptedModel) -> None:
    run("Hi")
    [(_, params)] = model.asked
    assert replace(params, seed=None) == SamplingParams()


def test_a_seed_is_drawn_and_told_even_of_a_cancelled_answer(model: ScriptedModel) -> None:
    model.answers = [["Hello."], ["Hel", KeyboardInterrupt()]]
    told = [json.loads(run("Hi", "--json").stdout.strip()) for _ in range(2)]
    seeds = [params.seed for _, params in model.asked]
    assert [answer["seed"] for answer in told] == seeds
    assert [answer["finish_reason"] for answer in told] == ["stop", "cancelled"]
    assert [answer["figures"]["prompt_tokens"] for answer in told] == [12, 12]
    assert None not in seeds
    assert seeds[0] != seeds[1]


def test_a_prompt_is_read_from_a_pipe(model: ScriptedModel) -> None:
    assert run(piped="What is\nthis?").stdout == "Hello.\n"
    assert model.asked[0][0] == [{"role": "user", "content": "What is\nthis?"}]


def test_an_empty_pipe_is_an_error(model: ScriptedModel) -> None:
    assert run(piped="").exit_code == 2
    assert model.asked == []


def test_raw_sends_the_text_itself(model: ScriptedModel) -> None:
    run("Once upon", "--raw")
    assert model.asked[0][0] == "Once upon"


def test_json_is_one_document(model: ScriptedModel) -> None:
    result: Any = json.loads(run("Hi", "--json", "--seed", "7").stdout)
    assert (result["model"], result["text"], result["finish_reason"]) == ("scripted", "Hello.", "stop")
    assert result["seed"] == 7
    assert result["kernels"] == {"Q4_1": "portable", "Q8_0": "portable", "F32": "float"}
    assert result["figures"]["completion_tokens_per_second"] == pytest.approx(20)
    assert result["figures"]["peak_memory_bytes"] > 1e6


def test_control_c_keeps_what_was_said_and_ends_with_130(model: ScriptedModel) -> None:
    model.answers = [["Hel", KeyboardInterrupt()]]
    result = run("Hi")
    assert (result.exit_code, result.stdout) == (130, "Hel\n")
    assert "answer: 1 token |" in result.stderr
    assert model.num_cancelled == 1


def test_a_parameter_out_of_range_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abaci.cli.run._fetch", lambda name: pytest.fail("fetched"))
    monkeypatch.setattr("abaci.cli.run._open", lambda *flags, **more: pytest.fail("loaded"))
    result = run("Hi", "--top-p", "3")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: top_p is 3.0\nhint: It must be more than 0 and at most 1.\n",
    )
    result = run("Hi", "--quantize", "q9")
    assert (result.exit_code, result.stderr.splitlines()[0]) == (2, "error: type 'q9' is not known")


def test_where_answers_go_to_a_file_the_prompt_does_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = line_reader()
    monkeypatch.setattr(sys, "stdin", io.StringIO("first\n"))
    assert read(">>> ") == "first"
    assert capsys.readouterr() == ("", ">>> ")
    with pytest.raises(EOFError):
        read(">>> ")


@pytest.mark.parametrize("flag", ["--raw", "--json"])
def test_a_conversation_takes_neither_raw_nor_json(
    model: ScriptedModel, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    monkeypatch.setattr(run_module, "question_of", lambda prompt: None)
    result = run(flag)
    assert result.exit_code == 2
    assert flag in result.stderr


def test_the_environment_stands_for_flags_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    def open_scripted(
        name: str, threads: int | None, context: int | None, quantize: str | None, **more: Any
    ) -> ScriptedModel:
        opened.append((name, threads, context, quantize, more["kv_type"], more["adapters"]))
        return ScriptedModel([["Hello."]])

    monkeypatch.setattr("abaci.cli.run._fetch", lambda name, gate: None)
    monkeypatch.setattr("abaci.cli.run._open", open_scripted)
    monkeypatch.setenv("ABACI_THREADS", "1")
    monkeypatch.setenv("ABACI_CONTEXT", "512")
    monkeypatch.setenv("ABACI_KV_TYPE", "int8")
    run("Hi")
    run("Hi", "--threads", "2", "--kv-type", "f16", "--lora", "a.gguf", "--lora", "b=0.5")
    adapters = [(Path("a.gguf"), 1.0), (Path("b"), 0.5)]
    assert opened == [("any", 1, 512, None, CacheType.INT8, []), ("any", 2, 512, None, CacheType.F16, adapters)]


def test_a_scale_that_is_no_number_is_refused_before_loading(model: ScriptedModel) -> None:
    answer = run("Hi", "--lora", "a.gguf=much")
    assert answer.exit_code == 2
    assert "a.gguf=much" in answer.stderr


def test_a_real_model_answers(smollm2_path: Path) -> None:
    """The whole way, from the command to the weights."""
    arguments = ["run", str(smollm2_path), "Say hello.", "--temperature", "0", "--max-tokens", "5", "--threads", "1"]
    answers = [CliRunner().invoke(app, [*arguments, "--json"]) for _ in range(2)]
    first, second = (json.loads(answer.stdout) for answer in answers)
    assert first["text"] == second["text"] != ""
    assert first["figures"]["completion_tokens"] == 5
    assert (first["finish_reason"], first["threads"]) == ("length", 1)


def test_a_remark_of_the_loader_is_a_line(monkeypatch: pytest.MonkeyPatch, smollm2_path: Path) -> None:
    def remarking(*_: Any, **__: Any) -> ScriptedModel:
        warnings.warn("no chat template", stacklevel=2)
        return ScriptedModel([["Hello."]])

    monkeypatch.setattr("abaci.runtime.llm.LLM", remarking)
    result = CliRunner().invoke(app, ["run", str(smollm2_path), "Hi"])
    assert "warning: no chat template\n" in result.stderr


def test_a_download_is_no_part_of_the_load(model: ScriptedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abaci.cli.run._fetch", lambda name, gate: time.sleep(0.5))
    result = run("Hi", "--json")
    assert json.loads(result.stdout)["figures"]["load_seconds"] < 0.5
