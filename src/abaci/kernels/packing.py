"""A model's weights, packed: matrices in one arena, from the checkpoint or from what an earlier load left, and vectors.

Must not know what is done with them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abaci.errors import FileFormatError, ResourceError
from abaci.kernels import _native
from abaci.kernels.dequantise import dequantise
from abaci.kernels.packed_store import KeptWeights, PackedDraft, PackedKey
from abaci.kernels.weights import RawTensor, TensorSource
from abaci.models.spec import ExpertLinear, HeadLinear, ModelSpec, Rows
from abaci.tensor import WeightFormat
from abaci.version import __version__

ThreadPool = _native.ThreadPool

FORMAT_NUMBERS = {weight_format: number for number, weight_format in enumerate(WeightFormat)}
DAMAGED_HINT = (
    "The file is damaged or was converted wrongly: fetch it again. If abaci fetched it: abaci verify --repair"
)

CONTENT_VERSION = 1
"""Of what Python makes of a checkpoint before it is packed (rows reordered, experts stacked, blocks decoded): to be
raised whenever that changes within a version of Abaci, or the weights that an earlier load left would be used on."""

_ROUND_BYTES = 32 << 20
"""Weights are packed in rounds of this size, so that little of the file is in memory beside the packed copy."""
_PANEL_ROWS = 32
_HUGE_PAGE_BYTES = 2 << 20


class PackedWeights:
    """Every tensor of a spec: matrices packed in one arena, vectors as float32.

    Matrices of adapters have an arena of their own, so that what is kept of a model serves it with any adapters.
    """

    def __init__(
        self,
        spec: ModelSpec,
        source: TensorSource,
        pool: ThreadPool,
        progress: Callable[[int, int], None] | None,
        kept: KeptWeights | None,
        *,
        must_map: bool,
    ) -> None:
        self.matrices: dict[str, _native.Matrix] = {}
        self.vectors: dict[str, NDArray[np.float32]] = {}
        self._tensors = stored_matrices(spec, source)
        tables = [table.weight for table in spec.row_tables()]
        self.file_tables = {name: self._tensors.pop(name) for name in tables if self._tensors[name].file is not None}
        """Embeddings whose rows are read from the file as they are needed: those that are no head, and in a file."""
        self.formats = {tensor.format for tensor in self._tensors.values()}
        self.num_bytes = sum(map(_packed_bytes, self._tensors.values()))
        adapters = {name: self._tensors.pop(name) for name in _adapter_matrices(spec)}
        parts = (*spec.embeddings(), *spec.linears(), *spec.stacks())
        matrices = {part.weight for part in parts}
        for name, shape in spec.tensors():
            if name not in matrices:
                self.vectors[name] = _vector(name, shape, source.tensor(name))
        self.are_mapped = kept is not None and self._map(kept)
        if not self.are_mapped:
            self.are_mapped = self._pack(pool, progress, kept, must_map=must_map)
        if adapters:
            self._allocate(adapters)
            _Packing(pool, 0, None).run(adapters, self.matrices)
        self._tensors.clear()
        _native.trim_memory()

    def quantised_names(self) -> frozenset[str]:
        formats = list(WeightFormat)
        return frozenset(name for name, matrix in self.matrices.items() if formats[matrix.format].is_quantised)

    def is_quantised(self, name: str) -> bool:
        """Whether a matrix reads int8 activations."""
        return list(WeightFormat)[self.matrices[name].format].is_quantised

    def clear(self) -> None:
        self.matrices.clear()
        self.vectors.clear()

    def _map(self, kept: KeptWeights) -> bool:
        """Whether the packed weights were found as an earlier load left them."""
        arena = self._allocate(self._tensors)
        with kept.store.opened(self._key(kept, arena)) as descriptor:
            return descriptor is not None and arena.map(descriptor)

    def _pack(
        self,
        pool: ThreadPool,
        progress: Callable[[int, int], None] | None,
        kept: KeptWeights | None,
        *,
        must_map: bool,
    ) -> bool:
        """Pack, if possible by way of a file for later loads: whether it is that file's pages that are used now."""
        arena = self._allocate(self._tensors)
        draft = None if kept is None else kept.store.begin(self._key(kept, arena))
        packing = _Packing(pool, sum(tensor.num_bytes for tensor in self._tensors.values()), progress)
        if draft is not None:
            spilling = _Spilling(arena, draft)
            if packing.run(self._tensors, self.matrices, spilling.spill) and spilling.finish():
                return True
            self._allocate(self._tensors)  # nothing is left of what was spilled
        if must_map:
            raise ResourceError(
                f"the weights take {self.num_bytes:,} bytes, more than memory holds, and could not be kept on disk",
                hint="Give ABACI_CACHE_DIR a folder with so much room and raise ABACI_PACKED_CACHE_GB.",
            )
        packing.run(self._tensors, self.matrices)
        return False

    def _allocate(self, tensors: Mapping[str, RawTensor]) -> _native.WeightArena:
        """An arena, and every matrix's place in it."""
        num_bytes = sum(map(_packed_bytes, tensors.values()))
        try:
            arena = _native.WeightArena(num_bytes)
        except MemoryError as error:
            raise no_memory(f"{num_bytes:,} bytes of weights", error) from error
        for name, tensor in tensors.items():
            self.matrices[name] = arena.allocate(FORMAT_NUMBERS[tensor.format], *tensor.shape)
        return arena

    def _key(self, kept: KeptWeights, arena: _native.WeightArena) -> PackedKey:
        tensors = [(name, tensor.format.label, *tensor.shape) for name, tensor in self._tensors.items()]
        versions = __version__, CONTENT_VERSION, _native.LAYOUT_VERSION
        return PackedKey(repr((versions, kept.source, tensors)), arena.num_bytes)


