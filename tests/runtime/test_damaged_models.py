"""Model files that are damaged, incomplete or of unknown kind, as callers of `LLM` and users of `abaci` meet them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_models import GOLDEN_NAMES, golden_path

from abaci import LLM, SamplingParams
from abaci.errors import AbaciError, FileFormatError, UnsupportedModelError
from abaci.formats.gguf import GgufCheckpoint, write_gguf

Tensor = tuple[str, Any, tuple[int, ...], bytes]
Change = Callable[[dict[str, Any], dict[str, Tensor]], None]

GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)


def changed_model(name: str, folder: Path, change: Change) -> Path:
    """A golden model with its metadata and tensors changed in place by `change`."""
    with GgufCheckpoint.open(golden_path(name)) as checkpoint:
        metadata = dict(checkpoint.metadata)
        tensors: dict[str, Tensor] = {}
        for tensor in checkpoint.tensors.values():
            with checkpoint.data(tensor) as data:
                tensors[tensor.name] = (tensor.name, tensor.format, tensor.shape, data.tobytes())
    change(metadata, tensors)
    path = folder / "changed.gguf"
    write_gguf(path, metadata, list(tensors.values()))
    return path


def not_finite(data: bytes) -> bytes:
    """The same number of bytes, all ones: a scale that is no number, whatever the format."""
    return b"\xff" * len(data)


def with_nan_in(tensor_name: str) -> Change:
    def change(_: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        name, weight_format, shape, data = tensors[tensor_name]
        tensors[tensor_name] = (name, weight_format, shape, not_finite(data))

    return change


def without_tensor(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    del tensors["blk.1.ffn_up.weight"]


def with_another_shape(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    name, weight_format, (rows, columns), data = tensors["blk.0.attn_k.weight"]
    tensors[name] = (name, weight_format, (rows // 2, columns), data[: len(data) // 2])


def of_another_architecture(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    metadata["general.architecture"] = "mamba"


def without_layers(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    del metadata[f"{metadata['general.architecture']}.block_count"]


def without_vocabulary(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    del metadata["tokenizer.ggml.tokens"]


REFUSED = {
    "missing tensor": (without_tensor, "blk.1.ffn_up.weight"),
    "wrong shape": (with_another_shape, "blk.0.attn_k.weight"),
    "unknown architecture": (of_another_architecture, "mamba"),
    "missing setting": (without_layers, "block_count"),
    "missing vocabulary": (without_vocabulary, "tokenizer.ggml.tokens"),
    "matrix not finite": (with_nan_in("blk.1.ffn_down.weight"), "blk.1.ffn_down.weight"),
    "norm not finite": (with_nan_in("blk.0.attn_norm.weight"), "blk.0.attn_norm.weight"),
}


@pytest.mark.parametrize("name", GOLDEN_NAMES)
@pytest.mark.parametrize(("change", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_a_model_that_cannot_run_is_refused_with_a_reason_and_a_hint(
    name: str, change: Change, named: str, tmp_path: Path
) -> None:
    path = changed_model(name, tmp_path, change)
    with pytest.raises(FileFormatError, match=named) as caught:
        LLM(path)
    assert caught.value.hint
    assert caught.value.message.startswith(f"{path}: ")
    assert isinstance(caught.value, UnsupportedModelError) == (named == "mamba")


def test_an_embedding_row_that_is_not_finite_fails_the_request_that_needs_it(tmp_path: Path) -> None:
    """Rows of an untied embedding are read as they are needed, so the damage shows at run time only."""

    def damage_a_row(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        tensor_name, weight_format, shape, data = tensors["token_embd.weight"]
        row_bytes = len(data) // shape[0]
        damaged = data[: 5 * row_bytes] + not_finite(data[:row_bytes]) + data[6 * row_bytes :]
        tensors[tensor_name] = (tensor_name, weight_format, shape, damaged)

    with LLM(changed_model("qwen2", tmp_path, damage_a_row)) as llm:
        sound, damaged = [7, 8, 9], [7, 5, 9]
        expected = llm.generate(sound, GREEDY).token_ids
        result = llm.generate(damaged, GREEDY)
        assert isinstance(result.error, FileFormatError)
        assert "embedding" in result.error.message
        assert "abaci verify" in (result.error.hint or "")
        with pytest.raises(FileFormatError, match="embedding"):
            list(llm.stream(damaged, GREEDY))
        assert llm.generate(sound, GREEDY).token_ids == expected


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_a_truncated_model_is_refused_wherever_it_ends(name: str, tmp_path: Path) -> None:
    whole = golden_path(name).read_bytes()
    path = tmp_path / "cut.gguf"
    for part in range(25):
        path.write_bytes(whole[: len(whole) * part // 25])
        with pytest.raises(FileFormatError, match=r"cut\.gguf"):
            LLM(path)


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_a_flipped_bit_gives_an_answer_or_a_clear_error(name: str, tmp_path: Path) -> None:
    """Most bits of a file are weights, where a flip is no error; none may end in anything else than an AbaciError."""
    random = np.random.default_rng(1)
    whole = golden_path(name).read_bytes()
    with GgufCheckpoint.open(golden_path(name)) as checkpoint:
        head_bytes = min(tensor.offset for tensor in checkpoint.tensors.values())
    places = [*random.integers(0, head_bytes, 40), *random.integers(head_bytes, len(whole), 10)]
    path = tmp_path / "flipped.gguf"
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(random.integers(0, 8))
        path.write_bytes(flipped)
        try:
            with LLM(path, context=32, chat_template="{{ messages }}") as llm:
                error = llm.generate([1, 2, 3], GREEDY).error
        except AbaciError as refusal:
            error = refusal
        assert error is None or error.message


def test_the_command_ends_with_a_line_a_hint_and_a_code_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, folder = tmp_path / "home", tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("ABACI_HOME", str(home))
    path = changed_model("llama", folder, with_nan_in("blk.0.ffn_gate.weight"))
    run = [sys.executable, "-m", "abaci", "run", str(path), "hello"]
    ended = subprocess.run(run, capture_output=True, text=True, check=False)
    lines = ended.stderr.splitlines()
    assert (ended.returncode, ended.stdout, len(lines)) == (FileFormatError.exit_code, "", 2)
    assert lines[0].startswith(f"error: {path}: tensor blk.0.ffn_gate.weight holds values that are not finite")
    assert lines[1].startswith("hint: ")
    assert [*folder.iterdir()] == [path]
    assert not home.exists()


def test_a_model_in_shards_runs_like_the_whole(tmp_path: Path) -> None:
    with GgufCheckpoint.open(golden_path("qwen2")) as checkpoint:
        tensors = []
        for tensor in checkpoint.tensors.values():
            with checkpoint.data(tensor) as data:
                tensors.append((tensor.name, tensor.format, tensor.shape, data.tobytes()))
        third = -(-len(tensors) // 3)
        for index in range(3):
            split = {"split.no": index, "split.count": 3, "split.tensors.count": len(tensors)}
            metadata = dict(checkpoint.metadata) | split if index == 0 else split
            shard = tensors[index * third : (index + 1) * third]
            write_gguf(tmp_path / f"model-{index + 1:05}-of-00003.gguf", metadata, shard)
    with LLM(golden_path("qwen2")) as whole, LLM(tmp_path) as sharded:
        prompts = [[1, 2, 3], [40, 50, 60, 70]]
        expected = [result.token_ids for result in whole.generate(prompts, GREEDY)]
        assert [result.token_ids for result in sharded.generate(prompts, GREEDY)] == expected
