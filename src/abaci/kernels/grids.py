"""Blocks of the IQ2 and IQ3 formats: neighbouring weights together are a point of a grid and a sign each.

    IQ2  8 weights, magnitudes 8, 25 or 43 from a grid of 256, 512 or 1,024 points
    IQ3  4 weights, eight magnitudes, from a grid of 256 or 512 points

The points are in csrc/matmul/grids.cpp; which there are follows no rule. Layouts are those of GGUF (ggml-quants.c): a
block is 256 weights behind a float16 scale, and every function takes (blocks, bytes per block) and gives integers
(blocks, 256) and scales (blocks, groups of 16 or 32).
"""

import importlib
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int8]
Floats = NDArray[np.float32]

_IQ2_MAGNITUDES: Final = (8, 25, 43)
_IQ3_XXS_MAGNITUDES: Final = (4, 12, 20, 28, 36, 44, 52, 62)
_IQ3_S_MAGNITUDES: Final = (1, 3, 5, 7, 9, 11, 13, 15)


def decode_iq2_xxs(blocks: Bytes) -> tuple[Integers, Floats]:
    """Per 32 weights: four indices of 8 bits, four times seven signs, a scale of 4 bits; given to 16 weights twice."""
    words = _words(blocks[:, 2:], np.uint32).reshape(-1, 8, 2)
    indices = np.ascontiguousarray(words[..., 0]).view(np.uint8).reshape(-1, 32)
    codes = _points("IQ2_XXS", indices, _IQ2_MAGNITUDES) * _signs_of_sevens(words[..., 1])
    return codes, np.repeat(_scales(blocks, words[..., 1] >> np.uint32(28), np.float32(0.125)), 2, axis=1)


def decode_iq2_xs(blocks: Bytes) -> tuple[Integers, Floats]:
    """32 times an index of 9 bits and seven signs, then a scale of 4 bits per 16 weights."""
    words = _words(blocks[:, 2:66], np.uint16)
    signs = _signs(_with_parity((words >> np.uint16(9)).astype(np.uint8)))
    codes = _points("IQ2_XS", words & np.uint16(511), _IQ2_MAGNITUDES) * signs
    return codes, _scales(blocks, _nibbles_in_order(blocks[:, 66:74]), np.float32(0.125))


def decode_iq2_s(blocks: Bytes) -> tuple[Integers, Floats]:
    """32 low bytes of indices, 32 bytes of signs, 32 pairs of high bits, a scale of 4 bits per 16 weights."""
    high = (blocks[:, 66:74, np.newaxis] >> np.array([0, 2, 4, 6], np.uint8) & np.uint8(3)).reshape(-1, 32)
    indices = blocks[:, 2:34] | high.astype(np.uint16) << np.uint16(8)
    codes = _points("IQ2_S", indices, _IQ2_MAGNITUDES) * _signs(blocks[:, 34:66])
    return codes, _scales(blocks, _nibbles_in_order(blocks[:, 74:82]), np.float32(0.125))


def decode_iq3_xxs(blocks: Bytes) -> tuple[Integers, Floats]:
    """64 indices of 8 bits, then per 32 weights: four times seven signs, a scale of 4 bits."""
    words = _words(blocks[:, 66:98], np.uint32)
    codes = _points("IQ3_XXS", blocks[:, 2:66], _IQ3_XXS_MAGNITUDES) * _signs_of_sevens(words)
    return codes, _scales(blocks, words >> np.uint32(28), np.float32(0.25))


def decode_iq3_s(blocks: Bytes) -> tuple[Integers, Floats]:
    """64 low bytes of indices, 64 high bits, 32 bytes of signs, a scale of 4 bits per 32 weights."""
    high = np.unpackbits(blocks[:, 66:74], axis=1, bitorder="little")
    indices = blocks[:, 2:66] | high.astype(np.uint16) << np.uint16(8)
    codes = _points("IQ3_S", indices, _IQ3_S_MAGNITUDES) * _signs(blocks[:, 74:106])
    return codes, _scales(blocks, _nibbles_in_order(blocks[:, 106:110]), np.float32(1))


@cache
def _grid(name: str) -> NDArray[np.uint8]:
    """(points, 8 or 4) indices of magnitudes."""
    # Imported here, so that formats without a grid can be read where the extension was not built.
    points: NDArray[np.uint16] = importlib.import_module("abaci.kernels._native").code_grid(name)
    bits = 2 if name.startswith("IQ2") else 4
    return (points[:, np.newaxis] >> np.arange(0, 16, bits, dtype=np.uint16) & np.uint16((1 << bits) - 1)).astype(
        np.uint8
    )


def _points(name: str, indices: NDArray[np.unsignedinteger], magnitudes: tuple[int, ...]) -> Integers:
    codes: Integers = np.array(magnitudes, np.int8)[_grid(name)[indices]].reshape(-1, 256)
    return codes


def _signs(bits: Bytes) -> Integers:
    """(blocks, 32) bytes to (blocks, 256) of 1 and -1: a bit that is set means minus."""
    return np.int8(1) - np.int8(2) * np.unpackbits(bits, axis=1, bitorder="little").astype(np.int8)


def _signs_of_sevens(words: NDArray[np.uint32]) -> Integers:
    """(blocks, 8) words whose low 28 bits are four times seven signs."""
    sevens = words[..., np.newaxis] >> np.array([0, 7, 14, 21], np.uint32) & np.uint32(127)
    return _signs(_with_parity(sevens.astype(np.uint8).reshape(-1, 32)))


def _with_parity(sevens: Bytes) -> Bytes:
    """The eighth sign makes the number of minuses even."""
    parity: Bytes = np.unpackbits(sevens[..., np.newaxis], axis=-1).sum(axis=-1, dtype=np.uint8) & np.uint8(1)
    return sevens | parity << np.uint8(7)


def _scales(blocks: Bytes, steps: NDArray[np.unsignedinteger], unit: np.float32) -> Floats:
    """d * (2 * step + 1) * unit, exact in float32."""
    d = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    return d * (2 * steps.astype(np.float32) + 1) * unit


def _nibbles_in_order(packed: Bytes) -> Bytes:
    """(blocks, n) bytes to (blocks, 2n): low half, high half, low half of the next."""
    return np.stack([packed & np.uint8(15), packed >> np.uint8(4)], axis=2).reshape(len(packed), -1)


def _words(packed: Bytes, kind: type[np.uint16] | type[np.uint32]) -> NDArray[np.unsignedinteger]:
    return np.ascontiguousarray(packed).view(kind)
