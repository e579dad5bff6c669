"""Stored weights to values: exactly what the `gguf` package, the format's own, reads."""

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abaci.kernels.dequantise import decode, dequantise
from abaci.tensor import WeightFormat

QUANTISED = [weight_format for weight_format in WeightFormat if weight_format.is_quantised]
INTEGER_FORMATS = (WeightFormat.INT4, WeightFormat.INT4_128, WeightFormat.INT8)
OF_GGUF = [weight_format for weight_format in WeightFormat if weight_format not in INTEGER_FORMATS]
GROUPS_OF_16 = (
    WeightFormat.Q6_K,
    WeightFormat.Q2_K,
    WeightFormat.Q3_K,
    WeightFormat.IQ2_S,
    WeightFormat.IQ2_XS,
    WeightFormat.IQ2_XXS,
)


@given(
    weight_format=st.sampled_from(OF_GGUF),
    rows=st.integers(1, 5),
    blocks=st.integers(1, 3),
    seed=st.integers(0),
)
def test_values_equal_the_formats_own(weight_format: WeightFormat, rows: int, blocks: int, seed: int) -> None:
    stored = np.random.default_rng(seed).integers(0, 256, (rows, blocks * weight_format.block_bytes), dtype=np.uint8)
    shape = (rows, blocks * weight_format.block_size)
    with np.errstate(all="ignore"):  # random bytes hold NaN and infinite scales
        values = dequantise(weight_format, shape, stored)
        expected = gguf.dequantize(stored, gguf.GGMLQuantizationType[weight_format.label])
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, expected.reshape(shape).astype(np.float32))


@pytest.mark.parametrize(("weight_format", "num_groups"), [(WeightFormat.INT4, 1), (WeightFormat.INT4_128, 4)])
def test_integers_with_a_zero_point(weight_format: WeightFormat, num_groups: int) -> None:
    random = np.random.default_rng(0)
    codes = random.integers(0, 16, (6, num_groups, 32), dtype=np.uint8)
    zeros = random.integers(0, 17, (6, 1), dtype=np.uint8)
    scales = random.normal(0, 0.01, (6, 1)).astype(np.float16)
    packed = (codes[..., :16] | codes[..., 16:] << np.uint8(4)).reshape(6, -1)
    stored = np.concatenate([scales.view(np.uint8), zeros, packed], axis=1)
    shape = (2, 3 * 32 * num_groups)
    expected = (codes.reshape(6, -1).astype(np.float64) - zeros) * scales.astype(np.float64)
    np.testing.assert_array_equal(dequantise(weight_format, shape, stored), expected.reshape(shape))


def test_integers_with_a_wide_scale() -> None:
    random = np.random.default_rng(0)
    codes = random.integers(-128, 128, (6, 32), dtype=np.int8)
    scales = random.normal(0, 0.01, (6, 1)).astype(np.float32)
    stored = np.concatenate([scales.view(np.uint8), codes.view(np.uint8)], axis=1)
    expected = (codes * scales.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(dequantise(WeightFormat.INT8, (3, 64), stored), expected.reshape(3, 64))


@pytest.mark.parametrize("weight_format", QUANTISED, ids=lambda weight_format: weight_format.label)
def test_groups_divide_the_columns(weight_format: WeightFormat) -> None:
    shape = (3, 2 * weight_format.block_size)
    decoded = decode(weight_format, shape, bytes(6 * weight_format.block_bytes))
    assert decoded.codes.shape == shape
    assert decoded.scales.shape == (3, shape[1] // decoded.group_size)
    assert decoded.group_size == (16 if weight_format in GROUPS_OF_16 else 32)


@pytest.mark.parametrize("weight_format", list(WeightFormat), ids=lambda weight_format: weight_format.label)
def test_wrong_size_is_refused(weight_format: WeightFormat) -> None:
    shape = (2, weight_format.block_size)
    with pytest.raises(ValueError, match="bytes for a"):
        dequantise(weight_format, shape, bytes(2 * weight_format.block_bytes - 1))
    with pytest.raises(ValueError, match="whole"):
        dequantise(weight_format, (2, 0), b"")


def test_columns_must_be_whole_blocks() -> None:
    with pytest.raises(ValueError, match="whole Q4_0 blocks"):
        dequantise(WeightFormat.Q4_0, (2, 16), bytes(18))
