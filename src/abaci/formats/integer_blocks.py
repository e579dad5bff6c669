"""Small integers with scales and zero points, as checkpoints pack them, put into blocks that the kernels run.

Only moves bits: a code, a scale and a zero point are the same numbers before and after. Knows no checkpoint's names.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from abaci.tensor import WeightFormat

Codes = NDArray[np.uint8]
Scales = NDArray[np.floating[Any]]

_BLOCK: Final = 32
_LARGE_BLOCK: Final = 128
_AWQ_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight columns each nibble of a word belongs to, lowest nibble first."""


def unpack_words(words: NDArray[np.int32], bits: int, axis: int) -> Codes:
    """Codes of 4 or 8 bits out of 32-bit words, lowest bits first, along an axis."""
    count = 32 // bits
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    spread = np.moveaxis(words.view(np.uint32), axis, -1)[..., np.newaxis] >> shifts & np.uint32((1 << bits) - 1)
    codes = spread.astype(np.uint8).reshape(*spread.shape[:-2], spread.shape[-2] * count)
    return np.moveaxis(codes, -1, axis)


def unpack_awq_words(words: NDArray[np.int32]) -> Codes:
    """4-bit codes along the last axis, in the order that AWQ packs each eight."""
    codes = unpack_words(words, 4, -1)
    octets = codes.reshape(*codes.shape[:-1], -1, 8)
    ordered = np.empty_like(octets)
    ordered[..., list(_AWQ_ORDER)] = octets
    return ordered.reshape(codes.shape)


def int4_format(num_columns: int, group_size: int) -> WeightFormat | None:
    """The block format for groups of that size, or None where groups are not whole blocks."""
    if num_columns % _BLOCK or group_size % _BLOCK or num_columns % group_size:
        return None
    return WeightFormat.INT4_128 if group_size % _LARGE_BLOCK == 0 else WeightFormat.INT4


def int4_blocks(weight_format: WeightFormat, codes: Codes, scales: Scales, zeros: Codes) -> NDArray[np.uint8]:
    """(rows, columns) codes and (rows, groups) scales and zero points as (rows, bytes of a row)."""
    rows, columns = codes.shape
    num_blocks = columns // weight_format.block_size
    repeats = num_blocks // scales.shape[1]
    blocks = np.empty((rows, num_blocks, weight_format.block_bytes), np.uint8)
    half = np.repeat(scales.astype(np.float16), repeats, axis=1)
    blocks[..., :2] = np.ascontiguousarray(half).view(np.uint8).reshape(rows, num_blocks, 2)
    blocks[..., 2] = np.repeat(zeros, repeats, axis=1)
    runs = codes.reshape(rows, num_blocks, -1, 2, _BLOCK // 2)
    nibbles = runs[..., 0, :] | runs[..., 1, :] << np.uint8(4)
    blocks[..., 3:] = nibbles.reshape(rows, num_blocks, -1)
    return blocks.reshape(rows, -1)


def int8_blocks(codes: NDArray[np.int8], scales: Scales) -> NDArray[np.uint8]:
    """(rows, columns) signed codes and (rows, groups) scales as (rows, bytes of a row)."""
    rows, columns = codes.shape
    num_blocks = columns // _BLOCK
    blocks = np.empty((rows, num_blocks, WeightFormat.INT8.block_bytes), np.uint8)
    single = np.repeat(scales.astype(np.float32), num_blocks // scales.shape[1], axis=1)
    blocks[..., :4] = np.ascontiguousarray(single).view(np.uint8).reshape(rows, num_blocks, 4)
    blocks[..., 4:] = codes.view(np.uint8).reshape(rows, num_blocks, _BLOCK)
    return blocks.reshape(rows, -1)


def is_half(scales: Scales) -> bool:
    """Whether every scale is a float16 number."""
    with np.errstate(over="ignore"):
        return bool(np.array_equal(scales.astype(np.float16).astype(np.float32), scales.astype(np.float32)))


def mxfp4_blocks(nibbles: Codes, exponents: Codes) -> NDArray[np.uint8]:
    """(..., blocks, 16) bytes, two neighbouring values each, and (..., blocks) exponents as GGUF's blocks of 17 bytes.

    GGUF pairs value i with value i + 16.
    """
    values = np.stack([nibbles & np.uint8(15), nibbles >> np.uint8(4)], axis=-1).reshape(*nibbles.shape[:-1], 32)
    paired = values[..., :16] | values[..., 16:] << np.uint8(4)
    return np.concatenate([exponents[..., np.newaxis], paired], axis=-1)


def float8_e4m3(codes: Codes) -> NDArray[np.float32]:
    """FP8 of four exponent and three mantissa bits (OCP 8-bit floats: no infinity, all ones are not a number)."""
    return _E4M3[codes]


def _e4m3_values() -> NDArray[np.float32]:
    codes = np.arange(256)
    exponents, mantissas = codes >> 3 & 15, codes & 7
    values = np.where(exponents == 0, mantissas / 8 * 2.0**-6, (1 + mantissas / 8) * 2.0 ** (exponents - 7.0))
    values = np.where(codes & 127 == 127, np.nan, values)
    return np.where(codes < 128, values, -values).astype(np.float32)


_E4M3: Final = _e4m3_values()


def as_gguf_blocks(weight_format: WeightFormat, data: memoryview) -> tuple[WeightFormat, NDArray[np.uint8]] | None:
    """Blocks of INT4, INT4_128 or INT8 as Q4_0 or Q8_0 of exactly the same values; None where those cannot hold them.

    They can if every zero point is in the middle, or every scale a float16 number.
    """
    blocks = np.frombuffer(data, np.uint8).reshape(-1, weight_format.block_bytes)
    if weight_format is WeightFormat.INT8:
        scales = np.ascontiguousarray(blocks[:, :4]).view(np.float32)
        if not is_half(scales):
            return None
        half = scales.astype(np.float16).view(np.uint8)
        return WeightFormat.Q8_0, np.concatenate([half, blocks[:, 4:]], axis=1)
    if not (blocks[:, 2] == 8).all():
        return None
    runs = weight_format.block_size // _BLOCK
    scales = np.repeat(blocks[:, :2], runs, axis=0)
    return WeightFormat.Q4_0, np.concatenate([scales, blocks[:, 3:].reshape(-1, _BLOCK // 2)], axis=1)
