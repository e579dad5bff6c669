"""All that a GGUF file says before its tensor data, read strictly: nothing in it is believed unchecked."""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from abaci.errors import FileFormatError, UnsupportedModelError
from abaci.formats.checkpoint import MetadataValue
from abaci.formats.gguf.cursor import Cursor, PrefixTooShortError
from abaci.formats.gguf.types import (
    DAMAGED_HINT,
    DEFAULT_ALIGNMENT,
    FORMAT_IDS,
    MAGIC,
    MAX_DIMENSIONS,
    MAX_SHARDS,
    MAX_TENSOR_NAME_BYTES,
    NUMBER_CODES,
    SHARD_COUNT_KEY,
    U32,
    U64,
    ValueType,
    is_alignment,
    is_whole,
    tensor_bytes,
)
from abaci.tensor import TensorInfo, WeightFormat

# Far above any published model, far below what would exhaust memory.
_MAX_METADATA_KEYS: Final = 1 << 16
_MAX_ARRAY_ITEMS: Final = 1 << 22
_MAX_TENSORS: Final = 1 << 18
_MAX_KEY_BYTES: Final = (1 << 16) - 1

_MIN_METADATA_ENTRY_BYTES: Final = 8 + 1 + 4 + 1
_MIN_TENSOR_ENTRY_BYTES: Final = 8 + 1 + 4 + 8 + 4 + 8

