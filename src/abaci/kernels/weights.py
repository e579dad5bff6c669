"""Where an executor gets its weights from: tensors by name, as the bytes of the file.

Must not know what file they come from; the loader joins a checkpoint to this protocol.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from abaci.tensor import WeightFormat


@dataclass(frozen=True, slots=True)
class FileRange:
    """Where a tensor's bytes begin in an open file, to read single rows later; whoever keeps it duplicates it."""

    descriptor: int
    offset: int


@dataclass(frozen=True, slots=True)
class RawTensor:
    """One tensor as stored: rows of blocks, the last axis of `shape` contiguous."""

    format: WeightFormat
    shape: tuple[int, ...]
    source: memoryview | Callable[[], memoryview]
    """The bytes, or what makes them when they are needed."""
    file: FileRange | None = None
    """Where they stand as they are; None where they are made."""
    release: Callable[[], None] = lambda: None
    """Says that the bytes will not be read again soon, so that their pages need not stay in memory."""

    @property
    def data(self) -> memoryview:
        """The bytes. Made anew by each call if they are made: read once, keep no longer than needed."""
        return self.source if isinstance(self.source, memoryview) else self.source()

    @property
    def num_bytes(self) -> int:
        """Of `data`."""
        return math.prod(self.shape) // self.format.block_size * self.format.block_bytes


class TensorSource(Protocol):
    """Hands out the tensors that a spec names."""

    def tensor(self, name: str) -> RawTensor:
        """The tensor `name`. Raises KeyError if there is none."""
