"""What stored weights mean: every format as integers with a scale and an offset per group, and as float32.

This is the definition the packed kernels are held to; it is vectorised numpy, and used where speed does not matter.
Layouts are those of GGUF (ggml-quants.c) and of `abaci.tensor`: a tensor is a sequence of blocks along its last axis.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from abaci.kernels import grids
from abaci.tensor import WeightFormat

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ScaleSteps:
    """Scales and offsets of groups as integers, and what they count: value = code * steps * d - minimums * dmin.

    steps, minimums  (..., blocks, 8) integers, those of groups beyond the last are zero; steps are below 2^13
    d, dmin          (..., blocks) float32
    factor_bits      what is multiplied by minimums is counted in units of 2^-factor_bits of a power of two
    """

    steps: NDArray[np.integer]
    minimums: NDArray[np.integer]
    d: Floats
    dmin: Floats
    factor_bits: int


@dataclass(frozen=True, slots=True)
class GroupedIntegers:
    """A quantised tensor of shape (..., columns): value = code * scale + offset, the latter two per group of columns.

    codes    (..., columns) int8
    scales   (..., columns / group_size) float32
    offsets  the same, or None where the format has none
    steps    for formats whose products are summed by blocks of eight groups (Q4_K, Q4_1), else None: what scales and
             offsets are made of, or (Q4_1) what is nearest to them
    """

    codes: NDArray[np.int8]
    scales: Floats
    offsets: Floats | None
    group_size: int
    steps: ScaleSteps | None = None

    def to_float(self) -> Floats:
        """The values: product and sum rounded to float32 one after the other, as the formats define them."""
        grouped = self.codes.reshape(*self.scales.shape, self.group_size)
        values = grouped.astype(np.float32) * self.scales[..., np.newaxis]
        if self.offsets is not None:
            values += self.offsets[..., np.newaxis]
        return values.reshape(self.codes.shape)


def dequantise(weight_format: WeightFormat, shape: tuple[int, ...], data: Bytes | memoryview | bytes) -> Floats:
    """The tensor's values as a float32 array of `shape`. Raises ValueError if `data` has the wrong size."""
    if weight_format.is_quantised:
        return decode(weight_format, shape, data).to_float()
    raw = _blocks(weight_format, shape, data)
    if weight_format is WeightFormat.F32:
        return raw.view(np.float32).reshape(shape).copy()
    if weight_format is WeightFormat.F16:
        return raw.view(np.float16).astype(np.float32).reshape(shape)
    high_halves = raw.view(np.uint16).astype(np.uint32) << np.uint32(16)
    return high_halves.view(np.float32).reshape(shape)


def decode(weight_format: WeightFormat, shape: tuple[int, ...], data: Bytes | memoryview | bytes) -> GroupedIntegers:
    """The integers, scales and offsets of a quantised tensor. Raises ValueError if `data` has the wrong size."""
    blocks = _blocks(weight_format, shape, data)
    codes, scales, offsets = _DECODERS[weight_format](blocks)
    group_size = codes.shape[1] // scales.shape[1]
    grouped_shape = (*shape[:-1], shape[-1] // group_size)
    scales = scales.reshape(grouped_shape)
    offsets = None if offsets is None else offsets.reshape(grouped_shape)
    steps = None
    if weight_format is WeightFormat.Q4_K:
        steps = _scale_steps(blocks, shape)
    elif weight_format is WeightFormat.Q4_1 and offsets is not None:
        steps = _counted_steps(scales, offsets)
    return GroupedIntegers(codes.astype(np.int8).reshape(shape), scales, offsets, group_size, steps)


_Decoded = tuple[NDArray[np.integer], Floats, Floats | None]
"""Codes (blocks, block size), scales (blocks, groups per block), offsets likewise or None."""


def _blocks(weight_format: WeightFormat, shape: tuple[int, ...], data: Bytes | memoryview | bytes) -> Bytes:
    """The bytes as (blocks, bytes per block)."""
    num_values = int(np.prod(shape, dtype=np.int64))
    raw = np.frombuffer(data, dtype=np.uint8)
    if not shape or shape[-1] % weight_format.block_size or num_values == 0:
        raise ValueError(f"shape {shape} is not made of whole {weight_format.label} blocks")
    if raw.size != num_values // weight_format.block_size * weight_format.block_bytes:
        raise ValueError(f"{raw.size} bytes for a {weight_format.label} tensor of shape {shape}")
    return raw.reshape(-1, weight_format.block_bytes)


def _half(blocks: Bytes, offset: int) -> Floats:
    """The float16 at `offset` of each block, as (blocks, 1) float32."""
    return np.ascontiguousarray(blocks[:, offset : offset + 2]).view(np.float16).astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """(blocks, n) bytes to (blocks, 2n) codes: all low halves, then all high halves."""
    return np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], axis=1)