_FORMATS: Final = {number: weight_format for weight_format, number in FORMAT_IDS.items()}
_UNSUPPORTED_FORMATS: Final = {
    9: "Q8_1",
    15: "Q8_K",
    19: "IQ1_S",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    40: "NVFP4",
    41: "Q1_0",
}


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says before its tensor data. `path` may be no more than its name."""

    path: Path
    metadata: dict[str, MetadataValue]
    tensors: dict[str, TensorInfo]

    @property
    def num_shards(self) -> int:
        """Files that the model has in all, as this one says. Raises FileFormatError."""
        count = self.metadata.get(SHARD_COUNT_KEY, 1)
        if not is_whole(count) or not 1 <= count <= MAX_SHARDS:
            raise FileFormatError(f"{self.path}: {SHARD_COUNT_KEY} is {count!r}", hint=DAMAGED_HINT)
        return count


def read_header(path: Path, prefix: bytes, file_bytes: int, file_index: int = 0) -> GgufHeader:
    """The header of a file of `file_bytes` of which only the first bytes are at hand; checked as `open` checks it.

    Raises PrefixTooShortError where it ends behind `prefix`; FileFormatError, UnsupportedModelError.
    """
    if len(prefix) < len(MAGIC) <= file_bytes:
        raise PrefixTooShortError
    return read_front(Cursor(path, prefix, file_bytes), file_index)


def read_front(cursor: Cursor, file_index: int) -> GgufHeader:
    """All that comes before the tensor data."""
    num_tensors, num_keys = _read_header(cursor)
    metadata = _read_metadata(cursor, num_keys)
    tensors = _read_tensor_infos(cursor, num_tensors, _alignment(cursor, metadata), file_index)
    return GgufHeader(cursor.path, metadata, tensors)


def _read_header(cursor: Cursor) -> tuple[int, int]:
    """Counts of tensors and metadata entries."""
    if cursor.data[:4] != MAGIC:
        raise FileFormatError(
            f"{cursor.path}: not a GGUF file: it begins with {cursor.data[:4]!r}", hint="Give a file in GGUF format."
        )
    cursor.position = len(MAGIC)
    version = cursor.number(U32, "version")
    if version & 0xFFFF == 0 and version:
        raise UnsupportedModelError(f"{cursor.path}: a big-endian GGUF file", hint="Use the little-endian file.")
    if version not in (2, 3):
        raise UnsupportedModelError(
            f"{cursor.path}: GGUF version {version}; versions 2 and 3 are read", hint="Convert the model again."
        )
    num_tensors = cursor.count(_MAX_TENSORS, _MIN_TENSOR_ENTRY_BYTES, "tensor count")
    return num_tensors, cursor.count(_MAX_METADATA_KEYS, _MIN_METADATA_ENTRY_BYTES, "metadata count")


def _read_metadata(cursor: Cursor, count: int) -> dict[str, MetadataValue]:
    metadata: dict[str, MetadataValue] = {}
    for _ in range(count):
        begin = cursor.position
        key = cursor.string(_MAX_KEY_BYTES, "metadata key")
        if key in metadata:
            cursor.fail(f"metadata key {key!r} appears twice", at=begin)
        metadata[key] = _read_value(cursor, key)
    return metadata


def _read_value(cursor: Cursor, key: str) -> MetadataValue:
    value_type = _read_value_type(cursor, key)
    if value_type is ValueType.ARRAY:
        return _read_array(cursor, key)
    if value_type is ValueType.STRING:
        return cursor.strings(1, key)[0]
    value: MetadataValue = _read_numbers(cursor, value_type, 1, key)[0]
    return value


def _read_value_type(cursor: Cursor, key: str) -> ValueType:
    begin = cursor.position
    number = cursor.number(U32, f"value type of {key!r}")
    try:
        return ValueType(number)
    except ValueError:
        cursor.fail(f"metadata key {key!r} has the unknown value type {number}", at=begin)


def _read_array(cursor: Cursor, key: str) -> MetadataValue:
    begin = cursor.position
    item_type = _read_value_type(cursor, key)
    if item_type is ValueType.ARRAY:
        cursor.fail(f"metadata key {key!r} is an array of arrays, which no model key is", at=begin)
    item_bytes = 8 if item_type is ValueType.STRING else struct.calcsize("<" + NUMBER_CODES[item_type])
    count = cursor.count(_MAX_ARRAY_ITEMS, item_bytes, f"item count of {key!r}")
    if item_type is ValueType.STRING:
        return cursor.strings(count, key)
    return _read_numbers(cursor, item_type, count, key)


def _read_numbers(cursor: Cursor, value_type: ValueType, count: int, key: str) -> list[bool] | list[int] | list[float]:
    layout = struct.Struct(f"<{count}{NUMBER_CODES[value_type]}")
    begin = cursor.skip(layout.size, f"value of {key!r}")
    values = list(layout.unpack_from(cursor.data, begin))
    if value_type is not ValueType.BOOL:
        return values
    if not set(values) <= {0, 1}:
        cursor.fail(f"metadata key {key!r} holds a truth value that is neither 0 nor 1", at=begin)
    return [bool(value) for value in values]


def _alignment(cursor: Cursor, metadata: Mapping[str, MetadataValue]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not is_alignment(alignment):
        cursor.fail(f"general.alignment is {alignment!r}, not a power of two of at least 8")
    return alignment


def _read_tensor_infos(cursor: Cursor, count: int, alignment: int, file_index: int) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for _ in range(count):
        begin = cursor.position
        tensor = _read_tensor_info(cursor, alignment, file_index)
        if tensor.name in tensors:
            cursor.fail(f"tensor {tensor.name!r} appears twice", at=begin)
        tensors[tensor.name] = tensor
    data_begin = cursor.position + -cursor.position % alignment
    tensors = {name: _placed(tensor, data_begin) for name, tensor in tensors.items()}
    _check_extents(cursor, tensors.values())
    return tensors


def _read_tensor_info(cursor: Cursor, alignment: int, file_index: int) -> TensorInfo:
    """One entry, its offset still relative to the data section."""
    begin = cursor.position
    name = cursor.string(MAX_TENSOR_NAME_BYTES, "tensor name")
    num_dimensions = cursor.number(U32, f"dimension count of {name!r}")
    if not 1 <= num_dimensions <= MAX_DIMENSIONS:
        cursor.fail(f"tensor {name!r} has {num_dimensions} dimensions, allowed are 1 to {MAX_DIMENSIONS}", at=begin)
    shape = tuple(cursor.number(U64, f"shape of {name!r}") for _ in range(num_dimensions))[::-1]
    if 0 in shape:
        cursor.fail(f"tensor {name!r} has an empty dimension: {shape}", at=begin)
    weight_format = _weight_format(cursor, name)
    if shape[-1] % weight_format.block_size:
        cursor.fail(
            f"tensor {name!r} has rows of {shape[-1]} values, "
            f"not a multiple of the {weight_format.block_size} values in a block of {weight_format.label}",
            at=begin,
        )
    offset = cursor.number(U64, f"offset of {name!r}")
    if offset % alignment:
        cursor.fail(f"tensor {name!r} lies at offset {offset}, not a multiple of {alignment}", at=begin)
    return TensorInfo(name, weight_format, shape, offset, tensor_bytes(weight_format, shape), file_index)


def _weight_format(cursor: Cursor, name: str) -> WeightFormat:
    begin = cursor.position
    number = cursor.number(U32, f"type of {name!r}")
    if number in _UNSUPPORTED_FORMATS:
        raise UnsupportedModelError(
            f"{cursor.path}: tensor {name!r} is stored as {_UNSUPPORTED_FORMATS[number]}, which cannot be run",
            hint="Use a file quantised to one of: " + ", ".join(weight_format.label for weight_format in FORMAT_IDS),
        )
    if number not in _FORMATS:
        cursor.fail(f"tensor {name!r} has the unknown type {number}", at=begin)
    return _FORMATS[number]


def _placed(tensor: TensorInfo, data_begin: int) -> TensorInfo:
    return TensorInfo(
        tensor.name, tensor.format, tensor.shape, data_begin + tensor.offset, tensor.num_bytes, tensor.file_index
    )


def _check_extents(cursor: Cursor, tensors: Iterable[TensorInfo]) -> None:
    """Every tensor inside the file, no two sharing a byte."""
    by_offset = sorted(tensors, key=lambda tensor: tensor.offset)
    for tensor in by_offset:
        if tensor.offset + tensor.num_bytes > cursor.size:
            cursor.fail(
                f"tensor {tensor.name!r} takes {tensor.num_bytes} bytes, the file has {cursor.size} in all",
                at=tensor.offset,
            )
    for tensor, following in pairwise(by_offset):
        if tensor.offset + tensor.num_bytes > following.offset:
            cursor.fail(f"tensors {tensor.name!r} and {following.name!r} overlap", at=following.offset)
