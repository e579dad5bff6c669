"""The native executor: packs a model's weights, records its decoder into a C++ step program, runs steps.

Numpy only moves data here; every number is computed in csrc.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abaci.errors import FileFormatError, ResourceError, UsageError
from abaci.kernels import _native
from abaci.kernels.batch import BIAS, HISTORY, LOGIT_ROW, PAGE_TOKENS, StepBatch, StepOutput
from abaci.kernels.dequantise import dequantise
from abaci.kernels.packed_store import KeptWeights, PackedDraft, PackedKey
from abaci.kernels.recording import (
    AddStep,
    AttentionStep,
    EmbedStep,
    GatedStep,
    HeadStep,
    LinearStep,
    NormStep,
    QuantiseStep,
    RecordedStep,
    Recorder,
    Value,
    assign_slots,
)
from abaci.kernels.weights import RawTensor, TensorSource
from abaci.models import decoder
from abaci.models.spec import Activation, Embedding, Linear, ModelSpec, Rope, RopeStyle
from abaci.tensor import WeightFormat

TARGET_VARIABLE = "ABACI_TARGET"
"""Environment variable that forces an instruction set."""

_ROUND_BYTES = 32 << 20
"""Weights are packed in rounds of this size, so that little of the file is in memory beside the packed copy."""
_PANEL_ROWS = 32
_HUGE_PAGE_BYTES = 2 << 20
_DAMAGED_HINT = "The file is damaged or was converted wrongly; fetch it again or run `abaci verify`."

_FORMAT_NUMBERS = {weight_format: number for number, weight_format in enumerate(WeightFormat)}
_ACTIVATION_NUMBERS = {Activation.SILU: 0, Activation.GELU_TANH: 1}

ThreadPool = _native.ThreadPool


def targets() -> list[str]:
    """Instruction sets this processor can run, best first."""
    return _native.targets()


def choose_target(name: str | None = None) -> str:
    """`name`, else what ABACI_TARGET says, else the best. Raises UsageError for one this processor lacks."""
    wanted = name or os.environ.get(TARGET_VARIABLE) or targets()[0]
    if wanted not in targets():
        raise UsageError(
            f"this processor cannot run the target {wanted!r}", hint=f"Choose one of: {', '.join(targets())}."
        )
    return wanted


@cache
def thread_pool(num_threads: int, processors: tuple[int, ...] = ()) -> ThreadPool:
    """The process's one pool for these processors; models share it. Empty `processors`: threads are not pinned."""
    return ThreadPool(num_threads, processors)


def pin_current_thread(processor: int) -> bool:
    """Bind the calling thread to a processor; False where the system refuses."""
    return _native.pin_current_thread(processor)


