"""The matrix product: its documented order, computed exactly; its bytes, the same on every target, row and thread."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from exact_float32 import flushed, fused_multiply_add, product, rounded
from numpy.typing import NDArray
from packing import packed_matrix

from abaci.kernels import _native, native
from abaci.kernels.dequantise import GroupedIntegers, decode, dequantise
from abaci.tensor import WeightFormat

Floats = NDArray[np.float32]

FORMATS = list(WeightFormat)
QUANTISED = [weight_format for weight_format in FORMATS if weight_format.is_quantised]
TARGETS = native.targets()
GROUP = 32
ZERO_POINT_FORMATS = (WeightFormat.INT4, WeightFormat.INT4_128)
PAIRED_FORMATS = (WeightFormat.Q4_1, WeightFormat.Q4_K)
ONE_SIDED = 2184
"""What a group's values of one sign may sum to before it is quantised to fewer levels."""
IS_REDUCED = os.environ.get("ABACI_TEST_REDUCED") == "1"
"""Set where the same tests run slowly, under sanitizers."""

ROW_COUNTS = (1, 2, 7, 13) if IS_REDUCED else (1, 2, 3, 4, 5, 6, 7, 12, 13, 25)
BLOCK_SHAPES = ((33, 544),) if IS_REDUCED else ((1, 32), (31, 96), (33, 512), (70, 544), (97, 1056))
MIDDLE_BLOCK_SHAPES = ((33, 640),) if IS_REDUCED else ((1, 128), (31, 384), (70, 640), (97, 1152))
SUPER_BLOCK_SHAPES = ((33, 768),) if IS_REDUCED else ((1, 256), (31, 512), (70, 768), (97, 1024))
FLOAT_SHAPES = ((33, 70),) if IS_REDUCED else ((1, 1), (31, 33), (32, 64), (70, 129))

HALF_OFFSETS = {
    **dict.fromkeys(QUANTISED, (0,)),
    WeightFormat.Q4_1: (0, 2),
    WeightFormat.Q5_1: (0, 2),
    WeightFormat.Q4_K: (0, 2),
    WeightFormat.Q5_K: (0, 2),
    WeightFormat.Q6_K: (208,),
    WeightFormat.Q2_K: (80, 82),
    WeightFormat.Q3_K: (108,),
    WeightFormat.MXFP4: (),
    WeightFormat.INT8: (),
}
"""Where a block keeps its float16 scales (and minimums)."""

HALF_MAGNITUDES = (0.02, 2.0**-24, 2.0**-15, 65504.0, 0.0, 1.0)
"""Each row of weights has scales of one of these sizes: usual, the least denormal, denormal, the largest, zero."""
EXPONENTS = (121, 0, 1, 2, 160, 100)
"""The same for scales that are powers of two: usual, three that are denormal or next to it, large, small."""
FLOAT_MAGNITUDES = (1.0, 1e-40, 1e-30, 1e15, 0.0)


def shapes(weight_format: WeightFormat) -> Sequence[tuple[int, int]]:
    sizes = {1: FLOAT_SHAPES, 32: BLOCK_SHAPES, 128: MIDDLE_BLOCK_SHAPES, 256: SUPER_BLOCK_SHAPES}
    return sizes[weight_format.block_size]


CASES = [
    pytest.param(weight_format, *shape, id=f"{weight_format.label}-{shape[0]}x{shape[1]}")
    for weight_format in FORMATS
    for shape in shapes(weight_format)
]


