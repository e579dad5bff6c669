"""Importance measured by running a text: the mean squares of what matrices are multiplied with."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from abaci.cli.app import app
from abaci.errors import UsageError
from abaci.formats.gguf import GgufCheckpoint
from abaci.kernels.dequantise import dequantise
from abaci.kernels.native import thread_pool
from abaci.models.families import spec_from_gguf
from abaci.models.mixtures import mixture_named
from abaci.quantize.calibrating import calibrate
from abaci.quantize.importance import read_importance
from abaci.quantize.running import OpenedModel, run_text
from abaci.quantize.shapes import shape_named
from abaci.quantize.synthesis import Synthesis, synthesise

TOKENS = np.random.default_rng(0).integers(0, 256, 700).tolist()


def ignore(done: int, total: int) -> None:
    pass


def test_inputs_of_the_first_layer(float_model: Path) -> None:
    with GgufCheckpoint.open(float_model) as checkpoint:
        found = calibrate(checkpoint, TOKENS, "x", thread_pool(2), ignore)
        table = checkpoint.tensors["token_embd.weight"]
        rows = dequantise(table.format, table.shape, checkpoint.data(table))[TOKENS].astype(np.float64)
        spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
        matrices = {name for name, shape in spec.tensors() if len(shape) == 2} - {"token_embd.weight"}
    normed = rows / np.sqrt(np.square(rows).mean(axis=1, keepdims=True) + 1e-5)
    for name in ("attn_q", "attn_k", "attn_v"):
        np.testing.assert_allclose(
            found.mean_squares[f"blk.0.{name}.weight"][0], np.square(normed).mean(axis=0), rtol=1e-4
        )
    assert found.mean_squares.keys() == matrices
    assert found.mean_squares["blk.1.ffn_down.weight"].shape == (1, 512)


def test_threads_do_not_matter(float_model: Path) -> None:
    with GgufCheckpoint.open(float_model) as checkpoint:
        one = calibrate(checkpoint, TOKENS, "x", thread_pool(1), ignore)
        two = calibrate(checkpoint, TOKENS, "x", thread_pool(2), ignore)
    for name, values in one.mean_squares.items():
        np.testing.assert_array_equal(values, two.mean_squares[name])


def test_watching_changes_nothing(float_model: Path) -> None:
    outputs = []
    for observes in (False, True):
        with (
            GgufCheckpoint.open(float_model) as checkpoint,
            OpenedModel(checkpoint, 64, thread_pool(2), observes=observes) as model,
        ):
            (output,) = run_text(model.executor, model.spec, TOKENS[:64])
            outputs.append(output.top_logprobs)
    np.testing.assert_array_equal(*outputs)


def test_experts_are_measured_on_the_tokens_that_chose_them(tmp_path: Path) -> None:
    sizes = {"num_layers": 2, "hidden_size": 256, "mlp_size": 512, "expert_size": 256, "vocab_size": 400}
    experts = {"num_experts": 8, "num_experts_used": 2, "num_heads": 2, "num_kv_heads": 1}
    shape = replace(shape_named("qwen3-moe", "30b-a3b"), **sizes, **experts)
    synthesise(Synthesis("x", shape, mixture_named("f32")), tmp_path / "moe.gguf", progress=ignore)
    with (
        GgufCheckpoint.open(tmp_path / "moe.gguf") as checkpoint,
        OpenedModel(checkpoint, 64, thread_pool(2), observes=True) as model,
    ):
        for _ in run_text(model.executor, model.spec, TOKENS[:64], with_logits=False):
            pass
        observed = model.executor.observed()
    sums, counts = observed["blk.0.ffn_gate_exps.weight"]
    assert sums.shape == (8, 256)
    assert counts.sum() == 2 * 64
    plain, plain_counts = observed["blk.0.ffn_gate_inp.weight"]
    assert plain_counts.tolist() == [64]
    # Each token's input goes to two experts.
    np.testing.assert_allclose(sums.sum(axis=0), 2 * plain[0], rtol=1e-5)
    assert observed["blk.0.ffn_down_exps.weight"][0].shape == (8, 256)
    with GgufCheckpoint.open(tmp_path / "moe.gguf") as checkpoint:
        found = calibrate(checkpoint, TOKENS[:130], "x", thread_pool(2), ignore)
        expected = found.of(checkpoint.tensors["blk.0.ffn_gate_exps.weight"])
    assert expected is not None
    assert len(np.unique(expected, axis=0)) > 1


def test_a_text_that_says_nothing_is_refused(float_model: Path) -> None:
    with GgufCheckpoint.open(float_model) as checkpoint, pytest.raises(UsageError, match="12 tokens"):
        calibrate(checkpoint, TOKENS[:12], "x", thread_pool(1), ignore)


def test_command_line(float_model: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("some words about nothing in particular, again and again. " * 20)
    made, kept, text = (str(tmp_path / name) for name in ("made.gguf", "kept.gguf", "text.txt"))
    arguments = ["quantize", str(float_model), made, "--type", "q3_k_m", "--no-measure", "--json"]
    run = CliRunner()
    result = run.invoke(app, [*arguments, "--calibrate", text, "--save-imatrix", kept])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["type"] == "Q3_K_M"
    assert read_importance(Path(kept)).mean_squares.keys() >= {"blk.0.attn_q.weight"}
    first = Path(made).read_bytes()
    again = run.invoke(app, [*arguments, "--force", "--imatrix", kept])
    assert again.exit_code == 0, again.output
    second = Path(made).read_bytes()
    assert first[-10_000:] == second[-10_000:]
    both = run.invoke(app, [*arguments, "--force", "--imatrix", kept, "--calibrate", text])
    assert both.exit_code == UsageError.exit_code