class NativeExecutor:
    """Runs steps of one model (`kernels.batch.Executor`).

    Packs every tensor that `spec` names, one after another, letting go of the source's pages as it goes;
    `progress(bytes packed, bytes in all)` is called after each. With `kept`, what was packed once is mapped.
    Raises FileFormatError for scales that are not finite, ResourceError where memory is short.
    """

    def __init__(
        self,
        spec: ModelSpec,
        source: TensorSource,
        *,
        max_step_tokens: int,
        pool: ThreadPool,
        target: str | None = None,
        progress: Callable[[int, int], None] | None = None,
        kept: KeptWeights | None = None,
    ) -> None:
        _check_layout()
        self.spec = spec
        self.target = choose_target(target)
        self._groups = spec.cache_groups()
        self._weights = _PackedWeights(spec, source, pool, progress, kept)
        self._no_top = np.empty(0, np.int32), np.empty(0, np.float32)
        try:
            program = _native.StepProgram(
                pool, self.target, max_step_tokens, spec.vocab_size, [group.window or 0 for group in self._groups]
            )
            _Emitter(program, spec, self._weights).emit()
        except MemoryError as error:
            raise _no_memory("the workspace of a step", error) from error
        self._program: _native.StepProgram | None = program

    def kernels(self) -> Mapping[str, str]:
        """For each weight format of the model's matrices, the kernel that runs it."""
        kernels = {
            weight_format.label: f"{self.target} {'int8' if weight_format.is_quantised else 'float'}"
            for weight_format in sorted(self._weights.formats, key=lambda weight_format: weight_format.label)
        }
        rows = self._weights.embedding_rows
        if rows is not None:
            kernels.setdefault(rows.format.label, "rows from the file")
        return kernels

    def page_bytes(self, group: int) -> int:
        """Bytes that one page of a cache group takes, all its layers together."""
        return self._running().page_bytes(group)

    def workspace_bytes(self) -> int:
        """Bytes of activations and cache, as reserved."""
        return self._running().workspace_bytes()

    @property
    def weight_bytes(self) -> int:
        """Bytes of packed weights."""
        return self._weights.num_bytes

    @property
    def weights_are_mapped(self) -> bool:
        """Whether they are pages of a file, which the system counts as available."""
        return self._weights.are_mapped

    def allocate_cache(self, num_pages: tuple[int, ...]) -> None:
        """Make room for that many pages per group; once, before the first step."""
        try:
            self._running().allocate_cache(num_pages)
        except MemoryError as error:
            raise _no_memory("the key-value cache", error) from error

    def step(self, batch: StepBatch) -> StepOutput:
        """Run one step.

        Raises ValueError for a batch whose arrays contradict each other, the model or the cache; FileFormatError for a
        row of the embedding that cannot be read from its file or is damaged there.
        """
        rows = len(batch.logit_rows)
        token_ids = np.empty(rows, np.int32)
        logprobs = np.empty(rows, np.float32)
        widest = int(batch.logit_rows["num_top"].max()) if rows else 0
        if widest > 0:
            top_ids = np.full((rows, widest), -1, np.int32)
            top_logprobs = np.full((rows, widest), -np.inf, np.float32)
        else:
            top_ids, top_logprobs = np.empty((rows, 0), np.int32), np.empty((rows, 0), np.float32)
        hidden = np.empty((len(batch.hidden_rows), self.spec.hidden_size), np.float32)
        try:
            self._running().step(
                batch.token_ids,
                batch.sequence_offsets,
                batch.first_positions,
                batch.page_tables,
                batch.logit_rows,
                batch.history,
                batch.bias,
                batch.masks,
                token_ids,
                logprobs,
                top_ids,
                top_logprobs,
                batch.hidden_rows,
                hidden,
            )
        except RuntimeError as error:  # nothing else fails inside a step than reading the file
            raise FileFormatError(str(error), hint=_DAMAGED_HINT) from error
        return StepOutput(token_ids, logprobs, top_ids, top_logprobs, hidden)

    def close(self) -> None:
        """Release weights and cache."""
        self._program = None
        self._weights.clear()

    def _running(self) -> _native.StepProgram:
        if self._program is None:
            raise ValueError("the executor is closed")
        return self._program


