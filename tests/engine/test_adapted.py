"""Models with adapters: the products of merged weights, nothing for an adapter of zeros, the same bytes everywhere."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from adapter_files import MergedTensors, RandomAdapter, opened_with, random_adapter
from golden_folders import folder_sequences, golden_folder
from golden_models import GOLDEN_NAMES, CheckpointTensors, golden_path, golden_sequences
from numpy.typing import NDArray
from step_feeding import StepFeeder
from waiting import wait_until

from abaci.formats.adapter import LoraChoice
from abaci.formats.opening import open_checkpoint
from abaci.formats.safetensors import SafetensorsFile, write_safetensors
from abaci.formats.weight_arrays import as_array, as_bytes, to_float32
from abaci.kernels import native
from abaci.kernels.footprint import footprint
from abaci.kernels.packed_store import KeptWeights, PackedStore
from abaci.kernels.reference import ReferenceExecutor
from abaci.models.families import spec_from_gguf
from abaci.tensor import CacheType, WeightFormat

TARGETS = native.targets()
FORMATS = {
    "llama-float": WeightFormat.F32,
    "llama": WeightFormat.F16,
    "qwen2": WeightFormat.BF16,
    "gemma3": WeightFormat.F32,
}


def reference_logprobs(
    path: Path,
    choices: list[LoraChoice],
    token_ids: NDArray[np.int32],
    activations: Literal["float32", "int8"] = "float32",
) -> NDArray[np.float32]:
    spec, checkpoint = opened_with(path, choices)
    cache_type: CacheType | Literal["float32"] = CacheType.F16 if activations == "int8" else "float32"
    executor = ReferenceExecutor(spec, CheckpointTensors(checkpoint), activations=activations, cache_type=cache_type)
    logprobs = StepFeeder(executor, spec, 1, len(token_ids)).logprobs(token_ids)
    checkpoint.close()
    return logprobs


def native_logprobs(
    path: Path,
    choices: list[LoraChoice],
    token_ids: NDArray[np.int32],
    *,
    target: str = TARGETS[0],
    sizes: list[int] | None = None,
    num_threads: int = 2,
) -> NDArray[np.float32]:
    spec, checkpoint = opened_with(path, choices)
    pool = native.thread_pool(num_threads)
    executor = native.NativeExecutor(spec, CheckpointTensors(checkpoint), max_step_tokens=512, pool=pool, target=target)
    logprobs = StepFeeder(executor, spec, 1, len(token_ids)).logprobs(token_ids, sizes)
    executor.close()
    checkpoint.close()
    return logprobs


def merged_logprobs(
    path: Path, adapters: list[tuple[RandomAdapter, float]], token_ids: NDArray[np.int32]
) -> NDArray[np.float32]:
    checkpoint = open_checkpoint(path)
    spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
    source = MergedTensors(CheckpointTensors(checkpoint), adapters)
    executor = ReferenceExecutor(spec, source, cache_type="float32")
    logprobs = StepFeeder(executor, spec, 1, len(token_ids)).logprobs(token_ids)
    checkpoint.close()
    return logprobs


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_two_adapters_are_the_merged_model(tmp_path: Path, name: str) -> None:
    path, token_ids = golden_path(name), golden_sequences(name)[0].token_ids[:24]
    adapters = [(random_adapter(path, rank=4, seed=1), 0.5), (random_adapter(path, rank=7, alpha=3.0, seed=2), -1.5)]
    choices = [LoraChoice(adapter.write(tmp_path / f"{i}.gguf"), scale) for i, (adapter, scale) in enumerate(adapters)]
    found = reference_logprobs(path, choices, token_ids)
    np.testing.assert_allclose(found, merged_logprobs(path, adapters, token_ids), atol=1e-4)
    assert np.abs(found - reference_logprobs(path, [], token_ids)).max() > 0.1


@pytest.mark.parametrize("name", ["phi3", "qwen3_next", "deepseek_v2", "qwen2_moe"])
def test_fused_matrices_and_other_mixers_too(tmp_path: Path, name: str) -> None:
    path, token_ids = golden_folder(name), folder_sequences(name)[0].token_ids[:16]
    adapter = random_adapter(path, rank=3)
    choices = [LoraChoice(adapter.write(tmp_path / "a.gguf"))]
    found = reference_logprobs(path, choices, token_ids)
    np.testing.assert_allclose(found, merged_logprobs(path, [(adapter, 1.0)], token_ids), atol=1e-4)
    assert np.abs(found - reference_logprobs(path, [], token_ids)).max() > 0.1
    if name == "phi3":  # the others' experts are too small for the native executor
        np.testing.assert_allclose(native_logprobs(path, choices, token_ids), found, atol=0.05)


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_native_agrees_with_the_reference_and_with_itself(tmp_path: Path, name: str) -> None:
    path, token_ids = golden_path(name), golden_sequences(name)[0].token_ids[:24]
    adapter = random_adapter(path, rank=5, weight_format=FORMATS[name])
    choices = [LoraChoice(adapter.write(tmp_path / "a.gguf"), 0.7)]
    expected = reference_logprobs(path, choices, token_ids, activations="int8")
    whole = native_logprobs(path, choices, token_ids)
    # Where an activation rounds to the other int8, the two part by some of what int8 activations cost.
    difference, cost = np.abs(whole - expected), np.abs(expected - reference_logprobs(path, choices, token_ids))
    if name != "gemma3":  # of which the first token's does
        assert difference[:3].max() <= 2e-3
    assert difference.max() < max(min(0.75 * cost.max(), 0.2), 2e-3)
    assert difference.mean() < max(0.6 * cost.mean(), 1e-4)
    for target, sizes, num_threads in itertools.product(TARGETS, ([24], [7, 1, 16]), (1, 2)):
        again = native_logprobs(path, choices, token_ids, target=target, sizes=sizes, num_threads=num_threads)
        assert again.tobytes() == whole.tobytes(), (target, sizes, num_threads)


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_an_adapter_of_zeros_changes_no_byte(tmp_path: Path, name: str) -> None:
    path, token_ids = golden_path(name), golden_sequences(name)[0].token_ids[:24]
    zero = LoraChoice(random_adapter(path, up_size=0.0).write(tmp_path / "a.gguf"))
    assert native_logprobs(path, [zero], token_ids).tobytes() == native_logprobs(path, [], token_ids).tobytes()
    assert reference_logprobs(path, [zero], token_ids).tobytes() == reference_logprobs(path, [], token_ids).tobytes()


def test_integer_adapters_read_integer_activations(tmp_path: Path) -> None:
    """As the converter writes them on request: both halves Q8_0 where the rank is a multiple of 32."""
    from abaci.formats.gguf import write_gguf
    from abaci.kernels.quantise import quantise

    path, token_ids = golden_path("llama"), golden_sequences("llama")[0].token_ids[:16]
    adapter = random_adapter(path, rank=32, alpha=16.0)
    keys = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}
    pool = native.thread_pool(1)
    tensors = [
        (
            f"{target}.lora_{half}",
            WeightFormat.Q8_0,
            values.shape,
            quantise(values, WeightFormat.Q8_0, None, pool=pool).tobytes(),
        )
        for target, pair in adapter.pairs.items()
        for half, values in zip("ab", pair, strict=True)
    ]
    write_gguf(tmp_path / "a.gguf", keys | {"adapter.lora.alpha": 16.0}, tensors)
    choices = [LoraChoice(tmp_path / "a.gguf")]
    expected = reference_logprobs(path, choices, token_ids, activations="int8")
    found = native_logprobs(path, choices, token_ids)
    np.testing.assert_allclose(found[:3], expected[:3], atol=2e-3)
    np.testing.assert_allclose(found, expected, atol=0.2)
    again = native_logprobs(path, choices, token_ids, target=TARGETS[-1], sizes=[1] * 16)
    assert again.tobytes() == found.tobytes()


def write_peft(
    folder: Path, pairs: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]], **config: object
) -> Path:
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 6.0, "bias": "none"} | config
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    tensors = [
        (f"base_model.model.{module}.lora_{half}.weight", "F32", values.shape, [as_bytes(values)])
        for module, pair in pairs.items()
        for half, values in zip("AB", pair, strict=True)
    ]
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    return folder


@pytest.mark.parametrize("name", ["llama", "phi3", "qwen3_next", "qwen3_5_text"])
@pytest.mark.parametrize("is_stabilised", [False, True])
def test_peft_folders_are_the_merged_folder(tmp_path: Path, name: str, is_stabilised: bool) -> None:
    """Merged under the published names, in the published arrangement."""
    source, token_ids = golden_folder(name), folder_sequences(name)[0].token_ids[:16]
    random, rank, alpha = np.random.default_rng(3), 4, 6.0
    file = SafetensorsFile.open(source / "model.safetensors")
    merged, pairs = [], {}
    for tensor in file.tensors.values():
        values = as_array(WeightFormat[tensor.dtype], tensor.shape, file.data(tensor))
        is_expert = ".experts." in tensor.name
        if (tensor.name.endswith("_proj.weight") and not is_expert) or "in_proj_qkvz" in tensor.name:
            values = to_float32(WeightFormat[tensor.dtype], values)
            down = random.standard_normal((rank, tensor.shape[1]), np.float32)
            up = random.standard_normal((tensor.shape[0], rank), np.float32) * np.float32(0.05)
            pairs[tensor.name.removesuffix(".weight")] = down, up
            delta = alpha / (np.sqrt(rank) if is_stabilised else rank) * (up.astype(np.float64) @ down)
            values = (values.astype(np.float64) + delta).astype(np.float32)
            merged.append((tensor.name, "F32", tensor.shape, [as_bytes(values)]))
        else:
            merged.append((tensor.name, tensor.dtype, tensor.shape, [file.data(tensor).tobytes()]))
    assert pairs
    file.close()
    (tmp_path / "merged").mkdir()
    shutil.copy(source / "config.json", tmp_path / "merged")
    write_safetensors(tmp_path / "merged" / "model.safetensors", merged)
    adapter = write_peft(tmp_path / "adapter", pairs, use_rslora=is_stabilised)
    found = reference_logprobs(source, [LoraChoice(adapter)], token_ids)
    np.testing.assert_allclose(found, reference_logprobs(tmp_path / "merged", [], token_ids), atol=2e-3)
    assert np.abs(found - reference_logprobs(source, [], token_ids)).max() > 0.1


def test_footprints_count_adapters(tmp_path: Path) -> None:
    path = golden_path("llama")
    spec, checkpoint = opened_with(path, [LoraChoice(random_adapter(path, rank=5).write(tmp_path / "a.gguf"))])
    formats = {tensor.name: tensor.format for tensor in checkpoint.tensors.values()}
    pool = native.thread_pool(1)
    executor = native.NativeExecutor(spec, CheckpointTensors(checkpoint), max_step_tokens=64, pool=pool)
    counted = footprint(spec, formats, embedding_is_stored=False)
    assert counted.weight_bytes == executor.weight_bytes
    executor.close()
    checkpoint.close()


def test_packed_weights_are_kept_for_the_model_alone(tmp_path: Path) -> None:
    path, token_ids = golden_path("llama"), golden_sequences("llama")[0].token_ids[:16]
    kept = KeptWeights(PackedStore(tmp_path / "packed", smallest_bytes=0), "the model")
    pool = native.thread_pool(1)
    found = []
    for number, seed in enumerate((1, 2, 1)):
        choice = LoraChoice(random_adapter(path, seed=seed).write(tmp_path / f"{number}.gguf"))
        spec, checkpoint = opened_with(path, [choice])
        executor = native.NativeExecutor(spec, CheckpointTensors(checkpoint), max_step_tokens=64, pool=pool, kept=kept)
        assert executor.weights_are_mapped
        found.append(StepFeeder(executor, spec, 1, len(token_ids)).logprobs(token_ids).tobytes())
        executor.close()
        checkpoint.close()
        wait_until(lambda: any((tmp_path / "packed").iterdir()))
    assert len(list((tmp_path / "packed").iterdir())) == 1
    assert found[0] == found[2] != found[1]
