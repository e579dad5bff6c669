"""The native executor: packs a model's weights, records its decoder into a C++ step program, runs steps.

Numpy only moves data here; every number is computed in csrc.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abaci.errors import FileFormatError, ResourceError, UnsupportedModelError, UsageError
from abaci.kernels import _native
from abaci.kernels.batch import BIAS, HISTORY, LOGIT_ROW, PAGE_TOKENS, StepBatch, StepOutput
from abaci.kernels.dequantise import dequantise
from abaci.kernels.packed_store import KeptWeights, PackedDraft, PackedKey
from abaci.kernels.recording import (
    AddStep,
    AttentionStep,
    Choice,
    ChooseStep,
    CombineStep,
    DeltaNetStep,
    DispatchStep,
    EmbedStep,
    ExpertLinearStep,
    GatedStep,
    HeadLinearStep,
    HeadNormStep,
    Heads,
    HeadStep,
    LatentStep,
    LinearStep,
    NormStep,
    QuantiseStep,
    RecordedStep,
    Recorder,
    ScaleStep,
    Value,
    assign_slots,
)
from abaci.kernels.weights import RawTensor, TensorSource
from abaci.models import decoder
from abaci.models.spec import (
    Activation,
    DeltaNet,
    ExpertLinear,
    LatentAttention,
    Linear,
    Mixer,
    ModelSpec,
    Norm,
    Rope,
    RopeStyle,
    Rows,
    Scoring,
)
from abaci.tensor import CacheType, WeightFormat

TARGET_VARIABLE = "ABACI_TARGET"
"""Environment variable that forces an instruction set."""

_ROUND_BYTES = 32 << 20
"""Weights are packed in rounds of this size, so that little of the file is in memory beside the packed copy."""
_PANEL_ROWS = 32
_HUGE_PAGE_BYTES = 2 << 20
_DAMAGED_HINT = "The file is damaged or was converted wrongly; fetch it again or run `abaci verify`."

_FORMAT_NUMBERS = {weight_format: number for number, weight_format in enumerate(WeightFormat)}
_CACHE_NUMBERS = {cache_type: number for number, cache_type in enumerate(CacheType)}
_ACTIVATION_NUMBERS = {activation: number for number, activation in enumerate(Activation)}

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
    With `observes`, squares of every matrix's inputs are added up.
    Keys and values are kept as `cache_type`.
    Weights that memory does not hold `must_map`. Raises FileFormatError for scales that are not finite, ResourceError
    where memory is short, or the disk for weights that must be mapped.
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
        must_map: bool = False,
        observes: bool = False,
        cache_type: CacheType = CacheType.F16,
    ) -> None:
        _check_layout()
        self.spec = spec
        self.target = choose_target(target)
        self._groups = spec.cache_groups()
        self._weights = _PackedWeights(spec, source, pool, progress, kept, must_map=must_map)
        self._no_top = np.empty(0, np.int32), np.empty(0, np.float32)
        try:
            program = _native.StepProgram(
                pool,
                self.target,
                max_step_tokens,
                spec.vocab_size,
                [group.window or 0 for group in self._groups],
                _CACHE_NUMBERS[cache_type],
            )
            emitter = _Emitter(program, spec, self._weights, observes)
            emitter.emit()
        except MemoryError as error:
            raise _no_memory("the workspace of a step", error) from error
        self._program: _native.StepProgram | None = program
        self._observations = emitter.observations

    def observed(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]:
        """Of all steps so far, by matrix: sums of squares of its inputs, (experts, columns), and rows that each saw.

        Plain matrices have one row of sums. The output and what multiplies head by head are not observed.
        """
        program = self._running()
        return {name: program.observed(index) for name, index in self._observations.items()}

    def kernels(self) -> Mapping[str, str]:
        """For each weight format of the model's matrices, the kernel that runs it."""
        kernels = {
            weight_format.label: f"{self.target} {'int8' if weight_format.is_quantised else 'float'}"
            for weight_format in sorted(self._weights.formats, key=lambda weight_format: weight_format.label)
        }
        for rows in self._weights.file_tables.values():
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

    @property
    def state_bytes(self) -> int:
        """Bytes of one sequence's state, all layers that have one together."""
        return self._running().state_bytes()

    def allocate_cache(self, num_pages: tuple[int, ...], num_states: int = 0) -> None:
        """Make room for that many pages per group and that many states; once, before the first step."""
        try:
            self._running().allocate_cache(num_pages, num_states)
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
                batch.states,
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
            raise _no_memory(f"{num_bytes:,} bytes of weights", error) from error
        for name, tensor in tensors.items():
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

    def __init__(
        self, program: _native.StepProgram, spec: ModelSpec, weights: _PackedWeights, observes: bool = False
    ) -> None:
        self._program = program
        self._spec = spec
        self._observes = observes
        self.observations: dict[str, int] = {}
        """Numbers of observations in the program, by the matrix whose inputs they are."""
        self._weights = weights
        self._ropes: dict[Rope, int] = {}
        self._cache_layers: dict[int, int] = {}
        """Numbers of layers in the program, by layer of the model."""
        self._steps: list[RecordedStep] = []

    def emit(self) -> None:
        recorder = Recorder(self._weights.quantised_names())
        decoder.forward(recorder, self._spec)
        self._steps = recorder.steps
        slots = [self._program.add_slot(*shape) for shape in assign_slots(recorder.steps)]
        assert slots == list(range(len(slots)))
        for group, members in enumerate(self._spec.cache_groups()):
            for index in members.layers:
                self._add_cache_layer(group, index)
        for layer in self._spec.layers:
            self._add_rope(layer.mixer)
        for step in recorder.steps:
            self._emit_step(step)

    def _add_cache_layer(self, group: int, layer: int) -> None:
        mixer = self._spec.layers[layer].mixer
        assert not isinstance(mixer, DeltaNet)
        if isinstance(mixer, LatentAttention):
            self._cache_layers[layer] = self._program.add_cache_layer(group, 1, mixer.key_dim, False)
        else:
            self._cache_layers[layer] = self._program.add_cache_layer(group, mixer.num_kv_heads, mixer.head_dim, True)

    def _add_rope(self, mixer: Mixer) -> None:
        rope = None if isinstance(mixer, DeltaNet) else mixer.rope
        if rope is not None and rope not in self._ropes:
            self._ropes[rope] = self._new_rope(rope)

    def _new_rope(self, rope: Rope) -> int:
        factors = None if rope.frequency_factors is None else self._weights.vectors[rope.frequency_factors]
        is_interleaved, yarn = rope.style is RopeStyle.INTERLEAVED, rope.yarn
        if yarn is None:
            return self._program.add_rope(
                rope.theta, rope.dim, rope.linear_scale, factors, is_interleaved, rope.magnitude
            )
        return self._program.add_rope(
            rope.theta,
            rope.dim,
            rope.linear_scale,
            factors,
            is_interleaved,
            rope.magnitude,
            yarn.factor,
            yarn.original_context,
            yarn.beta_fast,
            yarn.beta_slow,
            yarn.truncate,
        )

    def _emit_step(self, step: RecordedStep) -> None:
        program = self._program
        match step:
            case EmbedStep():
                self._emit_embed(step)
            case NormStep(x=x, norm=norm, out=out):
                program.rms_norm(_slot(x), _slot(out), self._norm(norm), norm.epsilon, out.quantised)
            case QuantiseStep(x=x):
                program.quantise(_slot(x))
            case LinearStep(x=x, linears=linears, outs=outs, accumulate=accumulate):
                self._observe(x, [linear.weight for linear in linears])
                matrices = [self._matrix(linear.matrix) for linear in linears]
                biases = [self._bias(linear) for linear in linears]
                program.linear(_slot(x), matrices, [_slot(out) for out in outs], biases, accumulate)
            case AttentionStep():
                self._emit_attention(step)
            case HeadNormStep(x=x, norm=norm):
                program.head_norm(_slot(x), self._norm(norm), norm.epsilon)
            case GatedStep(gate=gate, up=up, activation=activation, out=out):
                number = _ACTIVATION_NUMBERS[activation]
                program.gated(_slot(gate), _slot(up.value), up.begin, _slot(out), number, out.quantised)
            case AddStep(x=x, y=y, scale=scale):
                factor = 1.0 if scale is None else float(self._weights.vectors[scale][0])
                program.add(_slot(x), _slot(y), _slot(step.out), factor)
            case ScaleStep(outs=outs, factors=factors):
                program.scale([_slot(out) for out in outs], factors)
            case HeadStep(x=x, head=head, soft_cap=cap):
                program.head(_slot(x), self._matrix(head.matrix), self._bias(head), cap or 0.0)
            case HeadLinearStep() | LatentStep() | DeltaNetStep():
                self._emit_mixing(step)
            case _:
                self._emit_experts(step)

    def _emit_mixing(self, step: HeadLinearStep | LatentStep | DeltaNetStep) -> None:
        match step:
            case HeadLinearStep(x=x, linear=linear, out=out):
                self._program.head_linear(_slot(x), self._matrix(linear.matrix), linear.num_heads, _slot(out))
            case LatentStep(attention=attention):
                norm = attention.key_value_norm
                self._program.latent_attention(
                    query=_slot(step.query),
                    absorbed=_slot(step.absorbed),
                    compressed=_slot(step.compressed),
                    out=_slot(step.out),
                    layer=self._cache_layers[step.layer],
                    rope=self._ropes[attention.rope],
                    norm=self._norm(norm),
                    epsilon=norm.epsilon,
                    scale=attention.scale,
                    num_heads=attention.num_heads,
                    nope_dim=attention.nope_dim,
                )
            case DeltaNetStep(net=net):
                self._program.delta_net(
                    x=_slot(step.query_key_value),
                    beta=_slot(step.beta),
                    alpha=_slot(step.alpha),
                    convolved=_slot(step.convolved),
                    factors=_slot(step.factors),
                    out=_slot(step.out),
                    kernel=self._weights.vectors[net.convolution],
                    decay=self._weights.vectors[net.decay],
                    time_bias=self._weights.vectors[net.time_bias],
                    num_key_heads=net.num_key_heads,
                    num_value_heads=net.num_value_heads,
                    key_dim=net.key_dim,
                    value_dim=net.value_dim,
                    tiled_heads=net.tiled_heads,
                )

    def _emit_experts(self, step: ChooseStep | DispatchStep | ExpertLinearStep | CombineStep) -> None:
        routing = self._routing(step.choice)
        match step:
            case ChooseStep(logits=logits):
                self._program.choose(_slot(logits), routing)
            case DispatchStep(x=x, out=out):
                # Matrices of floats read the rows as floats; integers alone are enough for all others.
                self._program.dispatch(_slot(x), routing, _slot(out), self._reads_floats(out), out.quantised)
            case ExpertLinearStep(x=x, linears=linears, outs=outs):
                self._observe(x, [linear.weight for linear in linears], routing)
                stacks = [self._matrix(linear.matrix) for linear in linears]
                biases = [self._vector(linear.bias) for linear in linears]
                self._program.expert_linear(_slot(x), routing, stacks, [_slot(out) for out in outs], biases)
            case CombineStep(routed=routed, shared=shared, shared_gate=shared_gate, out=out):
                own, gate = (-1 if value is None else _slot(value) for value in (shared, shared_gate))
                self._program.combine(_slot(routed), routing, own, gate, _slot(out))

    def _observe(self, x: Value, names: Sequence[str], routing: int = -1) -> None:
        if self._observes:
            self.observations |= dict.fromkeys(names, self._program.observe(_slot(x), routing))

    def _reads_floats(self, dispatched: Value) -> bool:
        return self._observes or any(
            step.x is dispatched and not self._weights.is_quantised(linear.matrix)
            for step in self._steps
            if isinstance(step, ExpertLinearStep)
            for linear in step.linears
        )

    def _routing(self, choice: Choice) -> int:
        """Layers run one after another, but each keeps its own choice until its rows are combined."""
        if choice.number is None:
            router = choice.router
            choice.number = self._program.add_routing(
                router.num_experts,
                router.num_active,
                router.scoring is Scoring.SIGMOID,
                router.normalise,
                self._vector(router.choice_bias),
                router.num_groups,
                router.top_groups,
                router.group_best,
                router.scale,
                self._vector(router.expert_scales),
            )
        return choice.number

    def _emit_embed(self, step: EmbedStep) -> None:
        embedding = step.embedding
        rows = self._weights.file_tables.get(embedding.weight)
        if rows is None or rows.file is None:
            self._program.embed(self._matrix(embedding.weight), embedding.scale, _slot(step.out))
            return
        number = _FORMAT_NUMBERS[rows.format]
        self._program.embed_from_file(
            rows.file.descriptor, rows.file.offset, number, embedding.hidden_size, embedding.scale, _slot(step.out)
        )

    def _emit_attention(self, step: AttentionStep) -> None:
        attention, query, key, value = step.attention, step.query, step.key, step.value
        self._program.prepare_heads(
            self._prepared(query, attention.num_heads),
            None if key is None else self._prepared(key, attention.num_kv_heads),
            None if value is None else self._prepared(value, attention.num_kv_heads),
            layer=self._cache_layers[step.layer],
            head_dim=attention.head_dim,
            scale_beta=query.scale.beta if query.scale else 0.0,
            scale_period=query.scale.period if query.scale else 1,
        )
        self._program.attention(
            _slot(query.value),
            _slot(step.out),
            self._cache_layers[step.layer],
            attention.num_heads,
            attention.num_kv_heads,
            attention.head_dim,
            attention.scale,
            attention.window or 0,
            self._vector(attention.sinks),
            step.quantises,
        )

    def _prepared(self, heads: Heads, count: int) -> _native.Heads:
        norm = None if heads.norm is None else self._norm(heads.norm)
        epsilon = 0.0 if heads.norm is None else heads.norm.epsilon
        return _native.Heads(
            _slot(heads.value), count, norm, epsilon, -1 if heads.rope is None else self._ropes[heads.rope]
        )

    def _norm(self, norm: Norm) -> NDArray[np.float32]:
        """What a norm multiplies with."""
        weight = np.ones(norm.size, np.float32) if norm.weight is None else self._weights.vectors[norm.weight]
        return weight * np.float32(norm.scale)

    def _matrix(self, name: str) -> _native.Matrix:
        return self._weights.matrices[name]

    def _bias(self, linear: Linear) -> NDArray[np.float32] | None:
        bias = self._vector(linear.bias)
        return bias if bias is None or linear.rows is None else bias[linear.rows.chosen(linear.out_features)]

    def _vector(self, name: str | None) -> NDArray[np.float32] | None:
        return None if name is None else self._weights.vectors[name]


