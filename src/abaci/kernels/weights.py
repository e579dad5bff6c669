"""Where an executor gets its weights from: tensors by name, as the bytes of the file.

Must not know what file they come from; the loader joins a checkpoint to this protocol.
"""

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
    """One tensor as stored: `data` holds rows of blocks, the last axis of `shape` contiguous."""

    format: WeightFormat
    shape: tuple[int, ...]
    data: memoryview
    file: FileRange | None = None
    release: Callable[[], None] = lambda: None
    """Says that the bytes will not be read again soon, so that their pages need not stay in memory."""


class TensorSource(Protocol):
    """Hands out the tensors that a spec names."""

    def tensor(self, name: str) -> RawTensor:
        """The tensor `name`. Raises KeyError if there is none."""
