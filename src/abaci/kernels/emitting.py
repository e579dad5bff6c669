"""Writes a recorded decoder into a C++ step program: each step becomes an operation, with its weights and slots.

Must not know where weights come from, nor what a step is run with.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from abaci.errors import FileFormatError
from abaci.kernels import _native
from abaci.kernels.packing import DAMAGED_HINT, FORMAT_NUMBERS, PackedWeights
from abaci.kernels.recording import (
    AddStep,
    AskedStep,
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
    ReorderStep,
    ScaleStep,
    Value,
    assign_slots,
)
from abaci.models import decoder
from abaci.models.spec import (
    Activation,
    DeltaNet,
    Linear,
    Mixer,
    ModelSpec,
    Norm,
    Rope,
    RopeStyle,
    Scoring,
)

_ACTIVATION_NUMBERS = {activation: number for number, activation in enumerate(Activation)}


class Emitter:
    """Writes a recorded decoder into a step program."""

    def __init__(
        self, program: _native.StepProgram, spec: ModelSpec, weights: PackedWeights, observes: bool = False
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
        cache = mixer.cache
        self._cache_layers[layer] = self._program.add_cache_layer(
            group, cache.num_key_heads, cache.head_dim, cache.num_value_heads > 0
        )

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
            case QuantiseStep() | ReorderStep():
                self._emit_inputs(step)
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
            case AddStep() | ScaleStep() | AskedStep():
                self._emit_in_place(step)
            case HeadStep(x=x, head=head, soft_cap=cap):
                program.head(_slot(x), self._matrix(head.matrix), self._bias(head), cap or 0.0)
            case HeadLinearStep() | LatentStep() | DeltaNetStep():
                self._emit_mixing(step)
            case _:
                self._emit_experts(step)

    def _emit_inputs(self, step: QuantiseStep | ReorderStep) -> None:
        match step:
            case QuantiseStep(x=x):
                self._program.quantise(_slot(x))
            case ReorderStep(x=x, order=order, out=out):
                self._program.reorder(_slot(x), _slot(out), self._order(order), out.quantised)

    def _emit_in_place(self, step: AddStep | ScaleStep | AskedStep) -> None:
        match step:
            case AddStep(x=x, y=y, out=out, scale=scale):
                factor = 1.0 if scale is None else float(self._weights.vectors[scale][0])
                self._program.add(_slot(x), _slot(y), _slot(out), factor)
            case ScaleStep(outs=outs, factors=factors):
                self._program.scale([_slot(out) for out in outs], factors)
            case AskedStep(out=out):
                if not self._observes:  # every row counts for what is observed
                    self._program.keep_asked(_slot(out))

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
        number = FORMAT_NUMBERS[rows.format]
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

    def _order(self, name: str) -> list[int]:
        """Of columns. Raises FileFormatError for numbers that are no permutation."""
        numbers = self._weights.vectors[name]
        if not np.array_equal(np.sort(numbers), np.arange(len(numbers))):
            raise FileFormatError(f"tensor {name} is not an order of {len(numbers)} columns", hint=DAMAGED_HINT)
        return [int(number) for number in numbers]

    def _vector(self, name: str | None) -> NDArray[np.float32] | None:
        return None if name is None else self._weights.vectors[name]


def _slot(value: Value) -> int:
    assert value.slot is not None
    return value.slot
