"""GGUF, read strictly and written atomically. Every file is taken for hostile: nothing in it is believed unchecked.

Layout (little-endian, versions 2 and 3; https://github.com/ggml-org/ggml/blob/master/docs/gguf.md):

    magic, version, tensor count, metadata count | metadata | tensor infos | padding | tensor data

Knows nothing of architectures: keys and tensors are handed on by name.
"""

import math
import mmap
import os
import re
import secrets
import struct
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import IO, BinaryIO, Final, NoReturn, Self, TypeGuard

from abaci.errors import FileFormatError, ModelNotFoundError, UnsupportedModelError, UsageError
from abaci.formats.checkpoint import MetadataValue
from abaci.formats.string_arrays import split_strings
from abaci.formats.tokenizer import Tokenizer
from abaci.tensor import TensorInfo, WeightFormat

MAGIC: Final = b"GGUF"
DEFAULT_ALIGNMENT: Final = 32

# Far above any published model, far below what would exhaust memory.
_MAX_METADATA_KEYS: Final = 1 << 16
_MAX_ARRAY_ITEMS: Final = 1 << 22
_MAX_TENSORS: Final = 1 << 18
_MAX_SHARDS: Final = 1 << 10
_MAX_KEY_BYTES: Final = (1 << 16) - 1
_MAX_TENSOR_NAME_BYTES: Final = 64
_MANY_STRINGS: Final = 1000
_BYTES_HINT: Final = "Give the data in the tensor's own format and shape, without padding."
_MAX_DIMENSIONS: Final = 4

_MIN_METADATA_ENTRY_BYTES: Final = 8 + 1 + 4 + 1
_MIN_TENSOR_ENTRY_BYTES: Final = 8 + 1 + 4 + 8 + 4 + 8

_DAMAGED_HINT: Final = "The file is damaged or incomplete: fetch it again and compare its SHA-256 with the publisher's."


class _ValueType(IntEnum):
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


_NUMBER_CODES: Final = {
    _ValueType.UINT8: "B",
    _ValueType.INT8: "b",
    _ValueType.UINT16: "H",
    _ValueType.INT16: "h",
    _ValueType.UINT32: "I",
    _ValueType.INT32: "i",
    _ValueType.FLOAT32: "f",
    _ValueType.BOOL: "B",
    _ValueType.UINT64: "Q",
    _ValueType.INT64: "q",
    _ValueType.FLOAT64: "d",
}

