"""safetensors files, mapped and read strictly: every one is taken for hostile.

Layout (https://github.com/huggingface/safetensors#format): an unsigned 64-bit little-endian length, a JSON object of
that length that maps names to {dtype, shape, data_offsets}, then the data, without holes, to the end of the file.

The `safetensors` library copies what it reads for numpy and has no type there for BF16 or FP8, hence a reader of our
own. Knows nothing of models: names are handed on as they are.
"""

import json
import math
import mmap
import os
import struct
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final, NoReturn, Self

from abaci.errors import FileFormatError, ModelNotFoundError, UnsupportedModelError

_DAMAGED_HINT: Final = "The file is damaged or incomplete: fetch it again and compare its SHA-256 with the publisher's."

# Far above any published model, far below what would exhaust memory. The first is the format's own limit.
_MAX_HEADER_BYTES: Final = 100_000_000
_MAX_TENSORS: Final = 1 << 20
_MAX_DIMENSIONS: Final = 8
_MAX_NAME_CHARACTERS: Final = 1024

_LENGTH: Final = struct.Struct("<Q")

TYPE_BYTES: Final = MappingProxyType(
    {
        "BOOL": 1,
        "U8": 1,
        "I8": 1,
        "F8_E4M3": 1,
        "F8_E5M2": 1,
        "F8_E8M0": 1,
        "U16": 2,
        "I16": 2,
        "F16": 2,
        "BF16": 2,
        "U32": 4,
        "I32": 4,
        "F32": 4,
        "U64": 8,
        "I64": 8,
        "F64": 8,
    }
)
"""Bytes per value, by the format's name of the type."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file: `shape` with the contiguous axis last, `offset` from the file's beginning."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


class SafetensorsFile:
    """One file, opened read-only and mapped. If nobody holds it, it closes.

    The mapping is shared with the file: a file cut short while it is open kills the process, so files are replaced,
    never rewritten.
    """

    __slots__ = ("__weakref__", "_close", "_file", "_mapping", "path", "tensors")

    def __init__(self, path: Path, file: BinaryIO, mapping: mmap.mmap, tensors: Mapping[str, StoredTensor]) -> None:
        self.path = path
        self.tensors = MappingProxyType(tensors)
        """By name, in order of offset."""
        self._file = file
        self._mapping = mapping
        self._close = weakref.finalize(self, _unmap, mapping, file)
        self._close.atexit = False

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open and check a file. Raises ModelNotFoundError, FileFormatError, UnsupportedModelError (a type unknown)."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            raise ModelNotFoundError(f"{path}: no such file", hint="Check the path.") from None
        except OSError as error:
            raise FileFormatError(f"{path}: cannot be read: {error}") from None
        try:
            size = os.fstat(file.fileno()).st_size
            tensors = _read_header(path, file, size)
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            file.close()
            raise FileFormatError(f"{path}: cannot be read: {error}") from None
        except BaseException:
            file.close()
            raise
        return cls(path, file, mapping, tensors)

    @property
    def descriptor(self) -> int:
        """Of the open file. Ours: duplicate it to keep it."""
        return self._file.fileno()

    def data(self, tensor: StoredTensor) -> memoryview:
        """The tensor's bytes, read-only, backed by the mapping."""
        return memoryview(self._mapping)[tensor.offset : tensor.offset + tensor.num_bytes]

    def release(self, tensor: StoredTensor) -> None:
        """Drop the tensor's pages from our memory; reading them again brings them back from the file."""
        begin = tensor.offset - tensor.offset % mmap.PAGESIZE
        if tensor.num_bytes:
            self._mapping.madvise(mmap.MADV_DONTNEED, begin, tensor.offset + tensor.num_bytes - begin)

    def close(self) -> None:
        """Unmap, or where a view is still held let the last view do it. Idempotent."""
        self._close()


def _unmap(mapping: mmap.mmap, file: BinaryIO) -> None:
    with suppress(BufferError):
        mapping.close()
    file.close()


