"""Matrices for the kernels, one at a time, from the bytes a file would hold."""

import numpy as np
from numpy.typing import NDArray

from abaci.kernels import _native, native
from abaci.tensor import WeightFormat


def packed_matrix(
    weight_format: WeightFormat, rows: int, columns: int, stored: NDArray[np.generic], rows_at_a_time: int | None = None
) -> _native.Matrix | None:
    """The matrix, packed whole or some rows (a multiple of 32) at a time; None where a scale is not finite."""
    number = list(WeightFormat).index(weight_format)
    arena = _native.WeightArena(_native.packed_bytes(number, rows, columns) + 64)
    matrix = arena.allocate(number, rows, columns)
    by_row = np.ascontiguousarray(stored).view(np.uint8).reshape(rows, -1)
    slice_rows = rows_at_a_time or rows
    for first in range(0, rows, slice_rows):
        if not matrix.pack(native.thread_pool(2), memoryview(by_row[first : first + slice_rows]).cast("B"), first):
            return None
    return matrix