_FORMAT_IDS: Final = {
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
_FORMATS: Final = {number: weight_format for weight_format, number in _FORMAT_IDS.items()}
GGUF_FORMATS: Final = frozenset(_FORMAT_IDS)
"""Those that a file can hold."""

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

_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_F32: Final = struct.Struct("<f")

_SHARD_NAME: Final = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf")
_SHARD_INDEX_KEY: Final = "split.no"
_SHARD_COUNT_KEY: Final = "split.count"
_SHARD_TENSORS_KEY: Final = "split.tensors.count"


class GgufCheckpoint:
    """A GGUF file, or all shards of one, opened read-only and mapped. A context manager; if nobody holds it, it closes.

    The mapping is shared with the file: a file cut short while it is open kills the process, so files are replaced,
    never rewritten.
    """

    __slots__ = ("__weakref__", "_close", "_files", "_mappings", "_metadata", "_paths", "_tensors")

    def __init__(self, shards: Sequence["_Shard"]) -> None:
        headers = [shard.header for shard in shards]
        self._paths = tuple(header.path for header in headers)
        self._files = tuple(shard.file for shard in shards)
        self._mappings = tuple(shard.mapping for shard in shards)
        self._metadata = MappingProxyType(_merge_metadata(headers))
        self._tensors = MappingProxyType(_merge_tensors(headers))
        self._close = weakref.finalize(self, _unmap, self._mappings, self._files)
        self._close.atexit = False

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open and check a file; any shard of a sharded model opens all of them.

        Raises ModelNotFoundError, FileFormatError (file, offset or key in the message), and UnsupportedModelError for
        a sound file of a version or tensor type we do not read.
        """
        path = Path(path)
        with ExitStack() as opened:
            first = _read_shard(path, 0, opened)
            if first.header.metadata.get(_SHARD_COUNT_KEY, 1) == 1:
                shards = [first]
            else:
                shards = [_read_shard(shard, i, opened) for i, shard in enumerate(_shard_paths(first.header))]
                _check_shards([shard.header for shard in shards])
                first.mapping.close()
                first.file.close()
            checkpoint = cls(shards)
            opened.pop_all()
            return checkpoint

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file, or its shards in order."""
        return self._paths

    @property
    def metadata(self) -> Mapping[str, MetadataValue]:
        """Keys as the file names them, e.g. `qwen2.block_count`."""
        return self._metadata

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """By name, in file order."""
        return self._tensors

    @property
    def notes(self) -> tuple[str, ...]:
        """None: what a file says that is not understood is refused."""
        return ()

    def data(self, tensor: TensorInfo) -> memoryview:
        """The tensor's bytes, read-only, backed by the mapping; exactly `tensor.num_bytes` long."""
        return memoryview(self._mappings[tensor.file_index])[tensor.offset : tensor.offset + tensor.num_bytes]

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The open files, in order of `file_index`. Ours: duplicate them to keep them."""
        return tuple(file.fileno() for file in self._files)

    def is_stored(self, tensor: TensorInfo) -> bool:
        """Always: a file is read as it is."""
        return True

    def gguf_metadata(self) -> Mapping[str, MetadataValue]:
        """The metadata."""
        return self._metadata

    def tokenizer(self) -> Tokenizer:
        """Built from the metadata. Raises FileFormatError, UnsupportedModelError for an unknown kind."""
        return Tokenizer.from_gguf(self._metadata)

    def release(self, tensor: TensorInfo) -> None:
        """Drop the tensor's pages from our memory; reading them again brings them back from the file."""
        begin = tensor.offset - tensor.offset % mmap.PAGESIZE
        self._mappings[tensor.file_index].madvise(mmap.MADV_DONTNEED, begin, tensor.offset + tensor.num_bytes - begin)

    def close(self) -> None:
        """Unmap, or where a view is still held (as an exception's frames do) let the last view do it. Idempotent."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _unmap(mappings: Iterable[mmap.mmap], files: Iterable[BinaryIO]) -> None:
    for mapping in mappings:
        with suppress(BufferError):
            mapping.close()
    for file in files:
        file.close()


@dataclass(frozen=True, slots=True)
class _Shard:
    header: "GgufHeader"
    file: BinaryIO
    mapping: mmap.mmap


def _read_shard(path: Path, file_index: int, opened: ExitStack) -> _Shard:
    file, mapping = _map(path, opened)
    return _Shard(_read_front(_Cursor(path, mapping), file_index), file, mapping)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says before its tensor data. `path` may be no more than its name."""

    path: Path
    metadata: dict[str, MetadataValue]
    tensors: dict[str, TensorInfo]

    @property
    def num_shards(self) -> int:
        """Files that the model has in all, as this one says. Raises FileFormatError."""
        count = self.metadata.get(_SHARD_COUNT_KEY, 1)
        if not _is_int(count) or not 1 <= count <= _MAX_SHARDS:
            raise FileFormatError(f"{self.path}: {_SHARD_COUNT_KEY} is {count!r}", hint=_DAMAGED_HINT)
        return count


def read_header(path: Path, prefix: bytes, file_bytes: int, file_index: int = 0) -> GgufHeader:
    """The header of a file of `file_bytes` of which only the first bytes are at hand; checked as `open` checks it.

    Raises PrefixTooShortError where it ends behind `prefix`; FileFormatError, UnsupportedModelError.
    """
    if len(prefix) < len(MAGIC) <= file_bytes:
        raise PrefixTooShortError
    return _read_front(_Cursor(path, prefix, file_bytes), file_index)


def join_headers(headers: Sequence[GgufHeader]) -> GgufHeader:
    """The headers of all shards, in order, as one. Raises FileFormatError for shards that do not belong together."""
    if len(headers) == 1 and headers[0].num_shards == 1:
        return headers[0]
    _check_shards(headers)
    return GgufHeader(headers[0].path, _merge_metadata(headers), _merge_tensors(headers))


def _read_front(cursor: "_Cursor", file_index: int) -> GgufHeader:
    """All that comes before the tensor data."""
    num_tensors, num_keys = _read_header(cursor)
    metadata = _read_metadata(cursor, num_keys)
    tensors = _read_tensor_infos(cursor, num_tensors, _alignment(cursor, metadata), file_index)
    return GgufHeader(cursor.path, metadata, tensors)


def _map(path: Path, opened: ExitStack) -> tuple[BinaryIO, mmap.mmap]:
    try:
        file = opened.enter_context(path.open("rb"))
        if os.fstat(file.fileno()).st_size == 0:
            raise FileFormatError(f"{path}: the file is empty", hint=_DAMAGED_HINT)
        return file, opened.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError:
        raise ModelNotFoundError(f"{path}: no such file", hint="Check the path.") from None
    except (OSError, ValueError) as error:
        raise FileFormatError(
            f"{path}: cannot be read: {error}", hint="Check that it is a file you may read."
        ) from None


class PrefixTooShortError(Exception):
    """The header goes on behind the bytes at hand: read more of the file and try again."""


class _Cursor:
    """Reads values front to back; whatever would end behind the file's end is an error that names the place.

    `data` may be only the beginning of a file of `size` bytes; a value behind it raises PrefixTooShortError.
    """

    __slots__ = ("data", "path", "position", "size")

    def __init__(self, path: Path, data: mmap.mmap | bytes, size: int | None = None) -> None:
        self.path = path
        self.data = data
        self.size = len(data) if size is None else size
        self.position = 0

    def fail(self, problem: str, *, at: int | None = None) -> NoReturn:
        offset = self.position if at is None else at
        raise FileFormatError(f"{self.path}: at byte {offset}: {problem}", hint=_DAMAGED_HINT)

    def skip(self, num_bytes: int, what: str) -> int:
        """Step over `num_bytes`; returns where they began."""
        begin = self.position
        if num_bytes > self.size - begin:
            self.fail(f"{what} takes {num_bytes} bytes, the file has {self.size - begin} left")
        if num_bytes > len(self.data) - begin:
            raise PrefixTooShortError
        self.position = begin + num_bytes
        return begin

    def number(self, layout: struct.Struct, what: str) -> int:
        begin = self.skip(layout.size, what)
        value: int = layout.unpack_from(self.data, begin)[0]
        return value

    def count(self, limit: int, min_item_bytes: int, what: str) -> int:
        """A 64-bit count of items that must all fit in the rest of the file, and be at most `limit`."""
        begin = self.position
        count = self.number(_U64, what)
        if count * min_item_bytes > self.size - self.position:
            self.fail(f"{what} is {count}, more than the file's remaining bytes can hold", at=begin)
        if count > limit:
            self.fail(f"{what} is {count}, the limit is {limit}", at=begin)
        return count

    def string(self, limit_bytes: int, what: str) -> str:
        """A non-empty name of at most `limit_bytes`."""
        begin = self.position
        num_bytes = self.number(_U64, f"length of {what}")
        if not 0 < num_bytes <= limit_bytes:
            self.fail(f"{what} is {num_bytes} bytes long, allowed are 1 to {limit_bytes}", at=begin)
        self.position = begin
        return self.strings(1, what)[0]

    def strings(self, count: int, what: str) -> list[str]:
        """`count` strings, each a 64-bit length and UTF-8."""
        if count >= _MANY_STRINGS and (split := split_strings(self.data, self.position, count)):
            values, self.position = split
            return values
        data, available, position = self.data, len(self.data), self.position
        length_at = _U64.unpack_from
        values = []
        try:
            for _ in range(count):
                begin = position + 8
                end = begin + length_at(data, position)[0]
                if end > available:
                    if end <= self.size:
                        raise PrefixTooShortError
                    self.fail(f"{what}: a string of {end - begin} bytes ends behind the file's end", at=position)
                values.append(data[begin:end].decode())
                position = end
        except struct.error:
            if position + 8 <= self.size:
                raise PrefixTooShortError from None
            self.fail(f"{what}: the file ends inside a string's length", at=position)
        except UnicodeDecodeError as error:
            self.fail(f"{what}: text is not valid UTF-8 ({error.reason})", at=begin + error.start)
        self.position = position
        return values


def _read_header(cursor: _Cursor) -> tuple[int, int]:
    """Counts of tensors and metadata entries."""
    if cursor.data[:4] != MAGIC:
        raise FileFormatError(
            f"{cursor.path}: not a GGUF file: it begins with {cursor.data[:4]!r}", hint="Give a file in GGUF format."
        )
    cursor.position = len(MAGIC)
    version = cursor.number(_U32, "version")
    if version & 0xFFFF == 0 and version:
        raise UnsupportedModelError(f"{cursor.path}: a big-endian GGUF file", hint="Use the little-endian file.")
    if version not in (2, 3):
        raise UnsupportedModelError(
            f"{cursor.path}: GGUF version {version}; versions 2 and 3 are read", hint="Convert the model again."
        )
    num_tensors = cursor.count(_MAX_TENSORS, _MIN_TENSOR_ENTRY_BYTES, "tensor count")
    return num_tensors, cursor.count(_MAX_METADATA_KEYS, _MIN_METADATA_ENTRY_BYTES, "metadata count")


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, MetadataValue]:
    metadata: dict[str, MetadataValue] = {}
    for _ in range(count):
        begin = cursor.position
        key = cursor.string(_MAX_KEY_BYTES, "metadata key")
        if key in metadata:
            cursor.fail(f"metadata key {key!r} appears twice", at=begin)
        metadata[key] = _read_value(cursor, key)
    return metadata