def _bits(packed: Bytes) -> Bytes:
    """(blocks, n) bytes to (blocks, 8n) zeros and ones, lowest bit first."""
    return np.unpackbits(packed, axis=1, bitorder="little")


def _decode_q8_0(blocks: Bytes) -> _Decoded:
    # float16 scale, 32 int8
    return blocks[:, 2:].view(np.int8), _half(blocks, 0), None


def _decode_q4_0(blocks: Bytes) -> _Decoded:
    # float16 scale, 16 bytes of nibbles; zero point 8
    return _nibbles(blocks[:, 2:]).astype(np.int8) - 8, _half(blocks, 0), None


def _decode_q4_1(blocks: Bytes) -> _Decoded:
    # float16 scale, float16 offset, 16 bytes of nibbles
    return _nibbles(blocks[:, 4:]), _half(blocks, 0), _half(blocks, 2)


def _decode_q5_0(blocks: Bytes) -> _Decoded:
    # float16 scale, 32 fifth bits, 16 bytes of nibbles; zero point 16
    codes = _nibbles(blocks[:, 6:]) | _bits(blocks[:, 2:6]) << np.uint8(4)
    return codes.astype(np.int8) - 16, _half(blocks, 0), None


def _decode_q5_1(blocks: Bytes) -> _Decoded:
    # float16 scale, float16 offset, 32 fifth bits, 16 bytes of nibbles
    return _nibbles(blocks[:, 8:]) | _bits(blocks[:, 4:8]) << np.uint8(4), _half(blocks, 0), _half(blocks, 2)


def _k_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """The eight 6-bit scales and minimums of a Q4_K or Q5_K block, out of its (blocks, 12) bytes.

    bytes 0..3   low six bits: scale 0..3     top two bits: top of scale 4..7
    bytes 4..7   low six bits: minimum 0..3   top two bits: top of minimum 4..7
    bytes 8..11  low nibble: low of scale 4..7, high nibble: low of minimum 4..7
    """
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    top_bits = np.uint8(0x30)
    scales = np.concatenate([first & np.uint8(63), third & np.uint8(15) | first >> np.uint8(2) & top_bits], axis=1)
    minimums = np.concatenate([second & np.uint8(63), third >> np.uint8(4) | second >> np.uint8(2) & top_bits], axis=1)
    return scales, minimums


def _scale_steps(blocks: Bytes, shape: tuple[int, ...]) -> ScaleSteps:
    per_block = (*shape[:-1], shape[-1] // 256)
    steps, minimums = (part.reshape(*per_block, 8) for part in _k_scales(blocks[:, 4:16]))
    d, dmin = (_half(blocks, offset).reshape(per_block) for offset in (0, 2))
    return ScaleSteps(steps.astype(np.int64) << 7, minimums, d / np.float32(128), dmin, factor_bits=12)


def _counted_steps(scales: Floats, offsets: Floats) -> ScaleSteps:
    """Scales and offsets (..., groups) of float16 as csrc/matmul/paired-inl.h counts them.

    The largest power of two that is not above the largest scale of a block's eight groups has 2^14 units, and counts
    are to the nearest; steps are of four units, minimums of two, from ties up.
    """
    counts, unit = _count(scales)
    minimums, minimum_unit = _count(offsets)
    return ScaleSteps(counts + 2 >> 2, minimums + 1 >> 1, 4 * unit, -2 * minimum_unit, factor_bits=13)


def _count(x: Floats) -> tuple[NDArray[np.int64], Floats]:
    num_groups = x.shape[-1]
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -num_groups % 8)])
    blocks = padded.reshape(*x.shape[:-1], -1, 8)
    unit = (power_of_two_below(np.abs(blocks)) * 2.0**-14).astype(np.float32)
    return np.rint(blocks / unit).astype(np.int64), unit[..., 0]


