"""Stored weights as numpy arrays without unpacking them: one item per value, or per block of a quantised format.

Whatever moves rows then serves every format alike. Float values can be had as float32 and put back.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from abaci.tensor import WeightFormat

Array = NDArray[Any]

_ITEMS: dict[WeightFormat, np.dtype[Any]] = {
    WeightFormat.F32: np.dtype("<f4"),
    WeightFormat.F16: np.dtype("<f2"),
    WeightFormat.BF16: np.dtype("<u2"),
}


def as_array(weight_format: WeightFormat, shape: tuple[int, ...], data: memoryview | bytes) -> Array:
    """The tensor without a copy; the last axis counts blocks where the format has them."""
    item: np.dtype[Any] = _ITEMS.get(weight_format) or np.dtype((np.void, weight_format.block_bytes))
    array: Array = np.frombuffer(data, item)
    return array.reshape(*shape[:-1], shape[-1] // weight_format.block_size)


def as_bytes(array: Array) -> memoryview:
    """The array's bytes, in order."""
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1).data


def to_float32(weight_format: WeightFormat, array: Array) -> NDArray[np.float32]:
    """Values of a float format, exactly."""
    if weight_format is WeightFormat.BF16:
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if weight_format in _ITEMS:
        return array.astype(np.float32)
    raise ValueError(f"{weight_format.label} does not hold float values")


def from_float32(weight_format: WeightFormat, values: NDArray[np.float32]) -> Array:
    """Values in a float format, rounded to nearest, ties to even; not-a-number stays one."""
    if weight_format is WeightFormat.F32:
        return values
    if weight_format is WeightFormat.F16:
        with np.errstate(over="ignore"):
            return values.astype(np.float16)
    if weight_format is not WeightFormat.BF16:
        raise ValueError(f"{weight_format.label} does not hold float values")
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded.astype(np.uint16))


def num_bytes(weight_format: WeightFormat, shape: tuple[int, ...]) -> int:
    """That a tensor of that shape takes."""
    values = 1
    for size in shape:
        values *= size
    return values // weight_format.block_size * weight_format.block_bytes