def stored_weights(weight_format: WeightFormat, rows: int, columns: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random weights as a file stores them, (rows, bytes): every code, and scales of every size and sign.

    Of every other half panel, a row's scales are of like size.
    """
    random = np.random.default_rng([seed, rows, columns])
    if not weight_format.is_quantised:
        return float_weights(weight_format, rows, columns, random)
    num_blocks = columns // weight_format.block_size
    blocks = random.integers(0, 256, (rows, num_blocks, weight_format.block_bytes), dtype=np.uint8)
    sizes = np.resize(HALF_MAGNITUDES, rows)[:, np.newaxis]
    is_alike = np.arange(rows)[:, np.newaxis] // 16 % 2 == 1
    for offset in HALF_OFFSETS[weight_format]:
        spread = random.uniform(-1, 1, (rows, num_blocks))
        spread = np.where(is_alike, np.copysign(0.1 + 0.9 * np.abs(spread), spread), spread)
        halves = (sizes * spread).astype(np.float16)
        blocks[:, :, offset : offset + 2] = halves[..., np.newaxis].view(np.uint8)
    if weight_format in ZERO_POINT_FORMATS:
        blocks[:, :, 2] %= 17
    if weight_format is WeightFormat.MXFP4:
        blocks[:, :, 0] = np.resize(EXPONENTS, rows)[:, np.newaxis]
    if weight_format is WeightFormat.INT8:
        scales = np.resize(FLOAT_MAGNITUDES, rows)[:, np.newaxis] * random.uniform(-1, 1, (rows, num_blocks))
        blocks[:, :, :4] = scales.astype(np.float32)[..., np.newaxis].view(np.uint8)
    return blocks.reshape(rows, -1)


def float_weights(
    weight_format: WeightFormat, rows: int, columns: int, random: np.random.Generator
) -> NDArray[np.uint8]:
    values = random.normal(size=(rows, columns))
    if weight_format is WeightFormat.F16:
        values = np.clip(values, -1, 1) * np.resize(HALF_MAGNITUDES, rows)[:, np.newaxis]
        return values.astype(np.float16).view(np.uint8)
    floats = (values * np.resize(FLOAT_MAGNITUDES, rows)[:, np.newaxis]).astype(np.float32)
    if weight_format is WeightFormat.F32:
        return floats.view(np.uint8)
    return (floats.view(np.uint32) >> np.uint32(16)).astype(np.uint16).view(np.uint8)


def activations(rows: int, columns: int) -> Floats:
    """Rows of every kind.

    Usual, huge, around the threshold, denormal, zero, a spike, ties, one sign, constant, far apart.
    """
    random = np.random.default_rng(columns)
    x = random.normal(size=(rows, columns))
    x *= np.resize([1.0, 1e-3, 1e20, 1e-29, 1e-31, 1e-40, 0.0], rows)[:, np.newaxis]
    if rows > 10:
        x[7] = 0.0
        x[7, columns // 2] = -3.0
        x[8] = np.resize(np.arange(-127, 128) / 2, columns)
        x[8, ::GROUP] = 127.0
        x[9] = np.abs(x[9]) + 1.5
        x[10, :GROUP] = -2.5
        x[11] = np.resize([2.75, -2.75], columns)
        x[12] = np.sign(x[12]) * random.uniform(0.85, 1.0, columns)
    return x.astype(np.float32)


def packed(weight_format: WeightFormat, rows: int, columns: int) -> tuple[_native.Matrix, NDArray[np.uint8]]:
    stored = stored_weights(weight_format, rows, columns)
    matrix = packed_matrix(weight_format, rows, columns, stored)
    assert matrix is not None
    return matrix, stored


def multiply(target: str, matrix: _native.Matrix, x: Floats, num_threads: int = 1) -> Floats:
    return _native.Kernels(target).matmul(matrix, x, native.thread_pool(num_threads))[0]


def quantised_by_definition(x: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Values (rows, groups, 32) and scales (rows, groups) of activations."""
    groups = x.reshape(len(x), -1, GROUP)
    greatest, least = groups.max(axis=-1), groups.min(axis=-1)
    is_turned = greatest > -least
    largest, others = np.maximum(greatest, -least), np.minimum(greatest, -least)
    largest[largest <= 1e-30] = 0

    def quantised(magnitude: Floats) -> tuple[Floats, Floats]:
        scales = np.where(largest == 0, np.float32(0), np.where(is_turned, -magnitude, magnitude))
        inverse = np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales != 0)
        return np.rint(product(groups, inverse[..., np.newaxis])), scales

    values, scales = quantised(np.maximum(product(largest, np.float32(1 / 127)), product(others, np.float32(1 / 113))))
    few_values, few_scales = quantised(product(largest, np.float32(1 / (ONE_SIDED // GROUP))))
    is_one_sided = np.maximum(values.clip(0).sum(-1), -values.clip(max=0).sum(-1)) > ONE_SIDED
    values = np.where(is_one_sided[..., np.newaxis], few_values, values)
    return values.astype(np.int64), np.where(is_one_sided, few_scales, scales)


def product_by_definition(weights: GroupedIntegers, x: Floats) -> Floats:
    """The order that matmul-inl.h documents, every rounding in its place: (rows of x, rows of weights)."""
    values, scales = quantised_by_definition(x)
    num_groups = values.shape[1]
    parts = GROUP // weights.group_size
    codes = weights.codes.astype(np.int64).reshape(-1, num_groups, parts, weights.group_size)
    weight_scales = flushed(weights.scales).reshape(-1, num_groups, parts)
    offsets = None if weights.offsets is None else weights.offsets.reshape(-1, num_groups, parts)
    values = values.reshape(-1, num_groups, parts, weights.group_size)
    total = np.zeros((len(x), len(codes)), np.float32)
    for group in range(num_groups):
        in_group = np.zeros_like(total)
        for part in range(parts):
            dot = values[:, group, part] @ codes[:, group, part].T
            scale = weight_scales[:, group, part]
            in_group = fused_multiply_add(dot, scale, in_group) if part else rounded(dot * scale.astype(np.float64))
        total = fused_multiply_add(in_group, scales[:, group, np.newaxis], total)
        for part in range(parts if offsets is not None else 0):
            sums = values[:, group, part].sum(axis=-1).astype(np.float32)
            offset = product(scales[:, group], sums)[:, np.newaxis]
            total = fused_multiply_add(offsets[:, group, part], offset, total)
    return total


@dataclass
class RecordScales:
    """Of a record of eight groups: integers (outputs, 8) and what they count (outputs,)."""

    scales: NDArray[np.int64]
    minimums: NDArray[np.int64]
    d: Floats
    dmin: Floats
    offset_bits: int
    largest_minimum_sum: int


def paired_product_by_definition(
    weight_format: WeightFormat, stored: NDArray[np.uint8], columns: int, x: Floats
) -> Floats:
    """The order that paired-inl.h documents, for rows of Q4_K or Q4_1 blocks."""
    values, scales = quantised_by_definition(x)
    codes = decode(weight_format, (len(stored), columns), stored).codes.astype(np.int64)
    codes = codes.reshape(len(stored), -1, GROUP)
    records = six_bit_records(stored) if weight_format is WeightFormat.Q4_K else counted_records(stored)
    total = np.zeros((len(x), len(stored)), np.float32)
    for record, of in enumerate(records):
        groups = slice(8 * record, 8 * record + 8)
        num_groups = scales[:, groups].shape[1]
        unit = power_of_two_below(np.abs(scales[:, groups]))
        factors = np.minimum(np.rint(scales[:, groups] / unit * 2.0**14), 32767).astype(np.int64)
        dots = np.einsum("rgk,ogk->rog", values[:, groups], codes[:, groups])
        assert np.abs(dots).max() <= 32767
        both_scales = (of.scales[:, :num_groups] * factors[:, np.newaxis] + 2**14) >> 15
        sums = (dots * both_scales).sum(axis=-1)
        assert np.abs(sums).max() < 2**31
        total = fused_multiply_add(rounded(sums * 2.0 * unit), of.d, total)
        offsets = product(scales[:, groups], values[:, groups].sum(axis=-1))
        offset_unit = power_of_two_below(np.abs(offsets))
        rounded_offsets = np.rint(offsets / offset_unit * 2.0**of.offset_bits).astype(np.int64)
        sums = (rounded_offsets[:, np.newaxis] * of.minimums[:, :num_groups]).sum(axis=-1)
        assert np.abs(sums).max() < of.largest_minimum_sum
        total = fused_multiply_add(rounded(sums * offset_unit * 2.0**-of.offset_bits), -of.dmin, total)
    return total


def six_bit_records(stored: NDArray[np.uint8]) -> Iterator[RecordScales]:
    blocks = stored.reshape(len(stored), -1, WeightFormat.Q4_K.block_bytes)
    halves = np.ascontiguousarray(blocks[..., :4]).view(np.float16).astype(np.float32)
    for record in range(blocks.shape[1]):
        pairs = np.array([scales_and_minimums(block) for block in blocks[:, record]], np.int64)  # (outputs, 2, 8)
        yield RecordScales(128 * pairs[:, 0], pairs[:, 1], halves[:, record, 0] / 128, halves[:, record, 1], 12, 2**22)


def counted_records(stored: NDArray[np.uint8]) -> Iterator[RecordScales]:
    blocks = stored.reshape(len(stored), -1, WeightFormat.Q4_1.block_bytes)
    halves = np.ascontiguousarray(blocks[..., :4]).view(np.float16).astype(np.float64)
    for begin in range(0, blocks.shape[1], 8):
        numbers = halves[:, begin : begin + 8]  # (outputs, groups, 2)
        units = [power_of_two_below(np.abs(numbers[..., kind])) * 2.0**-14 for kind in range(2)]
        counts = [np.rint(numbers[..., kind] / units[kind]).astype(np.int64) for kind in range(2)]
        d, minimum_unit = (unit[:, 0].astype(np.float32) for unit in units)
        yield RecordScales(counts[0] + 2 >> 2, counts[1] + 1 >> 1, 4 * d, -2 * minimum_unit, 13, 2**31)


def power_of_two_below(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """The largest power of two that is not above the largest of each row, at least 2^-110: (rows, 1)."""
    largest = np.maximum(x.max(axis=-1, keepdims=True), 2.0**-110)
    return 2.0 ** np.floor(np.log2(largest.astype(np.float64)))


def scales_and_minimums(block: NDArray[np.uint8]) -> tuple[list[int], list[int]]:
    """Of a Q4_K block's eight groups, from its bytes 4..15."""
    q = [int(byte) for byte in block[4:16]]
    scales = [q[i] & 63 for i in range(4)] + [(q[8 + i] & 15) | (q[i] >> 6) << 4 for i in range(4)]
    minimums = [q[4 + i] & 63 for i in range(4)] + [(q[8 + i] >> 4) | (q[4 + i] >> 6) << 4 for i in range(4)]
    return scales, minimums


def float_product_by_definition(weights: Floats, x: Floats) -> Floats:
    total = np.zeros((len(x), len(weights)), np.float32)
    for column in range(x.shape[1]):
        total = fused_multiply_add(flushed(weights[:, column]), flushed(x[:, column, np.newaxis]), total)
    return total


@pytest.mark.parametrize(("weight_format", "rows", "columns"), CASES)
def test_equals_the_documented_order(weight_format: WeightFormat, rows: int, columns: int) -> None:
    matrix, stored = packed(weight_format, rows, columns)
    x = activations(max(ROW_COUNTS), columns)
    if weight_format in PAIRED_FORMATS:
        expected = paired_product_by_definition(weight_format, stored, columns, x)
    elif weight_format.is_quantised:
        expected = product_by_definition(decode(weight_format, (rows, columns), stored), x)
    else:
        expected = float_product_by_definition(dequantise(weight_format, (rows, columns), stored), x)
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(multiply(TARGETS[0], matrix, x), expected)


@pytest.mark.parametrize(("weight_format", "rows", "columns"), CASES)
def test_targets_rows_and_threads_give_the_same_bytes(weight_format: WeightFormat, rows: int, columns: int) -> None:
    matrix, _ = packed(weight_format, rows, columns)
    x = activations(max(ROW_COUNTS), columns)
    whole = multiply(TARGETS[0], matrix, x)
    for target in TARGETS:
        for num_rows in ROW_COUNTS:
            first = max(ROW_COUNTS) - num_rows
            for num_threads in (1, 2):
                part = multiply(target, matrix, x[first:], num_threads)
                assert part.tobytes() == whole[first:].tobytes(), (target, num_rows, num_threads)


@pytest.mark.parametrize("label", ["F16", "Q4_1", "Q5_0", "Q4_K", "Q6_K", "Q2_K"])
def test_more_rows_than_one_task_takes(label: str) -> None:
    matrix, _ = packed(WeightFormat[label], 40, 1024)
    x = activations(140, 1024)
    for target in TARGETS:
        together = multiply(target, matrix, x, 2)
        assert together[-1:].tobytes() == multiply(TARGETS[0], matrix, x[-1:]).tobytes()
        assert together[:70].tobytes() == multiply(TARGETS[0], matrix, x[:70]).tobytes()


@pytest.mark.parametrize("num_rows", [1, 8, 9, 30])
@pytest.mark.parametrize(("weight_format", "columns"), [(WeightFormat.Q4_K, 9216), (WeightFormat.Q4_1, 9312)])
def test_more_inputs_than_are_prepared_at_once(weight_format: WeightFormat, columns: int, num_rows: int) -> None:
    matrix, _ = packed(weight_format, 65, columns)
    x = activations(30, columns)[-num_rows:]
    one_by_one = [multiply(TARGETS[0], matrix, row[np.newaxis]) for row in x]
    for target in TARGETS:
        assert multiply(target, matrix, x, 2).tobytes() == np.concatenate(one_by_one).tobytes()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("weight_format", PAIRED_FORMATS)
def test_activations_beyond_what_units_reach_are_not_numbers(weight_format: WeightFormat, target: str) -> None:
    matrix, _ = packed(weight_format, 1, 512)
    x = np.ones((3, 512), np.float32)
    x[0, 300], x[1, 300] = 2.0**96, 2.0**97  # scales of about 2^89 and 2^90
    assert np.isfinite(multiply(target, matrix, x)).tolist() == [[True], [False], [True]]


@pytest.mark.parametrize(("weight_format", "rows", "columns"), CASES)
def test_packed_rows_are_the_files(weight_format: WeightFormat, rows: int, columns: int) -> None:
    matrix, stored = packed(weight_format, rows, columns)
    assert (matrix.rows, matrix.columns, FORMATS[matrix.format]) == (rows, columns, weight_format)
    in_slices = packed_matrix(weight_format, rows, columns, stored, rows_at_a_time=32)
    assert in_slices is not None
    expected = dequantise(weight_format, (rows, columns), stored)
    for row in range(rows):
        np.testing.assert_array_equal(matrix.unpack_row(row), expected[row])
        np.testing.assert_array_equal(in_slices.unpack_row(row), expected[row])


def broken_fields(weight_format: WeightFormat) -> Iterator[tuple[int, bytes]]:
    """What a block must not hold, and where."""
    if weight_format is WeightFormat.MXFP4:
        yield from ((0, bytes([exponent])) for exponent in (232, 254, 255))
    for broken in (np.nan, np.inf, -np.inf):
        if weight_format in (WeightFormat.F32, WeightFormat.INT8):
            yield 0, np.float32(broken).tobytes()
        elif weight_format is WeightFormat.BF16:
            yield 0, np.float32(broken).tobytes()[2:]
        else:
            for offset in HALF_OFFSETS.get(weight_format, (0,)):
                yield offset, np.float16(broken).tobytes()
    if weight_format in ZERO_POINT_FORMATS:
        yield 2, bytes([17])


@pytest.mark.parametrize("weight_format", FORMATS, ids=lambda weight_format: weight_format.label)
def test_scales_that_are_not_finite_are_refused(weight_format: WeightFormat) -> None:
    rows, columns = 35, 2 * max(GROUP, weight_format.block_size)
    for offset, field in broken_fields(weight_format):
        for row in (0, 31, 34):
            stored = stored_weights(weight_format, rows, columns)
            begin = stored.shape[1] - weight_format.block_bytes + offset
            stored[row, begin : begin + len(field)] = np.frombuffer(field, np.uint8)
            assert packed_matrix(weight_format, rows, columns, stored) is None, (row, offset)


@pytest.mark.parametrize("exponent", [0, 1, 2, 230, 231])
def test_powers_of_two_that_are_taken_give_finite_products(exponent: int) -> None:
    stored = np.full((1, 17), exponent, np.uint8)
    stored[:, 1:] = 0x71  # 0.5 and 6
    matrix = packed_matrix(WeightFormat.MXFP4, 1, 32, stored)
    assert matrix is not None
    x = np.full((1, 32), 2.0**-20, np.float32)
    expected = product_by_definition(decode(WeightFormat.MXFP4, (1, 32), stored), x)
    assert np.isfinite(expected).all()
    for target in TARGETS:
        np.testing.assert_array_equal(multiply(target, matrix, x), expected)


def test_rows_that_are_not_finite_stay_alone() -> None:
    """An overflow spoils its own row, the same way on every target, and no other."""
    for weight_format in (WeightFormat.F32, WeightFormat.Q4_K, WeightFormat.Q6_K, WeightFormat.Q8_0):
        matrix, _ = packed(weight_format, 33, 256)
        x = np.random.default_rng(0).normal(size=(6, 256)).astype(np.float32)
        clean = multiply(TARGETS[0], matrix, x)
        x[1, 3], x[2, 40], x[4, 255] = np.nan, np.inf, -np.inf
        for target in TARGETS:
            result = multiply(target, matrix, x)
            np.testing.assert_array_equal(result, multiply(TARGETS[0], matrix, x))
            assert result[[0, 3, 5]].tobytes() == clean[[0, 3, 5]].tobytes()
            assert not np.isfinite(result[[2, 4]]).any(), (weight_format, target)
            among_others = multiply(target, matrix, np.tile(x, (5, 1)))
            assert among_others.tobytes() == np.tile(result, (5, 1)).tobytes(), (weight_format, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("columns", [32, 96, 1056])
def test_activations_are_quantised_as_defined(target: str, columns: int) -> None:
    x = activations(25, columns)
    values, scales, sums = _native.Kernels(target).quantise(x)
    expected_values, expected_scales = quantised_by_definition(x)
    np.testing.assert_array_equal(values.reshape(expected_values.shape), expected_values)
    np.testing.assert_array_equal(scales, expected_scales)
    np.testing.assert_array_equal(sums[:, 0], expected_values.sum(axis=-1))
    np.testing.assert_array_equal(sums[:, 1], expected_values[..., :16].sum(axis=-1))
    assert expected_values.min() >= -127
    assert expected_values.max() <= 113


def test_the_callers_float_modes_are_its_own_again() -> None:
    matrix, _ = packed(WeightFormat.Q4_0, 1, 32)
    denormal = np.array([1e-40], np.float32)
    multiply(TARGETS[0], matrix, np.ones((1, 32), np.float32), 2)
    _native.Kernels(TARGETS[0]).exp(denormal)
    assert (denormal * np.float32(0.5) > 0).all()
