"""What reading and writing GGUF share: types by number, the keys of shards, limits."""

import math
import struct
from enum import IntEnum
from typing import Final, TypeGuard

from abaci.tensor import WeightFormat

MAGIC: Final = b"GGUF"
DEFAULT_ALIGNMENT: Final = 32

# Far above any published model, far below what would exhaust memory.
MAX_SHARDS: Final = 1 << 10
MAX_TENSOR_NAME_BYTES: Final = 64
MAX_DIMENSIONS: Final = 4

DAMAGED_HINT: Final = "The file is damaged or incomplete: fetch it again and compare its SHA-256 with the publisher's."


class ValueType(IntEnum):
    """Of a metadata value, and of an array's items."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


NUMBER_CODES: Final = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "B",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}

FORMAT_IDS: Final = {
    WeightFormat.F32: 0,
    WeightFormat.F16: 1,
    WeightFormat.Q4_0: 2,
    WeightFormat.Q4_1: 3,
    WeightFormat.Q5_0: 6,
    WeightFormat.Q5_1: 7,
    WeightFormat.Q8_0: 8,
    WeightFormat.Q4_K: 12,
    WeightFormat.Q5_K: 13,
    WeightFormat.Q6_K: 14,
    WeightFormat.Q2_K: 10,
    WeightFormat.Q3_K: 11,
    WeightFormat.IQ2_XXS: 16,
    WeightFormat.IQ2_XS: 17,
    WeightFormat.IQ3_XXS: 18,
    WeightFormat.IQ4_NL: 20,
    WeightFormat.IQ3_S: 21,
    WeightFormat.IQ2_S: 22,
    WeightFormat.IQ4_XS: 23,
    WeightFormat.BF16: 30,
    WeightFormat.MXFP4: 39,
}
GGUF_FORMATS: Final = frozenset(FORMAT_IDS)
"""Those that a file can hold."""

U32: Final = struct.Struct("<I")
U64: Final = struct.Struct("<Q")
F32: Final = struct.Struct("<f")

SHARD_INDEX_KEY: Final = "split.no"
SHARD_COUNT_KEY: Final = "split.count"
SHARD_TENSORS_KEY: Final = "split.tensors.count"


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value of the metadata is a whole number; truth values are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_alignment(value: object) -> TypeGuard[int]:
    """Whether tensors can be aligned to so many bytes: a power of two of at least 8."""
    return is_whole(value) and value >= 8 and value & (value - 1) == 0


def tensor_bytes(weight_format: WeightFormat, shape: tuple[int, ...]) -> int:
    """What a tensor takes in a file; the shape's last axis is a multiple of the format's block."""
    return math.prod(shape) // weight_format.block_size * weight_format.block_bytes
