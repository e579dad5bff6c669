"""Stored weights to values: exactly what the `gguf` package, the format's own, reads."""

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abaci.kernels.dequantise import decode, dequantise
from abaci.tensor import WeightFormat

QUANTISED = [weight_format for weight_format in WeightFormat if weight_format.is_quantised]


@given(
    weight_format=st.sampled_from(list(WeightFormat)),
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


@pytest.mark.parametrize("weight_format", QUANTISED, ids=lambda weight_format: weight_format.label)
def test_groups_divide_the_columns(weight_format: WeightFormat) -> None:
    shape = (3, 2 * weight_format.block_size)
    decoded = decode(weight_format, shape, bytes(6 * weight_format.block_bytes))
    assert decoded.codes.shape == shape
    assert decoded.scales.shape == (3, shape[1] // decoded.group_size)
    assert decoded.group_size == (16 if weight_format is WeightFormat.Q6_K else 32)


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
