"""DeepSeek files of older conversions, with keys and values of latent attention in one matrix, give equal numbers."""

from dataclasses import dataclass

import numpy as np
import pytest
from golden_folders import folder_sequences, golden_folder
from numpy.typing import NDArray
from step_feeding import StepFeeder, log_softmax

from abaci.errors import FileFormatError, UnsupportedModelError
from abaci.formats.checkpoint import MetadataValue
from abaci.formats.huggingface import HuggingFaceCheckpoint
from abaci.kernels import native
from abaci.kernels.batch import Executor
from abaci.kernels.dequantise import dequantise
from abaci.kernels.footprint import footprint
from abaci.kernels.quantise import quantise
from abaci.kernels.reference import ReferenceExecutor
from abaci.kernels.weights import RawTensor
from abaci.models.families import spec_from_gguf
from abaci.models.spec import ModelSpec
from abaci.tensor import TensorInfo, WeightFormat

NAMES = ("deepseek_v2", "deepseek_v3")
FORMATS = (WeightFormat.BF16, WeightFormat.F32, WeightFormat.Q8_0, WeightFormat.Q4_0)
POOL = native.thread_pool(2)


@dataclass(frozen=True)
class Model:
    """Settings and tensors, as a file would have them."""

    metadata: dict[str, MetadataValue]
    tensors: dict[str, RawTensor]

    @property
    def spec(self) -> ModelSpec:
        infos = {name: TensorInfo(name, raw.format, raw.shape, 0, raw.num_bytes) for name, raw in self.tensors.items()}
        return spec_from_gguf(self.metadata, infos)

    def tensor(self, name: str) -> RawTensor:
        return self.tensors[name]

    def setting(self, key: str) -> int:
        value = self.metadata[f"deepseek2.{key}"]
        assert isinstance(value, int)
        return value


def newer(name: str) -> Model:
    with HuggingFaceCheckpoint.open(golden_folder(name)) as checkpoint:
        tensors = {
            name: RawTensor(info.format, info.shape, memoryview(bytes(checkpoint.data(info))))
            for name, info in checkpoint.tensors.items()
        }
        return Model(dict(checkpoint.metadata), tensors)


def raw(weight_format: WeightFormat, rows: NDArray[np.float32]) -> RawTensor:
    return RawTensor(weight_format, rows.shape, memoryview(quantise(rows, weight_format, pool=POOL)).cast("B"))


def floats(tensor: RawTensor) -> NDArray[np.float32]:
    return dequantise(tensor.format, tensor.shape, tensor.data)


def older(model: Model, weight_format: WeightFormat) -> Model:
    """As it was converted before, with the combined matrices in this format."""
    metadata = dict(model.metadata)
    for key in ("key_length", "value_length"):
        metadata[f"deepseek2.attention.{key}"] = metadata.pop(f"deepseek2.attention.{key}_mla")
    metadata["deepseek2.attention.head_count_kv"] = metadata["deepseek2.attention.head_count"]
    tensors = dict(model.tensors)
    for layer in range(model.setting("block_count")):
        keys = floats(tensors.pop(f"blk.{layer}.attn_k_b.weight"))
        values = floats(tensors.pop(f"blk.{layer}.attn_v_b.weight"))
        combined = np.concatenate([keys.swapaxes(1, 2), values], axis=1)
        tensors[f"blk.{layer}.attn_kv_b.weight"] = raw(weight_format, combined.reshape(-1, combined.shape[2]))
    return Model(metadata, tensors)


