"""The parts that a quantised weight of a Hugging Face folder is stored in, and what is made of them.

What every way to store such weights shares: reading a part as it is stored, checking that it fits. Knows no such way.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from abaci.errors import FileFormatError
from abaci.formats.integer_blocks import Scales
from abaci.formats.safetensors import SafetensorsFile, StoredTensor
from abaci.tensor import WeightFormat

_NUMPY_TYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E8M0": np.dtype("u1"),
}


@dataclass(frozen=True, slots=True)
class StoredPart:
    """One tensor of a file that is part of a weight."""

    file: SafetensorsFile
    stored: StoredTensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    def array(self, *dtypes: str) -> NDArray[Any]:
        """Its values as they are stored. Raises FileFormatError for another type than one of these."""
        if self.stored.dtype not in dtypes:
            raise FileFormatError(f"tensor {self.stored.name!r} is {self.stored.dtype}, not {' or '.join(dtypes)}")
        array: NDArray[Any] = np.frombuffer(self.file.data(self.stored), _NUMPY_TYPES[self.stored.dtype])
        return array.reshape(self.stored.shape)

    def floats(self) -> Scales:
        """Its values as float32, of a float type."""
        array = self.array("F32", "F16", "BF16", "F8_E8M0")
        if self.stored.dtype == "BF16":
            return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
        if self.stored.dtype == "F8_E8M0":
            return np.exp2(array.astype(np.float32) - 127)
        return array.astype(np.float32)


Parts = Mapping[str, StoredPart]


@dataclass(frozen=True, slots=True)
class SortedWeight:
    """A weight with its columns sorted, so that groups are runs: column i is column `order[i]` of the weight."""

    format: WeightFormat
    read: Callable[[], memoryview]
    order: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A weight put together: what it is stored as for the kernels, and how its bytes are made."""

    format: WeightFormat
    shape: tuple[int, ...]
    read: Callable[[], memoryview]
    floats: Callable[[], NDArray[np.float32]] | None = None
    """The values of a format with blocks."""
    sorted: SortedWeight | None = None
    """The same in less, for who can put what it multiplies into its order."""


@dataclass(slots=True)
class Remarks:
    """What to tell of weights that could not stay packed: how many of which kind."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, remark: str) -> None:
        self.counts[remark] = self.counts.get(remark, 0) + 1

    def sentences(self) -> list[str]:
        return [f"{count} weights {remark}" for remark, count in self.counts.items()]


@dataclass(frozen=True, slots=True)
class Naming:
    """How the parts of a weight are named: module, joint, part. `marks` tell a quantised weight from a plain one.

    The weight itself is then called `whole`.
    """

    parts: frozenset[str]
    marks: frozenset[str]
    joint: str = "."
    whole: str = "weight"


class Scheme(Protocol):
    """One way to store quantised weights."""

    @property
    def naming(self) -> Naming:
        """Of the parts."""

    @property
    def note(self) -> str | None:
        """What the user should know of all such weights."""

    def weight(self, parts: Parts, remarks: Remarks) -> PackedWeight:
        """Put a weight together. Raises FileFormatError for parts that do not fit."""


def part_named(parts: Parts, name: str) -> StoredPart:
    if name not in parts:
        beside = next(iter(parts.values())).stored.name
        raise FileFormatError(f"beside tensor {beside!r} its {name} is missing")
    return parts[name]


def matrix_shape(part: StoredPart) -> tuple[int, int]:
    if len(part.shape) != 2 or 0 in part.shape:
        raise FileFormatError(f"tensor {part.stored.name!r} of shape {part.shape} is not a matrix")
    return part.shape[0], part.shape[1]


def expect_shape(part: StoredPart, shape: tuple[int, ...]) -> None:
    if part.shape != shape:
        raise FileFormatError(f"tensor {part.stored.name!r} has shape {part.shape}, expected {shape}")
