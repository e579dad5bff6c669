"""A checkpoint of float weights, quantised as it is read: nothing of it is written, no tensor twice in memory.

Must not know what a mixture's rules are, nor who asked for it.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from abaci.errors import FileFormatError, UsageError
from abaci.formats.checkpoint import Checkpoint, MetadataValue
from abaci.formats.tokenizer import Tokenizer
from abaci.kernels.dequantise import dequantise
from abaci.kernels.quantise import Floats, quantise
from abaci.models.mixtures import Mixture, ModelFacts, choose_formats, is_quantisable
from abaci.tensor import TensorInfo, WeightFormat

_ROWS_BYTES: Final = 1 << 26
"""Of the float values that are in memory at a time, about."""


def quantised_pieces(
    checkpoint: Checkpoint, tensor: TensorInfo, wanted: WeightFormat, importance: Floats | None, pool: Any
) -> Iterator[bytes | memoryview]:
    """A tensor's bytes in another format, some rows at a time. `importance` has a row for each matrix of a stack.

    Raises FileFormatError for values that the format cannot hold.
    """
    data = checkpoint.data(tensor)
    if tensor.format is wanted:
        yield data
        return
    num_columns = tensor.shape[-1]
    num_matrices = tensor.shape[0] if len(tensor.shape) == 3 else 1
    rows_per_matrix = math.prod(tensor.shape[:-1]) // num_matrices
    row_bytes = tensor.num_bytes // (num_matrices * rows_per_matrix)
    step = max(1, _ROWS_BYTES // (4 * num_columns))
    for matrix in range(num_matrices):
        for begin in range(0, rows_per_matrix, step):
            count = min(step, rows_per_matrix - begin)
            first = matrix * rows_per_matrix + begin
            stored = data[first * row_bytes : (first + count) * row_bytes]
            values = dequantise(tensor.format, (count, num_columns), stored)
            try:
                blocks = quantise(values, wanted, None if importance is None else importance[matrix], pool=pool)
            except ValueError as error:
                raise FileFormatError(
                    f"{checkpoint.paths[0]}: tensor {tensor.name} from row {first}: {error}",
                    hint="The file is damaged, or its values need a wider type such as bf16.",
                ) from error
            yield np.ascontiguousarray(blocks).data.cast("B")


class QuantisedCheckpoint:
    """`formats.checkpoint.Checkpoint` over another one of float weights, which is this one's from now on.

    pool  a `kernels.native.thread_pool`, which works while a tensor is asked for.

    Raises UsageError for a source that is quantised already.
    """

    def __init__(self, source: Checkpoint, mixture: Mixture, pool: Any) -> None:
        for tensor in source.tensors.values():
            if is_quantisable(tensor) and tensor.format.is_quantised:
                raise UsageError(
                    f"{source.paths[0]} is quantised already: tensor {tensor.name} is {tensor.format.label}",
                    hint="Leave out --quantize, which is for weights in F32, F16 or BF16.",
                )
        self._source = source
        self._pool = pool
        facts = ModelFacts.of(source.metadata, source.tensors)
        formats = choose_formats(mixture, facts, source.tensors.values())
        self._tensors = MappingProxyType(
            {name: _in_format(tensor, formats[name]) for name, tensor in source.tensors.items()}
        )
        self._file_type = {"general.file_type": mixture.file_type}
        self.notes = (*source.notes, f"weights are quantised to {mixture.name} as they are loaded")

    @property
    def paths(self) -> tuple[Path, ...]:
        """Of the source."""
        return self._source.paths

    @property
    def metadata(self) -> Mapping[str, MetadataValue]:
        """Of the source, but for the kind of file."""
        return {**self._source.metadata, **self._file_type}

    def gguf_metadata(self) -> Mapping[str, MetadataValue]:
        """Of the source, but for the kind of file."""
        return {**self._source.gguf_metadata(), **self._file_type}

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """In the formats they will have."""
        return self._tensors

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Of the source."""
        return self._source.descriptors

    def data(self, tensor: TensorInfo) -> memoryview:
        """The tensor's bytes: a view of the file where its format stays, else made now."""
        source = self._source.tensors[tensor.name]
        if source.format is tensor.format:
            return self._source.data(source)
        made = bytearray()
        for piece in quantised_pieces(self._source, source, tensor.format, None, self._pool):
            made += piece
        return memoryview(made).toreadonly()

    def is_stored(self, tensor: TensorInfo) -> bool:
        """Whether the source has it as it is."""
        source = self._source.tensors[tensor.name]
        return source.format is tensor.format and self._source.is_stored(source)

    def tokenizer(self) -> Tokenizer:
        """Of the source."""
        return self._source.tokenizer()

    def release(self, tensor: TensorInfo) -> None:
        """Drop the pages of the source."""
        self._source.release(self._source.tensors[tensor.name])

    def close(self) -> None:
        """Close the source."""
        self._source.close()


def _in_format(tensor: TensorInfo, weight_format: WeightFormat) -> TensorInfo:
    if weight_format is tensor.format:
        return tensor
    num_bytes = math.prod(tensor.shape) // weight_format.block_size * weight_format.block_bytes
    return TensorInfo(tensor.name, weight_format, tensor.shape, 0, num_bytes, tensor.file_index)
