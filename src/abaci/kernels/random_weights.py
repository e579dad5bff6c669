"""Random weights of every format, to measure kernels with: finite, and of the speed of real ones."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from abaci.kernels import _native
from abaci.tensor import WeightFormat

_SOURCE_ROWS = 4096
_SCALE_OFFSETS: Mapping[WeightFormat, tuple[int, ...]] = {
    WeightFormat.Q4_0: (0,),
    WeightFormat.Q4_1: (0, 2),
    WeightFormat.Q5_0: (0,),
    WeightFormat.Q5_1: (0, 2),
    WeightFormat.Q8_0: (0,),
    WeightFormat.Q4_K: (0, 2),
    WeightFormat.Q5_K: (0, 2),
    WeightFormat.Q6_K: (208,),
    WeightFormat.Q2_K: (80, 82),
    WeightFormat.Q3_K: (108,),
    WeightFormat.IQ4_NL: (0,),
    WeightFormat.IQ4_XS: (0,),
    WeightFormat.IQ3_S: (0,),
    WeightFormat.IQ3_XXS: (0,),
    WeightFormat.IQ2_S: (0,),
    WeightFormat.IQ2_XS: (0,),
    WeightFormat.IQ2_XXS: (0,),
    WeightFormat.MXFP4: (),
    WeightFormat.INT4: (0,),
    WeightFormat.INT4_128: (0,),
    WeightFormat.INT8: (),
}
"""Where a block keeps its float16 fields."""
_OTHER_SCALES: Mapping[WeightFormat, bytes] = {
    WeightFormat.MXFP4: bytes([121]),
    WeightFormat.INT8: np.float32(0.01).tobytes(),
}
"""What the blocks of some formats begin with instead. Any other byte may have any value, but for zero points."""
_ZERO_POINT_AT = 2


def pack_random(pool: _native.ThreadPool, weight_format: WeightFormat, rows: int, columns: int) -> _native.Matrix:
    """A matrix whose rows repeat every few thousand: its packing takes time, its making none."""
    number = list(WeightFormat).index(weight_format)
    matrix = _native.WeightArena(_native.packed_bytes(number, rows, columns) + 4096).allocate(number, rows, columns)
    blocks_per_row = columns // weight_format.block_size
    source = random_blocks(weight_format, blocks_per_row * _SOURCE_ROWS).reshape(_SOURCE_ROWS, -1)
    for first_row in range(0, rows, _SOURCE_ROWS):
        is_finite = matrix.pack(pool, source[: rows - first_row].data, first_row)
        assert is_finite, "random weights are finite"
    return matrix


def random_blocks(weight_format: WeightFormat, num_blocks: int) -> NDArray[np.uint8]:
    """Blocks of finite random weights, shape (num_blocks, block_bytes)."""
    random = np.random.default_rng(2)
    values = random.standard_normal(num_blocks, dtype=np.float32)
    if weight_format is WeightFormat.F32:
        return values.view(np.uint8).reshape(num_blocks, 4)
    if weight_format is WeightFormat.F16:
        return values.astype(np.float16).view(np.uint8).reshape(num_blocks, 2)
    if weight_format is WeightFormat.BF16:
        return np.ascontiguousarray(values.view(np.uint16)[1::2]).view(np.uint8).reshape(num_blocks, 2)
    blocks = random.integers(0, 256, (num_blocks, weight_format.block_bytes), dtype=np.uint8)
    for offset in _SCALE_OFFSETS[weight_format]:
        blocks[:, offset : offset + 2] = np.full((num_blocks, 1), 0.01, np.float16).view(np.uint8)
    other = np.frombuffer(_OTHER_SCALES.get(weight_format, b""), np.uint8)
    blocks[:, : len(other)] = other
    if weight_format in (WeightFormat.INT4, WeightFormat.INT4_128):
        blocks[:, _ZERO_POINT_AT] = 8
    return blocks
