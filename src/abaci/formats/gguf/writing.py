"""GGUF, written atomically: a file appears whole under its name or not at all."""

import os
import secrets
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from abaci.errors import UsageError
from abaci.formats.checkpoint import MetadataValue
from abaci.formats.gguf.types import (
    DEFAULT_ALIGNMENT,
    F32,
    FORMAT_IDS,
    MAGIC,
    MAX_DIMENSIONS,
    MAX_TENSOR_NAME_BYTES,
    NUMBER_CODES,
    SHARD_COUNT_KEY,
    SHARD_INDEX_KEY,
    SHARD_TENSORS_KEY,
    U64,
    ValueType,
    is_alignment,
    tensor_bytes,
)
from abaci.tensor import WeightFormat

_BYTES_HINT: Final = "Give the data in the tensor's own format and shape, without padding."

TensorPieces = Callable[[], Iterable[bytes | memoryview]]
"""Makes a tensor's bytes, in pieces, when it is their turn to be written."""

TensorSource = tuple[str, WeightFormat, tuple[int, ...], bytes | memoryview | TensorPieces]
"""Name, format, shape with the contiguous axis last, and exactly the bytes that shape takes."""

# Readers elsewhere insist on these widths; everything else is written as the first type of its kind that fits.
_KEY_TYPES: Final = {
    SHARD_INDEX_KEY: ValueType.UINT16,
    SHARD_COUNT_KEY: ValueType.UINT16,
    SHARD_TENSORS_KEY: ValueType.INT32,
    "tokenizer.ggml.merges": ValueType.STRING,
}
"""Of numbers that have one type only, and of items that an empty list does not show."""
_INTEGER_RANGES: Final = {
    ValueType.UINT32: (0, 2**32 - 1),
    ValueType.INT32: (-(2**31), 2**31 - 1),
    ValueType.UINT64: (0, 2**64 - 1),
    ValueType.INT64: (-(2**63), 2**63 - 1),
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
    if not is_alignment(alignment):
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
                    file.seek(value_ends[key] - F32.size)
                    file.write(F32.pack(number))
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
    if num_written != tensor_bytes(weight_format, shape):
        raise UsageError(
            f"tensor {name!r} takes {tensor_bytes(weight_format, shape)} bytes, {num_written} were given",
            hint=_BYTES_HINT,
        )


def _pack_tensor_infos(tensors: Sequence[TensorSource], alignment: int) -> bytes:
    packed = bytearray()
    names: set[str] = set()
    offset = 0
    for name, weight_format, shape, data in tensors:
        if name in names or not 0 < len(name.encode()) <= MAX_TENSOR_NAME_BYTES:
            raise UsageError(
                f"tensor name {name!r} is empty, too long or used twice",
                hint=f"Name every tensor once, in at most {MAX_TENSOR_NAME_BYTES} bytes.",
            )
        if weight_format not in FORMAT_IDS:
            raise UsageError(
                f"tensor {name!r} is {weight_format.label}, which GGUF does not have",
                hint="Convert it to a type that GGUF has, such as F32, F16 or BF16.",
            )
        if not 1 <= len(shape) <= MAX_DIMENSIONS or min(shape) < 1 or shape[-1] % weight_format.block_size:
            raise UsageError(
                f"tensor {name!r} cannot have shape {shape} in {weight_format.label}",
                hint=f"Give 1 to {MAX_DIMENSIONS} dimensions, the last a multiple of {weight_format.block_size}.",
            )
        num_bytes = tensor_bytes(weight_format, shape)
        if not callable(data) and memoryview(data).nbytes != num_bytes:
            raise UsageError(
                f"tensor {name!r} takes {num_bytes} bytes, {memoryview(data).nbytes} were given", hint=_BYTES_HINT
            )
        names.add(name)
        packed += _pack_string(name)
        packed += struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        packed += struct.pack("<IQ", FORMAT_IDS[weight_format], offset)
        offset += num_bytes + -num_bytes % alignment
    return bytes(packed)


def _pack_value(key: str, value: MetadataValue) -> bytes:
    if isinstance(value, list):
        item_type = _type_of_items(key, value) if value else _KEY_TYPES.get(key, ValueType.INT32)
        items = _pack_items(item_type, value)
        return struct.pack("<IIQ", ValueType.ARRAY, item_type, len(value)) + items
    value_type = _KEY_TYPES.get(key) or _type_of_items(key, [value], scalar=True)
    return struct.pack("<I", value_type) + _pack_items(value_type, [value])


def _type_of_items(key: str, values: Sequence[object], *, scalar: bool = False) -> ValueType:
    kinds = {type(value) for value in values}
    if kinds == {str}:
        return ValueType.STRING
    if kinds == {bool}:
        return ValueType.BOOL
    if kinds == {float}:
        return ValueType.FLOAT32
    if kinds <= {int}:
        return _integer_type(key, [value for value in values if isinstance(value, int)], scalar)
    raise UsageError(
        f"metadata key {key!r} has a value GGUF cannot hold: {', '.join(sorted(k.__name__ for k in kinds))}",
        hint="Give texts, booleans, floats or integers, in lists of one kind.",
    )


def _integer_type(key: str, values: Sequence[int], scalar: bool) -> ValueType:
    unsigned_first = (ValueType.UINT32, ValueType.INT32, ValueType.UINT64, ValueType.INT64)
    signed_first = (ValueType.INT32, ValueType.UINT32, ValueType.INT64, ValueType.UINT64)
    smallest, largest = min(values, default=0), max(values, default=0)
    for candidate in unsigned_first if scalar else signed_first:
        lowest, highest = _INTEGER_RANGES[candidate]
        if lowest <= smallest and largest <= highest:
            return candidate
    raise UsageError(
        f"metadata key {key!r} holds an integer of more than 64 bits",
        hint="Give one of -2**63 to 2**64 - 1, or write it as text.",
    )


def _pack_items(item_type: ValueType, values: Sequence[object]) -> bytes:
    if item_type is ValueType.STRING:
        return b"".join(_pack_string(str(value)) for value in values)
    try:
        return struct.pack(f"<{len(values)}{NUMBER_CODES[item_type]}", *values)
    except (OverflowError, struct.error) as error:
        raise UsageError(
            f"metadata value does not fit {item_type.name.lower()}: {error}",
            hint="Give a number that this type can hold: it is the one that this key has in every file.",
        ) from None


def _pack_string(text: str) -> bytes:
    encoded = text.encode()
    return U64.pack(len(encoded)) + encoded