def power_of_two_below(x: Floats) -> NDArray[np.float64]:
    """The largest power of two that is not above the largest along the last axis, at least 2^-110: (..., 1)."""
    _, exponents = np.frexp(np.maximum(x.max(axis=-1, keepdims=True), np.float32(2.0**-110)))
    power: NDArray[np.float64] = np.exp2(exponents - 1.0)
    return power


def _k_scales_and_offsets(blocks: Bytes) -> tuple[Floats, Floats]:
    scales, minimums = _k_scales(blocks[:, 4:16])
    return _half(blocks, 0) * scales.astype(np.float32), -(_half(blocks, 2) * minimums.astype(np.float32))


def _k_nibbles(packed: Bytes) -> Bytes:
    """128 bytes to 256 codes: each run of 32 bytes holds 32 codes in its low halves, the next 32 in its high halves."""
    return _nibbles(packed.reshape(-1, 32)).reshape(packed.shape[0], 256)


def _decode_q4_k(blocks: Bytes) -> _Decoded:
    # float16 scale of scales, float16 scale of minimums, 12 bytes of both, 128 bytes of nibbles; groups of 32
    return _k_nibbles(blocks[:, 16:]), *_k_scales_and_offsets(blocks)


def _decode_q5_k(blocks: Bytes) -> _Decoded:
    # as Q4_K, with 32 bytes of fifth bits before the nibbles: bit g of byte i belongs to value i of group g
    fifth_bits = _bits(blocks[:, 16:48]).reshape(-1, 32, 8).transpose(0, 2, 1).reshape(-1, 256)
    return _k_nibbles(blocks[:, 48:]) | fifth_bits << np.uint8(4), *_k_scales_and_offsets(blocks)


def _decode_q6_k(blocks: Bytes) -> _Decoded:
    # 128 bytes of nibbles, 64 of upper bit pairs, 16 int8 scales, float16 scale of scales; groups of 16, zero point 32.
    # Each half block of 128 values: 64 bytes of nibbles (low halves first) and 32 of pairs, pair j of byte i for value
    # 32 j + i.
    nibbles = _nibbles(blocks[:, :128].reshape(-1, 64)).reshape(-1, 256)
    pairs = blocks[:, 128:192].reshape(-1, 1, 32) >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 4, 1) & np.uint8(3)
    codes = nibbles | pairs.reshape(-1, 256) << np.uint8(4)
    scales = _half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return codes.astype(np.int8) - 32, scales, None


def _decode_q2_k(blocks: Bytes) -> _Decoded:
    # 16 bytes of 4-bit scales (low) and minimums (high), 64 bytes of pairs, float16 scale of scales, float16 scale of
    # minimums; groups of 16
    scales = _half(blocks, 80) * (blocks[:, :16] & np.uint8(15)).astype(np.float32)
    minimums = _half(blocks, 82) * (blocks[:, :16] >> np.uint8(4)).astype(np.float32)
    return _pairs(blocks[:, 16:80]), scales, -minimums


def _decode_q3_k(blocks: Bytes) -> _Decoded:
    # 32 bytes of third bits as Q5_K's fifth, 64 bytes of pairs, 12 bytes of 16 6-bit scales, float16 scale of scales;
    # groups of 16, zero point 4. Scales: 8 bytes of low nibbles (scale i in the low half of byte i, i + 8 in the high
    # half), 4 bytes of upper pairs (pair j of byte i for scale 4 j + i), zero point 32.
    third_bits = _bits(blocks[:, :32]).reshape(-1, 32, 8).transpose(0, 2, 1).reshape(-1, 256)
    low = _nibbles(blocks[:, 96:104])
    high = _pairs_of(blocks[:, 104:108].reshape(-1, 1, 4)).reshape(-1, 16)
    steps = (low | high << np.uint8(4)).astype(np.int8) - 32
    codes = (_pairs(blocks[:, 32:96]) | third_bits << np.uint8(2)).astype(np.int8) - 4
    return codes, _half(blocks, 108) * steps.astype(np.float32), None


def _pairs_of(packed: Bytes) -> Bytes:
    """(..., 1, n) bytes to (..., 4, n) codes of two bits, lowest first."""
    return packed >> np.array([[0], [2], [4], [6]], np.uint8) & np.uint8(3)


def _pairs(packed: Bytes) -> Bytes:
    """64 bytes to 256 codes: pair j of byte i of a half belongs to value 32 j + i of 128."""
    return _pairs_of(packed.reshape(-1, 2, 1, 32)).reshape(-1, 256)


_IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
_E2M1_HALVES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)
"""The 4-bit float E2M1 (OCP Microscaling Formats 1.0), times two."""


def _decode_iq4_nl(blocks: Bytes) -> _Decoded:
    # float16 scale, 16 bytes of nibbles that index a table
    return _IQ4_VALUES[_nibbles(blocks[:, 2:])], _half(blocks, 0), None


def _decode_iq4_xs(blocks: Bytes) -> _Decoded:
    # float16 scale of scales, 8 upper pairs and 8 low nibbles of scales, 128 bytes of nibbles that index a table;
    # groups of 32, zero point of scales 32
    low = np.stack([blocks[:, 4:8] & np.uint8(15), blocks[:, 4:8] >> np.uint8(4)], axis=2).reshape(-1, 8)
    high = _pairs_of(blocks[:, 2:4].reshape(-1, 1, 2)).transpose(0, 2, 1).reshape(-1, 8)
    steps = (low | high << np.uint8(4)).astype(np.int8) - 32
    codes = _IQ4_VALUES[_nibbles(blocks[:, 8:].reshape(-1, 16)).reshape(-1, 256)]
    return codes, _half(blocks, 0) * steps.astype(np.float32), None


def _decode_mxfp4(blocks: Bytes) -> _Decoded:
    # exponent, 16 bytes of nibbles that are E2M1; 2^(exponent - 127) times E2M1, here as halves
    scales = np.ldexp(np.float32(1), blocks[:, :1].astype(np.int32) - 128).astype(np.float32)
    return _E2M1_HALVES[_nibbles(blocks[:, 1:])], scales, None


def _decode_int4(blocks: Bytes) -> _Decoded:
    # float16 scale, zero point, 16 bytes of nibbles
    return _nibbles(blocks[:, 3:]).astype(np.int8) - blocks[:, 2:3].astype(np.int8), _half(blocks, 0), None


def _decode_int4_128(blocks: Bytes) -> _Decoded:
    # float16 scale, zero point, four times 16 bytes of nibbles; the kernels go by groups of 32
    codes = _nibbles(blocks[:, 3:].reshape(-1, 16)).reshape(-1, 128).astype(np.int8)
    return codes - blocks[:, 2:3].astype(np.int8), np.repeat(_half(blocks, 0), 4, axis=1), None


def _decode_int8(blocks: Bytes) -> _Decoded:
    # float32 scale, 32 int8
    return blocks[:, 4:].view(np.int8), np.ascontiguousarray(blocks[:, :4]).view(np.float32), None


def _without_offsets(decode_grid: Callable[[Bytes], tuple[NDArray[np.int8], Floats]]) -> Callable[[Bytes], _Decoded]:
    return lambda blocks: (*decode_grid(blocks), None)


_DECODERS: dict[WeightFormat, Callable[[Bytes], _Decoded]] = {
    WeightFormat.Q8_0: _decode_q8_0,
    WeightFormat.Q4_0: _decode_q4_0,
    WeightFormat.Q4_1: _decode_q4_1,
    WeightFormat.Q5_0: _decode_q5_0,
    WeightFormat.Q5_1: _decode_q5_1,
    WeightFormat.Q4_K: _decode_q4_k,
    WeightFormat.Q5_K: _decode_q5_k,
    WeightFormat.Q6_K: _decode_q6_k,
    WeightFormat.Q2_K: _decode_q2_k,
    WeightFormat.Q3_K: _decode_q3_k,
    WeightFormat.IQ4_NL: _decode_iq4_nl,
    WeightFormat.IQ4_XS: _decode_iq4_xs,
    WeightFormat.IQ3_S: _without_offsets(grids.decode_iq3_s),
    WeightFormat.IQ3_XXS: _without_offsets(grids.decode_iq3_xxs),
    WeightFormat.IQ2_S: _without_offsets(grids.decode_iq2_s),
    WeightFormat.IQ2_XS: _without_offsets(grids.decode_iq2_xs),
    WeightFormat.IQ2_XXS: _without_offsets(grids.decode_iq2_xxs),
    WeightFormat.MXFP4: _decode_mxfp4,
    WeightFormat.INT4: _decode_int4,
    WeightFormat.INT4_128: _decode_int4_128,
    WeightFormat.INT8: _decode_int8,
}