def _read_value(cursor: _Cursor, key: str) -> MetadataValue:
    value_type = _read_value_type(cursor, key)
    if value_type is _ValueType.ARRAY:
        return _read_array(cursor, key)
    if value_type is _ValueType.STRING:
        return cursor.strings(1, key)[0]
    value: MetadataValue = _read_numbers(cursor, value_type, 1, key)[0]
    return value


def _read_value_type(cursor: _Cursor, key: str) -> _ValueType:
    begin = cursor.position
    number = cursor.number(_U32, f"value type of {key!r}")
    try:
        return _ValueType(number)
    except ValueError:
        cursor.fail(f"metadata key {key!r} has the unknown value type {number}", at=begin)


def _read_array(cursor: _Cursor, key: str) -> MetadataValue:
    begin = cursor.position
    item_type = _read_value_type(cursor, key)
    if item_type is _ValueType.ARRAY:
        cursor.fail(f"metadata key {key!r} is an array of arrays, which no model key is", at=begin)
    item_bytes = 8 if item_type is _ValueType.STRING else struct.calcsize("<" + _NUMBER_CODES[item_type])
    count = cursor.count(_MAX_ARRAY_ITEMS, item_bytes, f"item count of {key!r}")
    if item_type is _ValueType.STRING:
        return cursor.strings(count, key)
    return _read_numbers(cursor, item_type, count, key)


