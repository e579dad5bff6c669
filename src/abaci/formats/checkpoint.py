"""One interface to any stored model: metadata, tensors, tokenizer. Readers: `gguf`, later `safetensors`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from abaci.tensor import TensorInfo

MetadataValue = str | bool | int | float | list[str] | list[bool] | list[int] | list[float]


class Checkpoint(Protocol):
    """A model on disk, opened read-only. A context manager; `close` unmaps."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file, or its shards in order."""

    @property
    def metadata(self) -> Mapping[str, MetadataValue]:
        """Keys as the format names them, e.g. `qwen2.block_count`."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """By name, in file order."""

    def data(self, tensor: TensorInfo) -> memoryview:
        """The tensor's bytes, read-only, backed by the mapping; exactly `tensor.num_bytes` long."""

    def descriptor(self, tensor: TensorInfo) -> int:
        """The open file that holds the tensor, for reading at `tensor.offset` later; duplicate it to keep it."""

    def release(self, tensor: TensorInfo) -> None:
        """Tell the system that the tensor's pages will not be read again soon, so that they stop counting as ours."""

    def close(self) -> None:
        """Unmap, once no view is held any more."""