class _Packing:
    """Packs matrices in rounds of about _ROUND_BYTES, letting go of the source's pages after each.

    A round is one call into C++: the interpreter is left to other threads, such as the one that reads the vocabulary,
    and not waited for between matrices.
    """

    def __init__(self, pool: ThreadPool, total_bytes: int, progress: Callable[[int, int], None] | None) -> None:
        self._pool = pool
        self._total_bytes = total_bytes
        self._progress = progress

    def run(
        self,
        tensors: Mapping[str, RawTensor],
        matrices: Mapping[str, _native.Matrix],
        after_round: Callable[[int], bool] = lambda end: True,
    ) -> bool:
        """Pack them all, in order; `after_round` is told up to which byte of the arena, and may end it with False.

        Raises FileFormatError for scales that are not finite.
        """
        done_bytes = 0
        for parts in _rounds(tensors, matrices):
            failed = _native.pack_all(self._pool, [(part.matrix, part.source, part.first_row) for part in parts])
            if failed >= 0:
                raise _not_finite(parts[failed].name)
            for part in parts:
                tensors[part.name].release()
            if not after_round(parts[-1].packed_end):
                return False
            done_bytes += sum(part.source.nbytes for part in parts)
            if self._progress is not None:
                self._progress(done_bytes, self._total_bytes)
        return True


@dataclass(frozen=True, slots=True)
class _Part:
    """Some rows of a matrix, whole panels of it."""

    name: str
    matrix: _native.Matrix
    source: memoryview
    first_row: int
    packed_end: int
    """Where it ends in the arena."""


def _rounds(tensors: Mapping[str, RawTensor], matrices: Mapping[str, _native.Matrix]) -> Iterator[list[_Part]]:
    parts: list[_Part] = []
    num_bytes = 0
    for name, tensor in tensors.items():
        for part in _parts(name, tensor, matrices[name]):
            if parts and num_bytes + part.source.nbytes > _ROUND_BYTES:
                yield parts
                parts, num_bytes = [], 0
            parts.append(part)
            num_bytes += part.source.nbytes
    if parts:
        yield parts


