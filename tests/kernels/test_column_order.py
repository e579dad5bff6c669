"""Matrices whose columns are stored in another order: the same products, from inputs in that order."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from random_models import PLAIN, random_model
from step_feeding import StepFeeder

from abaci.errors import FileFormatError
from abaci.formats.integer_blocks import int4_blocks
from abaci.kernels import native
from abaci.kernels.batch import Executor
from abaci.kernels.dequantise import dequantise
from abaci.kernels.footprint import footprint, workspace_bytes
from abaci.kernels.reference import ReferenceExecutor
from abaci.kernels.weights import RawTensor
from abaci.models.families import spec_from_gguf
from abaci.models.spec import Linear, LowRank, ModelSpec
from abaci.tensor import TensorInfo, WeightFormat

SHAPE = replace(PLAIN, num_heads=2, num_kv_heads=2, mlp_size=96)
TOKENS = np.random.default_rng(5).integers(0, 96, 40).astype(np.int32)
POOL = native.thread_pool(2)


@dataclass(frozen=True)
class Tensors:
    tensors: dict[str, RawTensor]

    def tensor(self, name: str) -> RawTensor:
        return self.tensors[name]

    def spec(self) -> ModelSpec:
        infos = {name: TensorInfo(name, raw.format, raw.shape, 0, raw.num_bytes) for name, raw in self.tensors.items()}
        return spec_from_gguf(SHAPE.metadata(), infos)


def floats(array: NDArray[np.float32]) -> RawTensor:
    return RawTensor(WeightFormat.F32, array.shape, memoryview(np.ascontiguousarray(array)).cast("B"))


def small_integers(matrix: NDArray[np.float32]) -> RawTensor:
    """The matrix in INT4, roughly."""
    groups = matrix.reshape(len(matrix), -1, 32)
    low, high = groups.min(axis=2), groups.max(axis=2)
    scales = ((high - low) / 15).astype(np.float16)
    zeros = np.clip(np.rint(-low / scales), 0, 15).astype(np.uint8)
    codes = np.clip(np.rint(groups / scales[..., np.newaxis]) + zeros[..., np.newaxis], 0, 15).astype(np.uint8)
    blocks = int4_blocks(WeightFormat.INT4, codes.reshape(matrix.shape), scales, zeros)
    return RawTensor(WeightFormat.INT4, matrix.shape, memoryview(blocks.tobytes()))


def models() -> tuple[Tensors, Tensors]:
    """Of the same values: with the matrices of the layers sorted, each in an order of its own, and as floats."""
    plain, source = random_model(SHAPE)
    random = np.random.default_rng(6)
    ordered = {name: floats(array) for name, array in source.arrays.items()}
    unordered = dict(ordered)
    for linear in plain.linears():
        if linear.weight.startswith("blk."):
            order = random.permutation(linear.in_features)
            raw = small_integers(source.arrays[linear.weight][:, order])
            ordered[linear.weight] = raw
            ordered[linear.weight.replace(".weight", ".order")] = floats(order.astype(np.float32))
            values = np.empty(raw.shape, np.float32)
            values[:, order] = dequantise(raw.format, raw.shape, raw.data)
            unordered[linear.weight] = floats(values)
    return Tensors(ordered), Tensors(unordered)


def logprobs(executor: Executor, spec: ModelSpec, chunks: list[int] | None = None) -> NDArray[np.float32]:
    found = StepFeeder(executor, spec, 1, len(TOKENS)).logprobs(TOKENS, chunks)
    executor.close()
    return found


def native_executor(spec: ModelSpec, source: Tensors, target: str | None = None) -> native.NativeExecutor:
    return native.NativeExecutor(spec, source, max_step_tokens=64, pool=POOL, target=target)


def test_values_are_those_of_the_matrix_in_its_own_order() -> None:
    ordered, unordered = models()
    expected = logprobs(ReferenceExecutor(unordered.spec(), unordered), unordered.spec())
    found = logprobs(ReferenceExecutor(ordered.spec(), ordered), ordered.spec())
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_kernels_agree_with_the_reference() -> None:
    source, _ = models()
    spec = source.spec()
    assert all(linear.order is not None for linear in spec.linears() if linear.weight.startswith("blk."))
    expected = logprobs(ReferenceExecutor(spec, source, activations="int8"), spec)
    found = logprobs(native_executor(spec, source), spec)
    np.testing.assert_allclose(found[:2], expected[:2], atol=2e-3)
    assert np.median(np.abs(found - expected)) < 0.01


def test_targets_and_chunks_give_the_same_bytes() -> None:
    source, _ = models()
    spec = source.spec()
    whole = logprobs(native_executor(spec, source), spec)
    for target in native.targets():
        for chunks in (None, [7, len(TOKENS) - 8, 1]):
            assert logprobs(native_executor(spec, source, target), spec, chunks).tobytes() == whole.tobytes()


def with_adapter(model: Tensors) -> tuple[ModelSpec, Tensors]:
    """With one of the first layer's last matrix."""
    random = np.random.default_rng(8)
    halves = {"A": random.normal(0, 0.2, (4, 96)), "B": random.normal(0, 0.2, (128, 4))}
    spec = model.spec()
    first, *others = spec.layers
    low_rank = LowRank(Linear("A", 96, 4), Linear("B", 4, 128), scale=1.0)
    mlp = replace(first.mlp, down=replace(first.mlp.down, adapters=(low_rank,)))
    tensors = {name: floats(half.astype(np.float32)) for name, half in halves.items()}
    return replace(spec, layers=(replace(first, mlp=mlp), *others)), Tensors({**model.tensors, **tensors})


def test_adapters_read_the_inputs_as_they_are() -> None:
    ordered, unordered = map(with_adapter, models())
    expected = logprobs(ReferenceExecutor(*unordered), unordered[0])
    np.testing.assert_allclose(logprobs(ReferenceExecutor(*ordered), ordered[0]), expected, atol=1e-4)
    rounded = logprobs(ReferenceExecutor(*ordered, activations="int8"), ordered[0])
    np.testing.assert_allclose(logprobs(native_executor(*ordered), ordered[0])[:2], rounded[:2], atol=2e-3)


def test_the_footprint_counts_what_is_put_in_order() -> None:
    source, _ = models()
    spec = source.spec()
    formats = {name: raw.format for name, raw in source.tensors.items()}
    counted = footprint(spec, formats, embedding_is_stored=False)
    executor = native_executor(spec, source)
    assert executor.weight_bytes == counted.weight_bytes
    expected = workspace_bytes(counted, 64, 64)
    assert expected <= executor.workspace_bytes() <= expected + 4096
    executor.close()


@pytest.mark.parametrize("order", [np.zeros(96), np.arange(96) + 1, np.arange(96) + 0.5, -np.arange(96)])
def test_what_is_no_order_is_refused(order: NDArray[np.float64]) -> None:
    source, _ = models()
    name = "blk.1.ffn_down.order"
    source.tensors[name] = floats(order.astype(np.float32))
    with pytest.raises(FileFormatError, match=r"blk\.1\.ffn_down\.order is not an order of 96 columns"):
        native_executor(source.spec(), source)