def split(model: Model, like: Model) -> Model:
    """A newer file of exactly the same values: keys as floats, rows of values as they are stored."""
    heads = model.setting("attention.head_count")
    plain = model.setting("attention.key_length") - model.setting("rope.dimension_count")
    tensors = dict(model.tensors)
    for layer in range(model.setting("block_count")):
        stored = tensors.pop(f"blk.{layer}.attn_kv_b.weight")
        by_head = floats(stored).reshape(heads, -1, stored.shape[1])
        weight_format = WeightFormat.F32 if stored.format.is_quantised else stored.format
        keys = np.ascontiguousarray(by_head[:, :plain].swapaxes(1, 2))
        key = raw(weight_format, keys.reshape(-1, keys.shape[2]))
        tensors[f"blk.{layer}.attn_k_b.weight"] = RawTensor(key.format, keys.shape, key.data)
        rows = np.frombuffer(stored.data, np.uint8).reshape(heads, by_head.shape[1], -1)[:, plain:]
        shape = (heads, rows.shape[1], stored.shape[1])
        tensors[f"blk.{layer}.attn_v_b.weight"] = RawTensor(stored.format, shape, memoryview(rows.tobytes()))
    return Model(dict(like.metadata), tensors)


def native_executor(model: Model) -> native.NativeExecutor:
    return native.NativeExecutor(model.spec, model, max_step_tokens=64, pool=POOL)


def logprobs(executor: Executor, model: Model, token_ids: NDArray[np.int32]) -> NDArray[np.float32]:
    found = StepFeeder(executor, model.spec, num_sequences=1, max_tokens=64).logprobs(token_ids)
    executor.close()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_the_originals(name: str) -> None:
    model = older(newer(name), WeightFormat.BF16)
    for sequence in folder_sequences(name):
        found = logprobs(ReferenceExecutor(model.spec, model, cache_type="float32"), model, sequence.token_ids)
        np.testing.assert_allclose(found, log_softmax(sequence.logits), atol=3e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weight_format", FORMATS, ids=lambda weight_format: weight_format.label)
def test_logits_are_those_of_a_newer_file(name: str, weight_format: WeightFormat) -> None:
    old = older(newer(name), weight_format)
    new = split(old, newer(name))
    token_ids = folder_sequences(name)[0].token_ids
    np.testing.assert_array_equal(
        logprobs(native_executor(old), old, token_ids), logprobs(native_executor(new), new, token_ids)
    )
    for activations in ("float32", "int8"):
        found, expected = (
            logprobs(ReferenceExecutor(model.spec, model, activations=activations), model, token_ids)
            for model in (old, new)
        )
        np.testing.assert_array_equal(found, expected)


def test_rows_of_values_stay_as_they_are_stored() -> None:
    model = older(newer("deepseek_v2"), WeightFormat.Q4_0)
    executor = native_executor(model)
    formats = {name: tensor.format for name, tensor in model.tensors.items()}
    counted = footprint(model.spec, formats, embedding_is_stored=False)
    assert executor.weight_bytes == counted.weight_bytes
    assert {product.weight_format for product in counted.products} == {
        WeightFormat.BF16,
        WeightFormat.F32,
        WeightFormat.Q4_0,
    }
    executor.close()


def test_a_file_with_both_kinds_is_refused() -> None:
    model, both = newer("deepseek_v2"), older(newer("deepseek_v2"), WeightFormat.BF16)
    tensors = {**model.tensors, **both.tensors}
    with pytest.raises(UnsupportedModelError, match=r"attn_k_b"):
        _ = Model(model.metadata, tensors).spec


@pytest.mark.parametrize("change", [{"key_length": 8}, {"value_length": 0}, {"value_length": 31}])
def test_sizes_that_do_not_fit_the_matrix_are_refused(change: dict[str, int]) -> None:
    model = older(newer("deepseek_v2"), WeightFormat.BF16)
    changed = {f"deepseek2.attention.{key}": value for key, value in change.items()}
    with pytest.raises(FileFormatError, match=r"attn_kv_b|key_length|value_length"):
        _ = Model({**model.metadata, **changed}, model.tensors).spec


def test_scales_that_are_no_numbers_are_refused() -> None:
    model = older(newer("deepseek_v2"), WeightFormat.Q8_0)
    name = "blk.1.attn_kv_b.weight"
    stored = bytearray(model.tensors[name].data)
    stored[:2] = np.float16(np.inf).tobytes()
    model.tensors[name] = RawTensor(WeightFormat.Q8_0, model.tensors[name].shape, memoryview(bytes(stored)))
    with pytest.raises(FileFormatError, match=r"blk\.1\.attn_kv_b\.weight"):
        native_executor(model)
