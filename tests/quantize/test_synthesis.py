"""Files of random values: the published number of weights, a model that runs, the same file for the same seed."""

import shutil
from dataclasses import replace
from math import prod
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from abaci.cli.app import app
from abaci.engine.loader import CheckpointTensors
from abaci.errors import UsageError
from abaci.formats.gguf import GgufCheckpoint
from abaci.kernels.native import NativeExecutor, thread_pool
from abaci.models.families import spec_from_gguf
from abaci.models.mixtures import mixture_named
from abaci.quantize.measuring import log_probabilities
from abaci.quantize.running import make_room
from abaci.quantize.shapes import Shape, known_sizes, shape_named
from abaci.quantize.synthesis import Synthesis, synthesise

BILLIONS = {
    ("qwen2.5", "0.5b"): 0.494,
    ("qwen2.5", "7b"): 7.616,
    ("qwen2.5", "72b"): 72.71,
    ("qwen3", "0.6b"): 0.596,
    ("qwen3", "8b"): 8.19,
    ("qwen3-moe", "30b-a3b"): 30.53,
    ("qwen3-moe", "235b-a22b"): 235.1,
    ("llama3", "1b"): 1.236,
    ("llama3", "8b"): 8.03,
    ("llama3", "405b"): 405.9,
    ("mistral", "7b"): 7.248,
    ("mistral", "12b"): 12.25,
    ("mistral", "24b"): 23.57,
    ("mixtral", "8x7b"): 46.70,
    ("gemma3", "270m"): 0.268,
    ("gemma3", "1b"): 1.0,
    ("gemma3", "27b"): 27.01,
    ("gpt-oss", "20b"): 20.91,
    ("gpt-oss", "120b"): 116.8,
    ("deepseek", "v2-lite"): 15.7,
    ("deepseek", "v3"): 671.0,
}
SMALL = replace(
    shape_named("qwen2.5", "0.5b"), num_layers=3, hidden_size=256, num_heads=4, mlp_size=512, vocab_size=2000
)


def ignore(done: int, total: int) -> None:
    pass


def order(name: str = "q4_k_m", shape: Shape = SMALL, seed: int = 0, is_pure: bool = False) -> Synthesis:
    return Synthesis("small", shape, mixture_named(name), seed, is_pure)


@pytest.mark.parametrize(("family", "size"), BILLIONS)
def test_shapes_have_the_published_number_of_weights(family: str, size: str) -> None:
    found = sum(prod(shape) for _, shape in shape_named(family, size).tensors()) / 1e9
    assert found == pytest.approx(BILLIONS[family, size], rel=0.005)


def test_every_shape_can_be_read() -> None:
    for family, sizes in known_sizes().items():
        for size in sizes:
            names = [name for name, _ in shape_named(family, size).tensors()]
            assert len(names) == len(set(names))


def test_unknown_names_are_told_what_there_is() -> None:
    with pytest.raises(UsageError, match="qwen9") as unknown:
        shape_named("qwen9", "7b")
    assert unknown.value.hint is not None
    assert "llama3" in unknown.value.hint
    with pytest.raises(UsageError, match="9b"):
        shape_named("llama3", "9b")


@pytest.mark.parametrize("name", ["q4_k_m", "q4_0", "q2_k", "iq4_xs", "bf16", "q8_0"])
def test_a_file_runs_and_its_logits_differ(name: str, tmp_path: Path) -> None:
    path = tmp_path / "made.gguf"
    num_bytes = synthesise(order(name), path, progress=ignore)
    with GgufCheckpoint.open(path) as checkpoint:
        assert sum(tensor.num_bytes for tensor in checkpoint.tensors.values()) == num_bytes
        spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
        token_ids = checkpoint.tokenizer().encode("ab hello")
        tensors = CheckpointTensors(checkpoint)
        executor = NativeExecutor(spec, tensors, max_step_tokens=64, pool=thread_pool(1))
        make_room(executor, spec, len(token_ids))
        logits = np.concatenate(list(log_probabilities(executor, spec, token_ids)))
        executor.close()
    assert logits.shape == (len(token_ids), SMALL.vocab_size)
    assert np.isfinite(logits).all()
    assert 0.3 < logits.std(axis=1).min() < logits.std(axis=1).max() < 3
    assert len(set(logits[-1].tolist())) > 0.8 * SMALL.vocab_size  # rows of one block repeat


def test_the_seed_is_the_file(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        synthesise(order(seed=seed), tmp_path / name, progress=ignore)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_pure_is_one_format(tmp_path: Path) -> None:
    synthesise(order("q4_0", is_pure=True), tmp_path / "made.gguf", progress=ignore)
    with GgufCheckpoint.open(tmp_path / "made.gguf") as checkpoint:
        matrices = [tensor for tensor in checkpoint.tensors.values() if len(tensor.shape) == 2]
        assert {tensor.format.label for tensor in matrices} == {"Q4_0"}


def test_experts_are_stacked(tmp_path: Path) -> None:
    shape = replace(
        shape_named("qwen3-moe", "30b-a3b"),
        num_layers=1,
        hidden_size=256,
        mlp_size=512,
        expert_size=256,
        vocab_size=999,
    )
    limited = order(shape=shape).with_limits(num_experts=16)
    synthesise(limited, tmp_path / "made.gguf", progress=ignore)
    with GgufCheckpoint.open(tmp_path / "made.gguf") as checkpoint:
        down = checkpoint.tensors["blk.0.ffn_down_exps.weight"]
        assert (down.shape, down.format.label) == ((16, 256, 256), "Q6_K")
        assert checkpoint.tensors["blk.0.ffn_gate_inp.weight"].format.label == "F32"
        assert checkpoint.metadata["qwen3moe.expert_count"] == 16


@pytest.mark.parametrize("limits", [{"num_layers": 4}, {"num_layers": 0}, {"num_experts": 2}])
def test_a_shape_is_cut_only_where_it_can_be(limits: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="cannot have"):
        order().with_limits(**limits)


def test_experts_are_cut_in_whole_groups() -> None:
    deepseek = Synthesis("deepseek v3", shape_named("deepseek", "v3"), mixture_named("q4_0"))
    with pytest.raises(UsageError, match="8 groups, which 12 experts do not fill") as raised:
        deepseek.with_limits(num_experts=12)
    assert raised.value.hint == "Give a multiple of 8."
    assert deepseek.with_limits(num_layers=4, num_experts=16).shape.num_experts == 16


def test_command_line(tmp_path: Path) -> None:
    path = tmp_path / "made.gguf"
    arguments = [
        "synth",
        "gemma3",
        "--size",
        "270m",
        "--layers",
        "1",
        "--type",
        "q4_0",
        "--context",
        "512",
        "-o",
        str(path),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    with GgufCheckpoint.open(path) as checkpoint:
        assert checkpoint.metadata["gemma3.context_length"] == 512
        assert checkpoint.metadata["gemma3.block_count"] == 1
    assert CliRunner().invoke(app, arguments).exit_code == UsageError.exit_code


def test_a_disk_without_room_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    arguments = ["synth", "qwen2.5", "--size", "0.5b", "--layers", "1", "--output", str(tmp_path / "made.gguf")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 6
    assert result.stderr.startswith(f"error: {tmp_path} has 0 MB free, made.gguf takes ")
    assert list(tmp_path.iterdir()) == []