class _PackedWeights:
    """Every tensor of a spec: matrices packed in one arena, vectors as float32."""

    def __init__(
        self,
        spec: ModelSpec,
        source: TensorSource,
        pool: ThreadPool,
        progress: Callable[[int, int], None] | None,
        kept: KeptWeights | None,
    ) -> None:
        self.matrices: dict[str, _native.Matrix] = {}
        self.vectors: dict[str, NDArray[np.float32]] = {}
        self.embedding_rows: RawTensor | None = None
        """The embedding, where its rows are read from the file as they are needed: untied, and in a file."""
        names = [name for name, _ in spec.tensors()]
        raw = {name: source.tensor(name) for name in names}
        if spec.embedding.weight != spec.head.weight and raw[spec.embedding.weight].file is not None:
            self.embedding_rows = raw.pop(spec.embedding.weight)
        self._tensors = {name: tensor for name, tensor in raw.items() if len(tensor.shape) == 2}
        self.formats = {tensor.format for tensor in self._tensors.values()}
        self.num_bytes = sum(map(_packed_bytes, self._tensors.values()))
        for name in raw.keys() - self._tensors.keys():
            self.vectors[name] = _vector(name, raw[name])
        self.are_mapped = kept is not None and self._map(kept)
        if not self.are_mapped:
            self.are_mapped = self._pack(pool, progress, kept)
        self._tensors.clear()
        _native.trim_memory()

    def quantised_names(self) -> frozenset[str]:
        formats = list(WeightFormat)
        return frozenset(name for name, matrix in self.matrices.items() if formats[matrix.format].is_quantised)

    def clear(self) -> None:
        self.matrices.clear()
        self.vectors.clear()

    def _map(self, kept: KeptWeights) -> bool:
        """Whether the packed weights were found as an earlier load left them."""
        arena = self._allocate()
        with kept.store.opened(self._key(kept, arena)) as descriptor:
            return descriptor is not None and arena.map(descriptor)

    def _pack(self, pool: ThreadPool, progress: Callable[[int, int], None] | None, kept: KeptWeights | None) -> bool:
        """Pack, if possible by way of a file for later loads: whether it is that file's pages that are used now."""
        arena = self._allocate()
        draft = None if kept is None else kept.store.begin(self._key(kept, arena))
        packing = _Packing(pool, sum(tensor.num_bytes for tensor in self._tensors.values()), progress)
        if draft is not None:
            spilling = _Spilling(arena, draft)
            if packing.run(self._tensors, self.matrices, spilling.spill) and spilling.finish():
                return True
            self._allocate()  # nothing is left of what was spilled
        packing.run(self._tensors, self.matrices)
        return False

    def _allocate(self) -> _native.WeightArena:
        """An arena, and every matrix's place in it."""
        try:
            arena = _native.WeightArena(self.num_bytes)
        except MemoryError as error:
            raise _no_memory(f"{self.num_bytes:,} bytes of weights", error) from error
        for name, tensor in self._tensors.items():
            self.matrices[name] = arena.allocate(_FORMAT_NUMBERS[tensor.format], *tensor.shape)
        return arena

    def _key(self, kept: KeptWeights, arena: _native.WeightArena) -> PackedKey:
        tensors = [(name, tensor.format.label, *tensor.shape) for name, tensor in self._tensors.items()]
        return PackedKey(repr((_native.LAYOUT_VERSION, kept.source, tensors)), arena.num_bytes)


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


