"""Weights to stored blocks: near enough, the same bytes everywhere, and nothing silently lost."""

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from abaci.kernels import _native
from abaci.kernels.quantise import quantise
from abaci.tensor import WeightFormat

# Relative root mean square error on normal values: what the format allows, and a little.
LARGEST_ERRORS = {
    "Q2_K": 0.27,
    "Q3_K": 0.148,
    "MXFP4": 0.115,
    "Q4_0": 0.083,
    "IQ4_XS": 0.076,
    "IQ4_NL": 0.0755,
    "Q4_K": 0.072,
    "Q4_1": 0.072,
    "Q5_0": 0.042,
    "Q5_1": 0.035,
    "Q5_K": 0.036,
    "Q6_K": 0.0175,
    "Q8_0": 0.0055,
}
POOL = _native.ThreadPool(2, [])
FLOATS = [WeightFormat.F32, WeightFormat.F16, WeightFormat.BF16]


def blocks_of(
    label: str, values: NDArray[np.float32], importance: NDArray[np.float32] | None = None, target: str | None = None
) -> NDArray[np.uint8]:
    return _native.quantise_weights(POOL, target or _native.targets()[0], label, values, importance)


def values_of(label: str, blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    return gguf.dequantize(blocks, gguf.GGMLQuantizationType[label])


def normal_rows(rows: int, columns: int, seed: int = 0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal((rows, columns)) * 0.02).astype(np.float32)


def relative_error(found: NDArray[np.float32], expected: NDArray[np.float32], weights: object = 1.0) -> float:
    squares = np.average((found - expected) ** 2, weights=np.broadcast_to(weights, expected.shape))
    return float(np.sqrt(squares / np.average(expected**2, weights=np.broadcast_to(weights, expected.shape))))


@pytest.mark.parametrize(("label", "largest"), LARGEST_ERRORS.items())
def test_error_is_what_the_format_allows(label: str, largest: float) -> None:
    values = normal_rows(64, 1024)
    error = relative_error(values_of(label, blocks_of(label, values)), values)
    assert largest / 3 < error < largest


@pytest.mark.parametrize("label", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4"])
def test_searching_beats_taking_the_largest_value(label: str) -> None:
    values = normal_rows(64, 1024, seed=1)
    plain = gguf.quantize(values, gguf.GGMLQuantizationType[label])
    ours = relative_error(values_of(label, blocks_of(label, values)), values)
    assert ours < 0.985 * relative_error(values_of(label, plain), values)


def test_eight_bits_are_the_formats_own() -> None:
    values = normal_rows(16, 512)
    np.testing.assert_array_equal(blocks_of("Q8_0", values), gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0))


@pytest.mark.parametrize("label", [label for label in LARGEST_ERRORS if label not in ("Q8_0", "MXFP4")])
def test_importance_moves_error_to_where_it_matters_least(label: str) -> None:
    values = normal_rows(32, 1024)
    importance = np.exp(2 * np.random.default_rng(2).standard_normal(1024)).astype(np.float32)
    weighted = values_of(label, blocks_of(label, values, importance / importance.mean()))
    plain = values_of(label, blocks_of(label, values))
    assert relative_error(weighted, values, importance) < 0.97 * relative_error(plain, values, importance)
    assert relative_error(weighted, values) > relative_error(plain, values)


@pytest.mark.parametrize("label", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL"])
def test_an_error_of_a_value_that_stands_out_counts_more(label: str) -> None:
    """With an importance that takes back what their size adds, blocks are those of plain least squares."""
    blocks = np.random.default_rng(11).standard_t(4, (200, 1, 32)).astype(np.float32)
    errors = np.zeros((2, 2))
    for values in blocks:
        weights = 1 + np.abs(values) / np.sqrt(np.mean(values**2))
        for place, importance in enumerate((None, (1 / weights[0]).astype(np.float32))):
            squares = (values_of(label, blocks_of(label, values, importance)) - values) ** 2
            errors[place] += squares.sum(), (weights * squares).sum()
    own, plain = errors
    assert own[1] < plain[1]
    assert own[0] > plain[0]


@pytest.mark.parametrize("label", LARGEST_ERRORS)
def test_every_target_and_number_of_threads_gives_the_same_bytes(label: str) -> None:
    values = normal_rows(40, 1024) * np.exp(np.random.default_rng(3).standard_normal((40, 1))).astype(np.float32)
    importance = np.random.default_rng(4).random(1024, np.float32) + np.float32(0.1)
    expected = _native.quantise_weights(_native.ThreadPool(1, []), "portable", label, values, importance)
    for target in _native.targets():
        np.testing.assert_array_equal(blocks_of(label, values, importance, target), expected)


@pytest.mark.parametrize("label", LARGEST_ERRORS)
def test_values_that_the_format_can_hold_come_back(label: str) -> None:
    """Quantised again, what was quantised hardly moves."""
    once = values_of(label, blocks_of(label, normal_rows(8, 512)))
    again = values_of(label, blocks_of(label, once))
    assert relative_error(again, once) < 0.2 * LARGEST_ERRORS[label]


@pytest.mark.parametrize("label", LARGEST_ERRORS)
def test_zeros_stay_zeros(label: str) -> None:
    assert not values_of(label, blocks_of(label, np.zeros((3, 512), np.float32))).any()


@settings(max_examples=60, deadline=None)
@given(
    label=st.sampled_from(list(LARGEST_ERRORS)),
    exponents=st.lists(st.integers(-40, 4), min_size=16, max_size=16),
    sparsity=st.sampled_from([0.0, 0.5, 0.99]),
    sign=st.sampled_from([-1, 0, 1]),
    seed=st.integers(0, 1000),
)
def test_no_row_is_hurt_more_than_zeros_would(
    label: str, exponents: list[int], sparsity: float, sign: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((1, 512)) * np.repeat(np.exp2(exponents), 32)
    values[generator.random((1, 512)) < sparsity] = 0
    values = (values if sign == 0 else sign * np.abs(values)).astype(np.float32)
    assert_no_worse_than_zeros(label, values)


def assert_no_worse_than_zeros(label: str, values: NDArray[np.float32]) -> None:
    """By what the quantiser weighs: an error of a value counts the more, the more it stands out of its block."""
    found = values_of(label, blocks_of(label, values))
    assert np.isfinite(found).all()
    exact = values.astype(np.float64).reshape(-1, WeightFormat[label].block_size)
    usual = np.sqrt(np.square(exact).mean(axis=1, keepdims=True))
    weights = (1 + np.abs(exact) / np.where(usual > 0, usual, 1)).reshape(values.shape)
    # Scales are float16: below its smallest number nothing can be kept.
    allowed = (weights * (np.square(values, dtype=np.float64) + 2.0**-44)).sum()
    assert (weights * np.square(found.astype(np.float64) - values)).sum() <= allowed


@pytest.mark.parametrize("label", LARGEST_ERRORS)
@pytest.mark.parametrize("sign", [-1, 1])
def test_values_too_small_for_a_scale_are_no_worse_than_zeros(label: str, sign: int) -> None:
    """Where a block's scale underflows but its minimum does not, all values would become the lowest of them."""
    generator = np.random.default_rng(9)
    for exponent in range(-32, -8):
        dense = generator.standard_normal((1, 512))
        for values in (dense, np.abs(dense), np.where(np.arange(512) % 100 == 7, dense, 0)):
            scaled = (sign * values * 2.0**exponent).astype(np.float32)
            assert_no_worse_than_zeros(label, scaled)


@pytest.mark.parametrize("label", LARGEST_ERRORS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38, 1e9])
def test_values_that_cannot_be_kept_are_refused(label: str, bad: float) -> None:
    values = normal_rows(5, 512)
    values[3, 77] = bad
    with pytest.raises(ValueError, match="row 3"):
        blocks_of(label, values)


def test_a_scale_beyond_float16_is_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        blocks_of("Q4_0", np.full((1, 32), 5e6, np.float32))


@pytest.mark.parametrize("weight_format", FLOATS, ids=lambda weight_format: weight_format.label)
def test_floats_are_rounded_to_nearest(weight_format: WeightFormat) -> None:
    values = normal_rows(4, 70)
    expected = gguf.quantize(values, gguf.GGMLQuantizationType[weight_format.label])
    np.testing.assert_array_equal(quantise(values, weight_format), expected.view(np.uint8))


@pytest.mark.parametrize("weight_format", FLOATS, ids=lambda weight_format: weight_format.label)
def test_floats_out_of_range_are_refused(weight_format: WeightFormat) -> None:
    largest = np.array([[np.finfo(np.float32).max]], np.float32)
    if weight_format is not WeightFormat.F32:
        with pytest.raises(ValueError, match="too large"):
            quantise(largest, weight_format)
    with pytest.raises(ValueError, match="finite"):
        quantise(np.array([[np.nan]], np.float32), weight_format)


@pytest.mark.parametrize("importance", [np.ones(31), -np.ones(32), np.full(32, np.nan)])
def test_bad_importance_is_refused(importance: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="importance"):
        quantise(normal_rows(2, 32), WeightFormat.Q4_0, importance.astype(np.float32), pool=POOL)


def test_importance_without_any_weight_counts_as_none() -> None:
    values = normal_rows(2, 64)
    plain = quantise(values, WeightFormat.Q4_0, pool=POOL)
    np.testing.assert_array_equal(quantise(values, WeightFormat.Q4_0, np.zeros(64, np.float32), pool=POOL), plain)


@pytest.mark.parametrize("shape", [(2, 33), (0, 32), (32,)])
def test_rows_must_be_whole_blocks(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="whole Q4_0 blocks"):
        quantise(np.zeros(shape, np.float32), WeightFormat.Q4_0)