def _read_header(path: Path, file: BinaryIO, size: int) -> dict[str, StoredTensor]:
    prefix = file.read(_LENGTH.size)
    if len(prefix) < _LENGTH.size:
        _fail(path, f"it has {size} bytes, too few for a header")
    (length,) = _LENGTH.unpack(prefix)
    if length > _MAX_HEADER_BYTES:
        _fail(path, f"the header is said to take {length} bytes; the limit is {_MAX_HEADER_BYTES}")
    data_begin = _LENGTH.size + length
    if data_begin > size:
        _fail(path, f"the header is said to take {length} bytes, the file has {size - _LENGTH.size} left")
    entries = _parse(path, file.read(length))
    if len(entries) > _MAX_TENSORS:
        _fail(path, f"it lists {len(entries)} tensors; the limit is {_MAX_TENSORS}")
    tensors = [_entry(path, name, entry, data_begin) for name, entry in entries.items() if name != "__metadata__"]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.num_bytes))
    _check_extents(path, tensors, data_begin, size)
    return {tensor.name: tensor for tensor in tensors}


def _parse(path: Path, header: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(header.decode(), object_pairs_hook=lambda pairs: _unique(path, pairs))
    except (ValueError, RecursionError) as error:
        _fail(path, f"its header is not JSON: {error}")
    if not isinstance(entries, dict):
        _fail(path, "its header is not a JSON object")
    return entries


def _unique(path: Path, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        _fail(path, "its header names something twice")
    return entries


def _entry(path: Path, name: str, entry: object, data_begin: int) -> StoredTensor:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end], **others} if not others:
            pass
        case _:
            _fail(path, f"tensor {name[:80]!r} is not described by dtype, shape and data_offsets")
    if not 0 < len(name) <= _MAX_NAME_CHARACTERS or len(shape) > _MAX_DIMENSIONS:
        _fail(path, f"tensor {name[:80]!r} has a name or shape beyond the limits")
    if not all(type(number) is int and 0 <= number < 1 << 62 for number in (*shape, begin, end)):
        _fail(path, f"tensor {name!r} has a shape or offset that is not a whole number in range")
    if dtype not in TYPE_BYTES:
        raise UnsupportedModelError(f"{path}: tensor {name!r} is of the type {dtype[:40]!r}, which cannot be read")
    num_bytes = math.prod(shape) * TYPE_BYTES[dtype]
    if end - begin != num_bytes:
        _fail(path, f"tensor {name!r} of shape {shape} takes {num_bytes} bytes in {dtype}, it is given {end - begin}")
    return StoredTensor(name, dtype, tuple(shape), data_begin + begin, num_bytes)


def _check_extents(path: Path, tensors: Sequence[StoredTensor], data_begin: int, size: int) -> None:
    """From the header to the file's end each byte belongs to exactly one tensor, as the format demands."""
    if tensors and tensors[0].offset != data_begin:
        _fail(path, f"{tensors[0].offset - data_begin} bytes after the header belong to no tensor")
    for tensor, following in pairwise(tensors):
        gap = following.offset - tensor.offset - tensor.num_bytes
        if gap:
            complaint = "overlap" if gap < 0 else f"have {gap} bytes between them"
            _fail(path, f"tensors {tensor.name!r} and {following.name!r} {complaint}")
    end = tensors[-1].offset + tensors[-1].num_bytes if tensors else data_begin
    if end != size:
        _fail(path, f"its tensors end at byte {end}, the file at {size}")


def _fail(path: Path, problem: str) -> NoReturn:
    raise FileFormatError(f"{path}: {problem}", hint=_DAMAGED_HINT)


NewTensor = tuple[str, str, tuple[int, ...], Iterable[bytes | memoryview]]
"""Name, type, shape, and the bytes in pieces, made when they are written."""


def write_safetensors(path: Path, tensors: Sequence[NewTensor]) -> None:
    """Write a file: it appears whole under its name or not at all. Pieces must add up to what the shape takes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape, _ in tensors:
        end = offset + math.prod(shape) * TYPE_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with temporary.open("xb") as file:
        try:
            file.write(_LENGTH.pack(len(encoded)) + encoded)
            for name, dtype, shape, pieces in tensors:
                written = sum(file.write(piece) for piece in pieces)
                if written != math.prod(shape) * TYPE_BYTES[dtype]:
                    raise AssertionError(f"{name}: {written} bytes for {dtype} {shape}")
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