def _read_numbers(
    cursor: _Cursor, value_type: _ValueType, count: int, key: str
) -> list[bool] | list[int] | list[float]:
    layout = struct.Struct(f"<{count}{_NUMBER_CODES[value_type]}")
    begin = cursor.skip(layout.size, f"value of {key!r}")
    values = list(layout.unpack_from(cursor.data, begin))
    if value_type is not _ValueType.BOOL:
        return values
    if not set(values) <= {0, 1}:
        cursor.fail(f"metadata key {key!r} holds a truth value that is neither 0 nor 1", at=begin)
    return [bool(value) for value in values]


def _alignment(cursor: _Cursor, metadata: Mapping[str, MetadataValue]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not _is_int(alignment) or alignment < 8 or alignment & (alignment - 1):
        cursor.fail(f"general.alignment is {alignment!r}, not a power of two of at least 8")
    return alignment


def _read_tensor_infos(cursor: _Cursor, count: int, alignment: int, file_index: int) -> dict[str, TensorInfo]:
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


def _read_tensor_info(cursor: _Cursor, alignment: int, file_index: int) -> TensorInfo:
    """One entry, its offset still relative to the data section."""
    begin = cursor.position
    name = cursor.string(_MAX_TENSOR_NAME_BYTES, "tensor name")
    num_dimensions = cursor.number(_U32, f"dimension count of {name!r}")
    if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
        cursor.fail(f"tensor {name!r} has {num_dimensions} dimensions, allowed are 1 to {_MAX_DIMENSIONS}", at=begin)
    shape = tuple(cursor.number(_U64, f"shape of {name!r}") for _ in range(num_dimensions))[::-1]
    if 0 in shape:
        cursor.fail(f"tensor {name!r} has an empty dimension: {shape}", at=begin)
    weight_format = _weight_format(cursor, name)
    if shape[-1] % weight_format.block_size:
        cursor.fail(
            f"tensor {name!r} has rows of {shape[-1]} values, "
            f"not a multiple of the {weight_format.block_size} values in a block of {weight_format.label}",
            at=begin,
        )
    offset = cursor.number(_U64, f"offset of {name!r}")
    if offset % alignment:
        cursor.fail(f"tensor {name!r} lies at offset {offset}, not a multiple of {alignment}", at=begin)
    return TensorInfo(name, weight_format, shape, offset, _num_bytes(weight_format, shape), file_index)


def _weight_format(cursor: _Cursor, name: str) -> WeightFormat:
    begin = cursor.position
    number = cursor.number(_U32, f"type of {name!r}")
    if number in _UNSUPPORTED_FORMATS:
        raise UnsupportedModelError(
            f"{cursor.path}: tensor {name!r} is stored as {_UNSUPPORTED_FORMATS[number]}, which cannot be run",
            hint="Use a file quantised to one of: " + ", ".join(weight_format.label for weight_format in _FORMAT_IDS),
        )
    if number not in _FORMATS:
        cursor.fail(f"tensor {name!r} has the unknown type {number}", at=begin)
    return _FORMATS[number]


def _num_bytes(weight_format: WeightFormat, shape: tuple[int, ...]) -> int:
    return math.prod(shape) // weight_format.block_size * weight_format.block_bytes


def _placed(tensor: TensorInfo, data_begin: int) -> TensorInfo:
    return TensorInfo(
        tensor.name, tensor.format, tensor.shape, data_begin + tensor.offset, tensor.num_bytes, tensor.file_index
    )


def _check_extents(cursor: _Cursor, tensors: Iterable[TensorInfo]) -> None:
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


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


# Shards: file i of n is named stem-0000i-of-0000n.gguf and holds split.no = i - 1, split.count = n and
# split.tensors.count (of all files together). The first one has the model's metadata.


def _shard_paths(shard: GgufHeader) -> list[Path]:
    count = shard.metadata[_SHARD_COUNT_KEY]
    name = _SHARD_NAME.fullmatch(shard.path.name)
    if not _is_int(count) or not 1 < count <= _MAX_SHARDS:
        raise FileFormatError(f"{shard.path}: {_SHARD_COUNT_KEY} is {count!r}", hint=_DAMAGED_HINT)
    if name is None or int(name["count"]) != count:
        raise FileFormatError(
            f"{shard.path}: one of {count} shards, but not named like one",
            hint=f"Restore its published name, <model>-00001-of-{count:05}.gguf, and keep all shards in one folder.",
        )
    paths = [shard.path.with_name(f"{name['stem']}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1)]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise FileFormatError(
            f"{shard.path}: of {count} shards these are missing: {', '.join(missing)}",
            hint="Put all shards into one folder.",
        )
    return paths


def _check_shards(shards: Sequence[GgufHeader]) -> None:
    for i, shard in enumerate(shards):
        for key, expected in ((_SHARD_INDEX_KEY, i), (_SHARD_COUNT_KEY, len(shards))):
            if shard.metadata.get(key) != expected:
                raise FileFormatError(
                    f"{shard.path}: {key} is {shard.metadata.get(key)!r}, expected {expected}",
                    hint="The file was renamed or belongs to another model.",
                )
    promised = shards[0].metadata.get(_SHARD_TENSORS_KEY)
    found = sum(len(shard.tensors) for shard in shards)
    if promised != found:
        raise FileFormatError(
            f"{shards[0].path}: {_SHARD_TENSORS_KEY} is {promised!r}, the shards hold {found}", hint=_DAMAGED_HINT
        )


def _merge_metadata(shards: Sequence[GgufHeader]) -> dict[str, MetadataValue]:
    merged = dict(shards[0].metadata)
    for shard in shards[1:]:
        for key, value in shard.metadata.items():
            if key != _SHARD_INDEX_KEY and merged.setdefault(key, value) != value:
                raise FileFormatError(
                    f"{shard.path}: metadata key {key!r} differs from {shards[0].path.name}",
                    hint="The shards belong to different models.",
                )
    return merged


def _merge_tensors(shards: Sequence[GgufHeader]) -> dict[str, TensorInfo]:
    merged: dict[str, TensorInfo] = {}
    for shard in shards:
        for name, tensor in shard.tensors.items():
            if name in merged:
                raise FileFormatError(
                    f"{shard.path}: tensor {name!r} is in another shard too",
                    hint="The shards belong to different models.",
                )
            merged[name] = tensor
    return merged


# Writing

TensorPieces = Callable[[], Iterable[bytes | memoryview]]
"""Makes a tensor's bytes, in pieces, when it is their turn to be written."""

TensorSource = tuple[str, WeightFormat, tuple[int, ...], bytes | memoryview | TensorPieces]
"""Name, format, shape with the contiguous axis last, and exactly the bytes that shape takes."""

# Readers elsewhere insist on these widths; everything else is written as the first type of its kind that fits.
_KEY_TYPES: Final = {
    _SHARD_INDEX_KEY: _ValueType.UINT16,
    _SHARD_COUNT_KEY: _ValueType.UINT16,
    _SHARD_TENSORS_KEY: _ValueType.INT32,
    "tokenizer.ggml.merges": _ValueType.STRING,
}
"""Of numbers that have one type only, and of items that an empty list does not show."""
_INTEGER_RANGES: Final = {
    _ValueType.UINT32: (0, 2**32 - 1),
    _ValueType.INT32: (-(2**31), 2**31 - 1),
    _ValueType.UINT64: (0, 2**64 - 1),
    _ValueType.INT64: (-(2**63), 2**63 - 1),
}


def write_gguf(
    path: Path | str,
    metadata: Mapping[str, MetadataValue],
    tensors: Sequence[TensorSource],
    *,
    examine: Callable[[Path], Mapping[str, float]] | None = None,
) -> None:
    """Write a GGUF v3 file: it appears whole under its name or not at all.

    Integers become uint32, int32, uint64 or int64, the first that holds them (int32 first in arrays); floats become
    float32, as every known key is, and are rounded to it. Alignment is `general.alignment`, else 32. `examine` is given
    the complete file under another name before it appears: what it returns replaces the floats of these keys, and what
    it raises leaves no file. Raises UsageError for a value, name, shape or number of bytes GGUF cannot hold.
    """
    path = Path(path)
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not _is_int(alignment) or alignment < 8 or alignment & (alignment - 1):
        raise UsageError(
            f"general.alignment is {alignment!r}", hint="Give a power of two of at least 8, or leave it out for 32."
        )
    head = bytearray(MAGIC + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    value_ends: dict[str, int] = {}
    for key, value in metadata.items():
        head += _pack_string(key) + _pack_value(key, value)
        value_ends[key] = len(head)
    head += _pack_tensor_infos(tensors, alignment)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    with temporary.open("xb") as file:
        try:
            file.write(head)
            for tensor in tensors:
                file.write(bytes(-file.tell() % alignment))
                _write_tensor(file, tensor)
            file.flush()
            if examine is not None:
                for key, number in examine(temporary).items():
                    file.seek(value_ends[key] - _F32.size)
                    file.write(_F32.pack(number))
                file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(path)  # that of a full disk does not say where
            raise


def _write_tensor(file: IO[bytes], tensor: TensorSource) -> None:
    name, weight_format, shape, data = tensor
    num_written = 0
    for piece in data() if callable(data) else (data,):
        file.write(piece)
        num_written += memoryview(piece).nbytes
    if num_written != _num_bytes(weight_format, shape):
        raise UsageError(
            f"tensor {name!r} takes {_num_bytes(weight_format, shape)} bytes, {num_written} were given",
            hint=_BYTES_HINT,
        )


def _pack_tensor_infos(tensors: Sequence[TensorSource], alignment: int) -> bytes:
    packed = bytearray()
    names: set[str] = set()
    offset = 0
    for name, weight_format, shape, data in tensors:
        if name in names or not 0 < len(name.encode()) <= _MAX_TENSOR_NAME_BYTES:
            raise UsageError(
                f"tensor name {name!r} is empty, too long or used twice",
                hint=f"Name every tensor once, in at most {_MAX_TENSOR_NAME_BYTES} bytes.",
            )
        if weight_format not in _FORMAT_IDS:
            raise UsageError(
                f"tensor {name!r} is {weight_format.label}, which GGUF does not have",
                hint="Convert it to a type that GGUF has, such as F32, F16 or BF16.",
            )
        if not 1 <= len(shape) <= _MAX_DIMENSIONS or min(shape) < 1 or shape[-1] % weight_format.block_size:
            raise UsageError(
                f"tensor {name!r} cannot have shape {shape} in {weight_format.label}",
                hint=f"Give 1 to {_MAX_DIMENSIONS} dimensions, the last a multiple of {weight_format.block_size}.",
            )
        num_bytes = _num_bytes(weight_format, shape)
        if not callable(data) and memoryview(data).nbytes != num_bytes:
            raise UsageError(
                f"tensor {name!r} takes {num_bytes} bytes, {memoryview(data).nbytes} were given", hint=_BYTES_HINT
            )
        names.add(name)
        packed += _pack_string(name)
        packed += struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        packed += struct.pack("<IQ", _FORMAT_IDS[weight_format], offset)
        offset += num_bytes + -num_bytes % alignment
    return bytes(packed)


def _pack_value(key: str, value: MetadataValue) -> bytes:
    if isinstance(value, list):
        item_type = _type_of_items(key, value) if value else _KEY_TYPES.get(key, _ValueType.INT32)
        items = _pack_items(item_type, value)
        return struct.pack("<IIQ", _ValueType.ARRAY, item_type, len(value)) + items
    value_type = _KEY_TYPES.get(key) or _type_of_items(key, [value], scalar=True)
    return struct.pack("<I", value_type) + _pack_items(value_type, [value])


def _type_of_items(key: str, values: Sequence[object], *, scalar: bool = False) -> _ValueType:
    kinds = {type(value) for value in values}
    if kinds == {str}:
        return _ValueType.STRING
    if kinds == {bool}:
        return _ValueType.BOOL
    if kinds == {float}:
        return _ValueType.FLOAT32
    if kinds <= {int}:
        return _integer_type(key, [value for value in values if isinstance(value, int)], scalar)
    raise UsageError(
        f"metadata key {key!r} has a value GGUF cannot hold: {', '.join(sorted(k.__name__ for k in kinds))}",
        hint="Give texts, booleans, floats or integers, in lists of one kind.",
    )


def _integer_type(key: str, values: Sequence[int], scalar: bool) -> _ValueType:
    unsigned_first = (_ValueType.UINT32, _ValueType.INT32, _ValueType.UINT64, _ValueType.INT64)
    signed_first = (_ValueType.INT32, _ValueType.UINT32, _ValueType.INT64, _ValueType.UINT64)
    smallest, largest = min(values, default=0), max(values, default=0)
    for candidate in unsigned_first if scalar else signed_first:
        lowest, highest = _INTEGER_RANGES[candidate]
        if lowest <= smallest and largest <= highest:
            return candidate
    raise UsageError(
        f"metadata key {key!r} holds an integer of more than 64 bits",
        hint="Give one of -2**63 to 2**64 - 1, or write it as text.",
    )


def _pack_items(item_type: _ValueType, values: Sequence[object]) -> bytes:
    if item_type is _ValueType.STRING:
        return b"".join(_pack_string(str(value)) for value in values)
    try:
        return struct.pack(f"<{len(values)}{_NUMBER_CODES[item_type]}", *values)
    except (OverflowError, struct.error) as error:
        raise UsageError(
            f"metadata value does not fit {item_type.name.lower()}: {error}",
            hint="Give a number that this type can hold: it is the one that this key has in every file.",
        ) from None


def _pack_string(text: str) -> bytes:
    encoded = text.encode()
    return _U64.pack(len(encoded)) + encoded