def _slot(value: Value) -> int:
    assert value.slot is not None
    return value.slot


def stored_matrices(spec: ModelSpec, source: TensorSource) -> dict[str, RawTensor]:
    """The model's matrices as rows of blocks, by `Linear.matrix`; a stack of them by its tensor, one below another.

    Raises UnsupportedModelError for stacks whose matrices are not whole panels.
    """
    found = {table.weight: source.tensor(table.weight) for table in spec.embeddings()}
    for linear in spec.linears():
        if linear.matrix not in found:
            raw = source.tensor(linear.weight)
            found[linear.matrix] = replace(raw, shape=(linear.stored_rows, linear.in_features))
            if linear.rows is not None:
                found[linear.matrix] = _select(raw, linear.rows, linear.out_features)
    for stack in spec.stacks():
        raw = source.tensor(stack.weight)
        if stack.out_features % _PANEL_ROWS:
            raise UnsupportedModelError(
                f"tensor {stack.weight} holds matrices of {stack.out_features} rows; "
                f"only multiples of {_PANEL_ROWS} are supported"
            )
        rows = math.prod(next(stack.tensors())[1][:-1])
        found[stack.matrix] = replace(raw, shape=(rows, stack.in_features), file=None)
        if isinstance(stack, ExpertLinear) and stack.rows is not None:
            found[stack.matrix] = _select(raw, stack.rows, stack.num_experts * stack.out_features)
    return found


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
