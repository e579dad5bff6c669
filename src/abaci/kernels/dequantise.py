"""What stored weights mean: every format as integers with a scale and an offset per group, and as float32.

This is the definition the packed kernels are held to; it is vectorised numpy, and used where speed does not matter.
Layouts are those of GGUF (ggml-quants.c): a tensor is a sequence of blocks along its last axis.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from abaci.tensor import WeightFormat

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class GroupedIntegers:
    """A quantised tensor of shape (..., columns): value = code * scale + offset, the latter two per group of columns.

    codes    (..., columns) int8
    scales   (..., columns / group_size) float32
    offsets  the same, or None where the format has none
    """

    codes: NDArray[np.int8]
    scales: Floats
    offsets: Floats | None
    group_size: int

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
    codes, scales, offsets = _DECODERS[weight_format](_blocks(weight_format, shape, data))
    group_size = codes.shape[1] // scales.shape[1]
    grouped_shape = (*shape[:-1], shape[-1] // group_size)
    return GroupedIntegers(
        codes=codes.astype(np.int8).reshape(shape),
        scales=scales.reshape(grouped_shape),
        offsets=None if offsets is None else offsets.reshape(grouped_shape),
        group_size=group_size,
    )


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


_DECODERS: dict[WeightFormat, Callable[[Bytes], _Decoded]] = {
    WeightFormat.Q8_0: _decode_q8_0,
    WeightFormat.Q4_0: _decode_q4_0,
    WeightFormat.Q4_1: _decode_q4_1,
    WeightFormat.Q5_0: _decode_q5_0,
    WeightFormat.Q5_1: _decode_q5_1,
    WeightFormat.Q4_K: _decode_q4_k,
    WeightFormat.Q5_K: _decode_q5_k,
    WeightFormat.Q6_K: _decode_q6_k,
}
