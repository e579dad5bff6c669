"""Heads and experts whose matrices end within a panel of rows: the numbers of the reference, on every target."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from random_models import LATENT, VOCAB_SIZE, RandomTensors, random_model
from step_feeding import StepFeeder

from abaci.kernels import native
from abaci.kernels.footprint import footprint
from abaci.kernels.quantise import quantise
from abaci.kernels.reference import ReferenceExecutor
from abaci.kernels.weights import RawTensor, TensorSource
from abaci.models.spec import ModelSpec
from abaci.quantize.shapes import shape_named
from abaci.tensor import WeightFormat

HEADS = replace(LATENT, key_value_rank=44, rope_head_size=32, value_head_size=20)
EXPERTS = replace(LATENT, rope_head_size=32, expert_size=40)
BIASED_EXPERTS = replace(
    shape_named("gpt-oss", "20b"), num_layers=2, hidden_size=64, num_heads=4, num_kv_heads=2, head_size=32,
    mlp_size=72, num_experts=4, num_experts_used=2, expert_size=72, window=32, vocab_size=VOCAB_SIZE,
)  # fmt: skip
SHAPES = {"heads": HEADS, "experts": EXPERTS, "biased experts": BIASED_EXPERTS}
TOKENS = np.random.default_rng(7).integers(0, VOCAB_SIZE, 150).astype(np.int32)
"""More than one task of a product takes."""
POOL = native.thread_pool(2)


def native_logprobs(
    spec: ModelSpec, source: TensorSource, target: str | None = None, num_threads: int = 2, chunk: int | None = None
) -> NDArray[np.float32]:
    pool = native.thread_pool(num_threads)
    executor = native.NativeExecutor(spec, source, max_step_tokens=len(TOKENS), pool=pool, target=target)
    sizes = None if chunk is None else [chunk, len(TOKENS) - chunk - 1, 1]
    found = StepFeeder(executor, spec, 1, len(TOKENS)).logprobs(TOKENS, sizes)
    executor.close()
    return found


def reference_logprobs(spec: ModelSpec, source: TensorSource, activations: str = "float32") -> NDArray[np.float32]:
    executor = ReferenceExecutor(spec, source, activations=activations)
    return StepFeeder(executor, spec, 1, len(TOKENS)).logprobs(TOKENS)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_floats_give_the_numbers_of_the_reference(shape) -> None:
    spec, source = random_model(shape)
    assert any(stack.out_features % 32 for stack in spec.stacks())
    difference = np.abs(native_logprobs(spec, source) - reference_logprobs(spec, source))
    assert difference.max() < 0.02
    assert np.median(difference) < 1e-3


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_targets_threads_and_chunks_give_the_same_bytes(shape) -> None:
    spec, source = random_model(shape)
    whole = native_logprobs(spec, source)
    for target in native.targets():
        for num_threads, chunk in ((1, None), (2, 17)):
            again = native_logprobs(spec, source, target, num_threads, chunk)
            assert again.tobytes() == whole.tobytes(), (target, num_threads, chunk)


@dataclass(frozen=True)
class QuantisedStacks:
    """Random weights, those of heads and experts in a format of blocks where their rows are whole blocks."""

    source: RandomTensors
    made: Mapping[str, RawTensor]

    def tensor(self, name: str) -> RawTensor:
        return self.made.get(name) or self.source.tensor(name)


def quantised(spec: ModelSpec, source: RandomTensors, weight_format: WeightFormat) -> QuantisedStacks:
    made = {}
    for stack in spec.stacks():
        array = source.arrays[stack.weight]
        if array.shape[-1] % weight_format.block_size == 0:
            blocks = quantise(array.reshape(-1, array.shape[-1]), weight_format, pool=POOL)
            made[stack.weight] = RawTensor(weight_format, array.shape, memoryview(blocks).cast("B"))
    return QuantisedStacks(source, made)


@pytest.mark.parametrize("weight_format", [WeightFormat.Q8_0, WeightFormat.Q4_0, WeightFormat.MXFP4], ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_blocks_give_the_numbers_of_the_reference(shape, weight_format: WeightFormat) -> None:
    spec, floats = random_model(shape)
    source = quantised(spec, floats, weight_format)
    assert any(stack.weight in source.made for stack in spec.stacks() if stack.out_features % 32)
    found, expected = native_logprobs(spec, source), reference_logprobs(spec, source, "int8")
    np.testing.assert_allclose(found[:2], expected[:2], atol=2e-3)
    assert np.median(np.abs(found - expected)) < 0.02


def test_the_footprint_counts_whole_panels() -> None:
    spec, source = random_model(HEADS)
    counted = footprint(spec, dict.fromkeys(source.arrays, WeightFormat.F32), embedding_is_stored=False)
    executor = native.NativeExecutor(spec, source, max_step_tokens=8, pool=POOL)
    assert executor.weight_bytes == counted.weight_bytes
    executor.close()