class _Emitter:
    """Writes a recorded decoder into a step program."""

    def __init__(self, program: _native.StepProgram, spec: ModelSpec, weights: _PackedWeights) -> None:
        self._program = program
        self._spec = spec
        self._weights = weights
        self._ropes: dict[Rope, int] = {}

    def emit(self) -> None:
        recorder = Recorder(self._weights.quantised_names())
        decoder.forward(recorder, self._spec)
        slots = [self._program.add_slot(columns) for columns in assign_slots(recorder.steps)]
        assert slots == list(range(len(slots)))
        group_of_layer = {layer: i for i, group in enumerate(self._spec.cache_groups()) for layer in group.layers}
        for index, layer in enumerate(self._spec.layers):
            attention = layer.attention
            self._program.add_cache_layer(group_of_layer[index], attention.num_kv_heads, attention.head_dim)
            if attention.rope not in self._ropes:
                self._ropes[attention.rope] = self._add_rope(attention.rope)
        for step in recorder.steps:
            self._emit_step(step)

    def _add_rope(self, rope: Rope) -> int:
        factors = None if rope.frequency_factors is None else self._weights.vectors[rope.frequency_factors]
        return self._program.add_rope(
            rope.theta, rope.dim, rope.linear_scale, factors, rope.style is RopeStyle.INTERLEAVED
        )

    def _emit_step(self, step: RecordedStep) -> None:
        program = self._program
        match step:
            case EmbedStep():
                self._emit_embed(step)
            case NormStep(x=x, norm=norm, out=out):
                weight = self._weights.vectors[norm.weight]
                program.rms_norm(_slot(x), _slot(out), weight, norm.epsilon, out.quantised)
            case QuantiseStep(x=x):
                program.quantise(_slot(x))
            case LinearStep(x=x, linears=linears, outs=outs, accumulate=accumulate):
                matrices = [self._matrix(linear) for linear in linears]
                biases = [self._vector(linear.bias) for linear in linears]
                if accumulate and biases != [None]:
                    raise NotImplementedError("a product that starts from a residual has no bias")
                program.linear(_slot(x), matrices, [_slot(out) for out in outs], biases, accumulate)
            case AttentionStep():
                self._emit_attention(step)
            case GatedStep(gate=gate, up=up, activation=activation, out=out):
                number = _ACTIVATION_NUMBERS[activation]
                program.gated(_slot(gate), _slot(up), _slot(out), number, out.quantised)
            case AddStep(x=x, y=y, out=out):
                program.add(_slot(x), _slot(y), _slot(out))
            case HeadStep(x=x, head=head):
                program.head(_slot(x), self._matrix(head), self._vector(head.bias))

    def _emit_embed(self, step: EmbedStep) -> None:
        rows, embedding = self._weights.embedding_rows, step.embedding
        if rows is None or rows.file is None:
            self._program.embed(self._matrix(embedding), embedding.scale, _slot(step.out))
            return
        number = _FORMAT_NUMBERS[rows.format]
        self._program.embed_from_file(
            rows.file.descriptor, rows.file.offset, number, embedding.hidden_size, embedding.scale, _slot(step.out)
        )

    def _emit_attention(self, step: AttentionStep) -> None:
        attention, query, key = step.attention, step.query, step.key
        self._program.prepare_heads(
            query=_slot(query.value),
            num_heads=attention.num_heads,
            query_norm=self._vector(query.norm.weight if query.norm else None),
            query_epsilon=query.norm.epsilon if query.norm else 0.0,
            query_rope=self._ropes[query.rope] if query.rope else -1,
            key=_slot(key.value),
            num_kv_heads=attention.num_kv_heads,
            key_norm=self._vector(key.norm.weight if key.norm else None),
            key_epsilon=key.norm.epsilon if key.norm else 0.0,
            key_rope=self._ropes[key.rope] if key.rope else -1,
            value=_slot(step.value),
            layer=step.layer,
            head_dim=attention.head_dim,
        )
        self._program.attention(
            _slot(query.value),
            _slot(step.out),
            step.layer,
            attention.num_heads,
            attention.num_kv_heads,
            attention.head_dim,
            attention.scale,
            attention.window or 0,
            step.quantises,
        )

    def _matrix(self, part: Embedding | Linear) -> _native.Matrix:
        return self._weights.matrices[part.weight]

    def _vector(self, name: str | None) -> NDArray[np.float32] | None:
        return None if name is None else self._weights.vectors[name]


def _slot(value: Value) -> int:
    assert value.slot is not None
    return value.slot


def _vector(name: str, tensor: RawTensor) -> NDArray[np.float32]:
    values = dequantise(tensor.format, tensor.shape, tensor.data)
    if not np.isfinite(values).all():
        raise _not_finite(name)
    return values


def _packed_bytes(tensor: RawTensor) -> int:
    rows, columns = tensor.shape
    return _native.packed_bytes(_FORMAT_NUMBERS[tensor.format], rows, columns)


def _check_layout() -> None:
    """The arrays of `batch` are read by C++ as structs: both sides must agree byte for byte."""
    sizes: dict[str, tuple[int, Any]] = {
        "LOGIT_ROW": (_native.LOGIT_ROW_BYTES, LOGIT_ROW.itemsize),
        "HISTORY": (_native.HISTORY_BYTES, HISTORY.itemsize),
        "BIAS": (_native.BIAS_BYTES, BIAS.itemsize),
        "PAGE_TOKENS": (_native.PAGE_TOKENS, PAGE_TOKENS),
    }
    for name, (compiled, declared) in sizes.items():
        assert compiled == declared, f"{name}: the extension has {compiled}, Python {declared}; rebuild it"


def _not_finite(name: str) -> FileFormatError:
    return FileFormatError(
        f"tensor {name} holds values that are not finite",
        hint=_DAMAGED_HINT,
    )


def _no_memory(what: str, error: MemoryError) -> ResourceError:
    return ResourceError(
        f"not enough memory for {what}", hint="Close other programs, or choose a smaller model or context."
    )
