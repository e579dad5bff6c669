"""Importance of every matrix's inputs: the mean square of each, over a calibration text.

Reads what llama.cpp's imatrix tool writes, in both of its forms, and writes the newer one (GGUF with a sum of squares
and a count for each matrix). Every file is taken for hostile. Must not know how importance is measured or used.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from abaci.errors import FileFormatError, ModelNotFoundError
from abaci.formats.checkpoint import MetadataValue
from abaci.formats.gguf import MAGIC, GgufCheckpoint, TensorSource, write_gguf
from abaci.kernels.dequantise import dequantise
from abaci.tensor import TensorInfo, WeightFormat

Floats = NDArray[np.float32]

_SUMS: Final = ".in_sum2"
_COUNTS: Final = ".counts"
_MAX_ENTRIES: Final = 1 << 16
_MAX_NAME_BYTES: Final = 256
_MAX_FILE_BYTES: Final = 1 << 30
_HINT: Final = "Give a file that llama.cpp's imatrix tool wrote."


@dataclass(frozen=True, slots=True)
class Importance:
    """By name of the tensor, (1, columns), or (experts, columns) where each expert has its own.

    The older form of the file does not say where one expert ends: then they stand in one row.
    """

    mean_squares: Mapping[str, Floats]
    source: str
    """What they were measured on, for the file that will be made with them."""

    def of(self, tensor: TensorInfo) -> Floats | None:
        """(matrices, columns) for a tensor, None where nothing is known of it. Raises FileFormatError."""
        found = self.mean_squares.get(tensor.name)
        if found is None:
            return None
        num_matrices = tensor.shape[0] if len(tensor.shape) == 3 else 1
        num_columns = tensor.shape[-1]
        if found.size not in (num_columns, num_matrices * num_columns):
            raise FileFormatError(
                f"{self.source} has importance of {found.size} inputs of {tensor.name}, whose shape is {tensor.shape}",
                hint="It was measured on another model.",
            )
        return np.broadcast_to(found.reshape(-1, num_columns), (num_matrices, num_columns))


def read_importance(path: Path) -> Importance:
    """Read either form. Raises ModelNotFoundError, FileFormatError."""
    try:
        with path.open("rb") as file:
            is_gguf = file.read(len(MAGIC)) == MAGIC
        found = _read_gguf(path) if is_gguf else _read_dat(path)
    except FileNotFoundError:
        raise ModelNotFoundError(f"{path}: no such file", hint="Check the path.") from None
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error}", hint=_HINT) from None
    if not found:
        raise FileFormatError(f"{path}: holds the importance of no tensor", hint=_HINT)
    for name, values in found.items():
        if not np.isfinite(values).all() or (values < 0).any():
            raise FileFormatError(f"{path}: the importance of {name} is negative or not finite", hint=_HINT)
    return Importance(found, path.name)


def write_importance(path: Path, importance: Importance) -> None:
    """Write the newer form, which llama.cpp's tools read as well; atomically."""
    tensors: list[TensorSource] = []
    for name, values in sorted(importance.mean_squares.items()):
        counts = np.ones((len(values), 1), np.float32)  # means are sums over one
        tensors.append((name + _SUMS, WeightFormat.F32, values.shape, values.tobytes()))
        tensors.append((name + _COUNTS, WeightFormat.F32, counts.shape, counts.tobytes()))
    metadata: dict[str, MetadataValue] = {
        "general.type": "imatrix",
        "imatrix.datasets": [importance.source],
        "imatrix.chunk_count": 1,
        "imatrix.chunk_size": 1,
    }
    write_gguf(path, metadata, tensors)


def _read_gguf(path: Path) -> dict[str, Floats]:
    found = {}
    with GgufCheckpoint.open(path) as checkpoint:
        if checkpoint.metadata.get("general.type") != "imatrix":
            raise FileFormatError(f"{path}: a GGUF file, but not of importance", hint=_HINT)
        for name, tensor in checkpoint.tensors.items():
            if not name.endswith(_SUMS):
                continue
            matrix = name.removesuffix(_SUMS)
            counts = checkpoint.tensors.get(matrix + _COUNTS)
            if counts is None or tensor.format is not WeightFormat.F32 or counts.format is not WeightFormat.F32:
                raise FileFormatError(f"{path}: {matrix} has sums without counts, or not as float32", hint=_HINT)
            sums = _floats(checkpoint, tensor).reshape(-1, tensor.shape[-1])
            times = _floats(checkpoint, counts).reshape(-1)
            if len(times) != len(sums) or not (times >= 0).all():
                raise FileFormatError(f"{path}: {matrix} has {len(times)} counts for {len(sums)} sums", hint=_HINT)
            # An expert that was never chosen is as important as any other.
            found[matrix] = np.where(times[:, None] > 0, sums / np.maximum(times, 1)[:, None], np.float32(1))
    return found


def _floats(checkpoint: GgufCheckpoint, tensor: TensorInfo) -> Floats:
    return dequantise(tensor.format, tensor.shape, checkpoint.data(tensor))


def _read_dat(path: Path) -> dict[str, Floats]:
    """entries | per entry: length, name, number of calls, number of values, sums | calls, dataset's name."""
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise FileFormatError(f"{path}: too large for a file of importance", hint=_HINT)
    data = path.read_bytes()
    position = 0

    def take(num_bytes: int) -> bytes:
        nonlocal position
        if not 0 <= num_bytes <= len(data) - position:
            raise FileFormatError(f"{path}: at byte {position}: the file ends inside an entry", hint=_HINT)
        position += num_bytes
        return data[position - num_bytes : position]

    def integer(lowest: int, highest: int, what: str) -> int:
        (value,) = struct.unpack("<i", take(4))
        if not lowest <= value <= highest:
            raise FileFormatError(f"{path}: at byte {position - 4}: {what} is {value}", hint=_HINT)
        return int(value)

    found = {}
    for _ in range(integer(1, _MAX_ENTRIES, "the number of entries")):
        try:
            name = take(integer(1, _MAX_NAME_BYTES, "the length of a name")).decode()
        except UnicodeDecodeError:
            raise FileFormatError(f"{path}: at byte {position}: a name is not text", hint=_HINT) from None
        num_calls = integer(0, 2**31 - 1, "a number of calls")
        num_values = integer(1, _MAX_FILE_BYTES // 4, "a number of values")
        sums = np.frombuffer(take(4 * num_values), "<f4").astype(np.float32)
        found[name] = (sums / np.float32(max(1, num_calls)))[np.newaxis]
    return found
