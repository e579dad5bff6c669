"""A GGUF file, or all shards of one, opened and mapped."""

import mmap
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Self

from abaci.errors import FileFormatError, ModelNotFoundError
from abaci.formats.checkpoint import MetadataValue
from abaci.formats.gguf.cursor import Cursor
from abaci.formats.gguf.header import GgufHeader, read_front
from abaci.formats.gguf.shards import join_headers, shard_paths
from abaci.formats.gguf.types import DAMAGED_HINT
from abaci.formats.tokenizer import Tokenizer
from abaci.tensor import TensorInfo


class GgufCheckpoint:
    """A GGUF file, or all shards of one, opened read-only and mapped. A context manager; if nobody holds it, it closes.

    The mapping is shared with the file: a file cut short while it is open kills the process, so files are replaced,
    never rewritten.
    """

    __slots__ = ("__weakref__", "_close", "_files", "_mappings", "_metadata", "_paths", "_tensors")

    def __init__(self, shards: Sequence["_Shard"]) -> None:
        whole = join_headers([shard.header for shard in shards])
        self._paths = tuple(shard.header.path for shard in shards)
        self._files = tuple(shard.file for shard in shards)
        self._mappings = tuple(shard.mapping for shard in shards)
        self._metadata = MappingProxyType(whole.metadata)
        self._tensors = MappingProxyType(whole.tensors)
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
            shards = [first]
            if first.header.num_shards > 1:
                shards = [_read_shard(shard, i, opened) for i, shard in enumerate(shard_paths(first.header))]
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
    header: GgufHeader
    file: BinaryIO
    mapping: mmap.mmap


def _read_shard(path: Path, file_index: int, opened: ExitStack) -> _Shard:
    file, mapping = _map(path, opened)
    return _Shard(read_front(Cursor(path, mapping), file_index), file, mapping)


def _map(path: Path, opened: ExitStack) -> tuple[BinaryIO, mmap.mmap]:
    try:
        file = opened.enter_context(path.open("rb"))
        if os.fstat(file.fileno()).st_size == 0:
            raise FileFormatError(f"{path}: the file is empty", hint=DAMAGED_HINT)
        return file, opened.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError:
        raise ModelNotFoundError(f"{path}: no such file", hint="Check the path.") from None
    except (OSError, ValueError) as error:
        raise FileFormatError(
            f"{path}: cannot be read: {error}", hint="Check that it is a file you may read."
        ) from None