def _parts(name: str, tensor: RawTensor, matrix: _native.Matrix) -> Iterator[_Part]:
    """The rows of a matrix, in parts that fit a round."""
    row_bytes = tensor.num_bytes // matrix.rows
    part_rows = max(1, _ROUND_BYTES // (row_bytes * _PANEL_ROWS)) * _PANEL_ROWS
    source = tensor.data.cast("B")
    for first_row in range(0, matrix.rows, part_rows):
        end_row = min(first_row + part_rows, matrix.rows)
        packed_end = matrix.offset + -(-end_row // _PANEL_ROWS) * matrix.panel_bytes
        yield _Part(name, matrix, source[first_row * row_bytes : end_row * row_bytes], first_row, packed_end)


class _Spilling:
    """Moves what is packed from the arena to a file, round by round, so that the same little memory is used again."""

    def __init__(self, arena: _native.WeightArena, draft: PackedDraft) -> None:
        self._arena = arena
        self._draft = draft
        self._end = 0

    def spill(self, packed_end: int) -> bool:
        """Whole huge pages up to there; the rest is not complete. False where the file cannot be written."""
        return self._spill_to(packed_end // _HUGE_PAGE_BYTES * _HUGE_PAGE_BYTES)

    def finish(self) -> bool:
        """The rest; then the arena is the file. False where that fails, and nothing is in the arena."""
        is_mapped = (
            self._spill_to(self._arena.num_bytes) and self._draft.seal() and self._arena.map(self._draft.descriptor)
        )
        if is_mapped:
            self._draft.publish()
        return is_mapped

    def _spill_to(self, end: int) -> bool:
        begin, self._end = self._end, end
        return self._arena.spill(self._draft.descriptor, begin, end)


def stored_matrices(spec: ModelSpec, source: TensorSource) -> dict[str, RawTensor]:
    """The model's matrices as rows of blocks, by `Linear.matrix`; a stack of them by its tensor, one below another.

    Each matrix of a stack takes whole panels.
    """
    found = {table.weight: source.tensor(table.weight) for table in spec.embeddings()}
    for linear in spec.linears():
        if linear.matrix not in found:
            raw = source.tensor(linear.weight)
            found[linear.matrix] = replace(raw, shape=(linear.stored_rows, linear.in_features))
            if linear.rows is not None:
                found[linear.matrix] = _select(raw, linear.rows, linear.out_features)
    for stack in spec.stacks():
        found[stack.matrix] = _in_whole_panels(_stacked(source.tensor(stack.weight), stack), stack.num_matrices)
    return found


def _stacked(raw: RawTensor, stack: HeadLinear | ExpertLinear) -> RawTensor:
    """All matrices of a stack, one below another."""
    if isinstance(stack, HeadLinear) and stack.is_transposed:
        return _transposed(raw, stack)
    rows = stack.num_matrices * stack.out_features
    if stack.rows is not None:
        return _select(raw, stack.rows, rows)
    return replace(raw, shape=(rows, stack.in_features), file=None)


def whole_panels(rows: int) -> int:
    """The rows that a matrix of so many takes."""
    return -(-rows // _PANEL_ROWS) * _PANEL_ROWS


def _in_whole_panels(raw: RawTensor, num_matrices: int) -> RawTensor:
    """Matrices with rows of zero bytes below each, which are zeros in every format, as far as its last panel goes."""
    rows, columns = raw.shape[0] // num_matrices, raw.shape[1]
    height = whole_panels(rows)
    if height == rows:
        return raw

    def padded() -> memoryview:
        stored = np.frombuffer(raw.data, np.uint8).reshape(num_matrices, rows, -1)
        matrices = np.zeros((num_matrices, height, stored.shape[2]), np.uint8)
        matrices[:, :rows] = stored
        return matrices.data.cast("B")

    return RawTensor(raw.format, (num_matrices * height, columns), padded, release=raw.release)


def _transposed(raw: RawTensor, stack: HeadLinear) -> RawTensor:
    """The same where the tensor's rows are their columns."""

    def matrices() -> memoryview:
        rows = raw if stack.rows is None else _select(raw, stack.rows, stack.num_heads * stack.stored_height)
        if raw.format.is_quantised:
            values: NDArray[Any] = dequantise(rows.format, rows.shape, rows.data)
            if not np.isfinite(values).all():
                raise _not_finite(stack.weight)
        else:
            values = np.frombuffer(rows.data, f"u{raw.format.block_bytes}")
        by_head = values.reshape(stack.num_heads, stack.in_features, stack.out_features)
        return np.ascontiguousarray(by_head.swapaxes(1, 2)).data.cast("B")

    shape = stack.num_heads * stack.out_features, stack.in_features
    return RawTensor(stack.matrix_format(raw.format), shape, matrices, release=raw.release)


def _adapter_matrices(spec: ModelSpec) -> list[str]:
    """By `Linear.matrix`, each once."""
    halves = (linear for adapter in spec.low_ranks() for linear in (adapter.down, adapter.up))
    return list(dict.fromkeys(linear.matrix for linear in halves))


def _select(raw: RawTensor, rows: Rows, count: int) -> RawTensor:
    """The `count` rows of a tensor that are the matrix: a view where they stand together, else a copy."""

    def chosen() -> memoryview:
        data = raw.data.cast("B")
        row_bytes = data.nbytes // rows.total
        if rows.period == rows.total:
            return data[rows.begin * row_bytes : (rows.begin + count) * row_bytes]
        stored = np.frombuffer(data, np.uint8).reshape(rows.total, row_bytes)
        return memoryview(stored[rows.chosen(count)].tobytes())

    return RawTensor(raw.format, (count, raw.shape[-1]), chosen, release=raw.release)


def _vector(name: str, shape: tuple[int, ...], tensor: RawTensor) -> NDArray[np.float32]:
    values = dequantise(tensor.format, shape, tensor.data)
    if not np.isfinite(values).all():
        raise _not_finite(name)
    return values


def _packed_bytes(tensor: RawTensor) -> int:
    rows, columns = tensor.shape
    return _native.packed_bytes(FORMAT_NUMBERS[tensor.format], rows, columns)


def _not_finite(name: str) -> FileFormatError:
    return FileFormatError(
        f"tensor {name} holds values that are not finite",
        hint=DAMAGED_HINT,
    )


def no_memory(what: str, error: MemoryError) -> ResourceError:
    return ResourceError(
        f"not enough memory for {what}", hint="Close other programs, or choose a smaller model or context."
    )
