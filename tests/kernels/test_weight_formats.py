"""Every weight format in a whole model: read, packed and multiplied by the native executor as the reference does."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from golden_models import CheckpointTensors, golden_path, golden_sequences, opened_model
from step_feeding import StepFeeder

from abaci.errors import FileFormatError
from abaci.kernels import native
from abaci.kernels.random_weights import random_blocks
from abaci.kernels.reference import ReferenceExecutor
from abaci.kernels.weights import RawTensor
from abaci.models.spec import ModelSpec
from abaci.tensor import WeightFormat

NAME = "qwen2"
LAYERS = 2
SHAPE = (64, 256)
"""Of its down projections: the one matrix with whole blocks of 256."""


@dataclass(frozen=True)
class Replaced:
    """A model's tensors, some of them others."""

    tensors: CheckpointTensors
    others: Mapping[str, RawTensor]

    def tensor(self, name: str) -> RawTensor:
        return self.others.get(name) or self.tensors.tensor(name)


def with_down_projections(tensors: CheckpointTensors, weight_format: WeightFormat, blocks: bytes) -> Replaced:
    tensor = RawTensor(weight_format, SHAPE, memoryview(blocks))
    return Replaced(tensors, {f"blk.{layer}.ffn_down.weight": tensor for layer in range(LAYERS)})


def native_executor(spec: ModelSpec, source: Replaced, target: str) -> native.NativeExecutor:
    return native.NativeExecutor(spec, source, max_step_tokens=64, pool=native.thread_pool(2), target=target)


@pytest.mark.parametrize("weight_format", list(WeightFormat), ids=lambda weight_format: weight_format.label)
def test_a_model_agrees_with_the_reference_and_on_every_target(weight_format: WeightFormat) -> None:
    token_ids = golden_sequences(NAME)[0].token_ids
    blocks = random_blocks(weight_format, SHAPE[0] * SHAPE[1] // weight_format.block_size).tobytes()
    with opened_model(golden_path(NAME)) as (spec, tensors):
        source = with_down_projections(tensors, weight_format, blocks)
        reference = ReferenceExecutor(spec, source, activations="int8")
        expected = StepFeeder(reference, spec, 1, len(token_ids)).logprobs(token_ids)
        actual = []
        for target in native.targets():
            executor = native_executor(spec, source, target)
            kind = "int8" if weight_format.is_quantised else "float"
            assert executor.kernels()[weight_format.label] == f"{target} {kind}"
            actual.append(StepFeeder(executor, spec, 1, len(token_ids)).logprobs(token_ids))
            executor.close()
    assert all(logprobs.tobytes() == actual[0].tobytes() for logprobs in actual)
    np.testing.assert_allclose(actual[0][:3], expected[:3], atol=2e-3)
    # Activations that round to the other int8 have their part in the rest.
    assert np.abs(actual[0] - expected).mean() < 0.02


@pytest.mark.parametrize(
    ("weight_format", "scale"),
    [
        (WeightFormat.Q2_K, None),
        (WeightFormat.IQ2_XXS, b"\x00\x7c"),
        (WeightFormat.MXFP4, b"\xff"),
        (WeightFormat.INT4_128, b"\x01\xfc"),
        (WeightFormat.INT8, b"\x00\x00\x80\x7f"),
    ],
)
def test_a_scale_that_is_not_finite_fails_the_load(weight_format: WeightFormat, scale: bytes | None) -> None:
    blocks = random_blocks(weight_format, SHAPE[0] * SHAPE[1] // weight_format.block_size)
    if scale is None:
        blocks[-1, 82:84] = 0x7C
    else:
        blocks[-1, : len(scale)] = np.frombuffer(scale, np.uint8)
    with opened_model(golden_path(NAME)) as (spec, tensors):
        source = with_down_projections(tensors, weight_format, blocks.tobytes())
        with pytest.raises(FileFormatError, match=r"blk\.0\.ffn_down"):
            native_executor(spec, source, native.targets()[0])
