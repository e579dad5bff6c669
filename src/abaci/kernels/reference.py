"""The executable specification: a step of the decoder in numpy, slow and legible.

Every other executor is compared with this one. It must not know how steps are planned or where weights come from.
A row's result never depends on its neighbours: each is multiplied, normed and attended for by itself.

Two modes. "float32": the file's exact weights times float32 activations, the oracle of fidelity. "int8": what the
native kernels compute for quantised weights, with activations as int8 in groups of 32 and integer dot products.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from abaci.kernels.batch import NO_STATE, PAGE_TOKENS, SAMPLE, StepBatch, StepOutput
from abaci.kernels.dequantise import GroupedIntegers, decode, dequantise
from abaci.kernels.reference_math import (
    Floats,
    attend,
    capped,
    choose_experts,
    convolve,
    delta_step,
    gate,
    mix_heads,
    multiply_integers,
    position_factors,
    rope_frequencies,
    rotate_heads,
    round_to_bfloat16,
    round_to_int8,
    sigmoid,
    softplus,
)
from abaci.kernels.reference_sampling import SampledRow, sample_row
from abaci.kernels.weights import TensorSource
from abaci.models import decoder
from abaci.models.spec import (
    Activation,
    Attention,
    DeltaNet,
    Embedding,
    ExpertLinear,
    HeadLinear,
    LatentAttention,
    Linear,
    Mixer,
    ModelSpec,
    Norm,
    PositionScale,
    Rope,
    Router,
)
from abaci.tensor import CacheType

LOGIT_TILE_ROWS = 32
"""Rows whose logits are held at once: a vocabulary is wide."""


class ReferenceExecutor:
    """Runs steps of one model (`kernels.batch.Executor`). Weights are read, and dequantised, at their first use.

    The cache keeps what pages of `cache_type` would; "float32", which no page has, keeps all there is.
    """

    def __init__(
        self,
        spec: ModelSpec,
        source: TensorSource,
        *,
        activations: Literal["float32", "int8"] = "float32",
        cache_type: CacheType | Literal["float32"] = CacheType.F16,
    ) -> None:
        self.spec = spec
        self._weights = _Weights(source, quantise_activations=activations == "int8")
        self._cache_type = cache_type
        self._caches: dict[int, _LayerCache] = {}
        self._states: dict[int, Floats] = {}
        self._groups = spec.cache_groups()

    def page_bytes(self, group: int) -> int:
        """Bytes that one page of a cache group takes, all its layers together."""
        kept = (self.spec.layers[layer].mixer.cache for layer in self._groups[group].layers)
        return PAGE_TOKENS * sum(cache.num_heads * self._head_bytes(cache.head_dim) for cache in kept)

    def _head_bytes(self, head_dim: int) -> int:
        return self._cache_type.head_bytes(head_dim) if isinstance(self._cache_type, CacheType) else 4 * head_dim

    @property
    def state_bytes(self) -> int:
        """Bytes of one sequence's state, all layers that have one together."""
        return 4 * sum(layer.mixer.state_values for layer in self.spec.layers)

    def allocate_cache(self, num_pages: tuple[int, ...], num_states: int = 0) -> None:
        """Make room for that many pages per group and that many states; once, before the first step.

        Fresh pages and states hold NaN, so that a wrong read shows.
        """
        _require(not self._caches and not self._states, "the cache is already there")
        _require(len(num_pages) == len(self._groups), "not one number of pages per cache group")
        for index, group in enumerate(self._groups):
            for layer in group.layers:
                mixer = self.spec.layers[layer].mixer
                self._caches[layer] = _LayerCache.of_pages(num_pages[index], index, mixer, self._cache_type)
        for layer in self.spec.state_layers():
            shape = (num_states, self.spec.layers[layer].mixer.state_values)
            self._states[layer] = np.full(shape, np.nan, np.float32)

    def step(self, batch: StepBatch) -> StepOutput:
        """Run one step. Raises ValueError for a batch whose arrays contradict each other, the model or the cache."""
        _check(batch, self.spec, self._caches, self._states)
        ops = _StepOps(batch, self._weights, self._caches, self._states)
        decoder.forward(ops, self.spec)
        return _gather(ops.sampled, ops.hidden)

    def close(self) -> None:
        """Release weights and cache."""
        self._weights.clear()
        self._caches.clear()
        self._states.clear()


class _Weights:
    """The model's tensors, each converted once."""

    def __init__(self, source: TensorSource, *, quantise_activations: bool) -> None:
        self._source = source
        self._quantise_activations = quantise_activations
        self._floats: dict[str, Floats] = {}
        self._integers: dict[str, GroupedIntegers] = {}

    def floats(self, name: str) -> Floats:
        """The tensor's exact values."""
        if name not in self._floats:
            raw = self._source.tensor(name)
            self._floats[name] = dequantise(raw.format, raw.shape, raw.data)
        return self._floats[name]

    def multiply(self, x: Floats, name: str, chosen: NDArray[np.integer] | slice | None = None) -> Floats:
        """x (tokens, in) times the transposed matrix (out, in), by the mode: (tokens, out).

        A tensor with more axes counts as one matrix of many rows, of which only `chosen` ones are used.
        """
        if self._quantise_activations and self._is_quantised(name):
            return multiply_integers(x, _select(self._integers[name], chosen))
        floats = self.floats(name)
        matrix = floats.reshape(-1, floats.shape[-1])
        return _product(x, matrix if chosen is None else matrix[chosen])

    def multiply_columns(self, x: Floats, name: str, chosen: slice) -> Floats:
        """The same with a matrix whose columns are the `chosen` rows; its values are float32 in either mode."""
        return _product(x, np.ascontiguousarray(self.floats(name)[chosen].T))

    def clear(self) -> None:
        self._floats.clear()
        self._integers.clear()

    def _is_quantised(self, name: str) -> bool:
        if name not in self._integers:
            raw = self._source.tensor(name)
            if not raw.format.is_quantised:
                return False
            self._integers[name] = decode(raw.format, raw.shape, raw.data)
        return True


def _product(x: Floats, matrix: Floats) -> Floats:
    """Row by row, so that a row's result does not depend on how many there are."""
    return np.stack([matrix @ row for row in x]) if len(x) else np.empty((0, len(matrix)), np.float32)


def _select(matrix: GroupedIntegers, chosen: NDArray[np.integer] | slice | None) -> GroupedIntegers:
    num_axes = matrix.codes.ndim - 1

    def rows(array: NDArray[Any]) -> NDArray[Any]:
        flat = array.reshape(-1, *array.shape[num_axes:])
        return flat if chosen is None else flat[chosen]

    offsets = None if matrix.offsets is None else rows(matrix.offsets)
    steps = matrix.steps
    if steps is not None:
        steps = replace(
            steps,
            steps=rows(steps.steps),
            minimums=rows(steps.minimums),
            d=rows(steps.d),
            dmin=rows(steps.dmin),
        )
    return replace(matrix, codes=rows(matrix.codes), scales=rows(matrix.scales), offsets=offsets, steps=steps)


@dataclass(frozen=True, slots=True)
class _LayerCache:
    """Keys and values of one layer, (pages, PAGE_TOKENS, heads, head_dim), reached by the page tables of `group`."""

    group: int
    keys: NDArray[np.floating]
    values: NDArray[np.floating]
    cache_type: CacheType | Literal["float32"]
    """The arrays are float32 but for float16, and hold what is left of the values."""

    @property
    def is_int8(self) -> bool:
        return self.cache_type is CacheType.INT8

    @classmethod
    def of_pages(
        cls, num_pages: int, group: int, mixer: Mixer, cache_type: CacheType | Literal["float32"]
    ) -> "_LayerCache":
        dtype = np.float16 if cache_type is CacheType.F16 else np.float32
        kept = mixer.cache
        keys, values = (
            np.full((num_pages, PAGE_TOKENS, heads, kept.head_dim), np.nan, dtype)
            for heads in (kept.num_key_heads, kept.num_value_heads)
        )
        return cls(group, keys, values, cache_type)

    def put(self, pages: NDArray[np.integer], slots: NDArray[np.integer], key: Floats, value: Floats | None) -> None:
        """Keep rows of keys, and of values where the layer has them, as pages do."""
        for array, rows in ((self.keys, key), (self.values, value)):
            if rows is not None:
                heads = rows.reshape(len(rows), *array.shape[2:])
                array[pages, slots] = self._rounded(heads)

    def _rounded(self, heads: Floats) -> Floats:
        if self.cache_type is CacheType.INT8:
            return round_to_int8(heads)
        return round_to_bfloat16(heads) if self.cache_type is CacheType.BF16 else heads


class _StepOps:
    """The operations of one step (`models.ops.Ops`), run at once on arrays of (tokens, features)."""

    def __init__(
        self, batch: StepBatch, weights: _Weights, caches: Mapping[int, _LayerCache], states: Mapping[int, Floats]
    ) -> None:
        self._batch = batch
        self._weights = weights
        self._caches = caches
        self._states = states
        self._sequences = np.repeat(np.arange(len(batch.first_positions)), np.diff(batch.sequence_offsets))
        row_in_sequence = np.arange(len(batch.token_ids)) - batch.sequence_offsets[self._sequences]
        self._positions = batch.first_positions[self._sequences] + row_in_sequence
        self._asked = np.union1d(batch.logit_rows["row"], batch.hidden_rows)
        self.sampled: list[SampledRow] = []
        self.hidden = np.empty((0, 0), np.float32)

    def embed(self, embedding: Embedding) -> Floats:
        rows = self._weights.floats(embedding.weight)[self._batch.token_ids]
        return rows * np.float32(embedding.scale)

    def rms_norm(self, x: Floats, norm: Norm) -> Floats:
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        normed: Floats = x / np.sqrt(mean_square + np.float32(norm.epsilon))
        scale = np.float32(norm.scale)
        return normed * (scale if norm.weight is None else self._weights.floats(norm.weight) * scale)

    def head_norm(self, x: Floats, norm: Norm) -> Floats:
        return self.rms_norm(x.reshape(-1, norm.size), norm).reshape(x.shape)

    def linear(self, x: Floats, linears: Sequence[Linear]) -> tuple[Floats, ...]:
        return tuple(self._linear(x, linear) for linear in linears)

    def rope(self, x: Floats, rope: Rope, head_dim: int) -> Floats:
        heads = x.reshape(len(x), -1, head_dim)
        return self._rotate(heads, rope).reshape(x.shape)

    def _rotate(self, heads: Floats, rope: Rope) -> Floats:
        factors = None if rope.frequency_factors is None else self._weights.floats(rope.frequency_factors)
        angles = self._positions[:, np.newaxis] * rope_frequencies(rope, factors)
        return rotate_heads(heads, angles, rope.style, rope.magnitude)

    def scale_by_position(self, query: Floats, scale: PositionScale) -> Floats:
        return query * position_factors(scale, self._positions)[:, np.newaxis]

    def attention(
        self, query: Floats, key_value: tuple[Floats, Floats] | None, attention: Attention, layer: int
    ) -> Floats:
        is_int8 = self._caches[layer].is_int8
        if key_value is not None:
            key, value = key_value
            self._append(layer, mix_heads(key, attention.head_dim) if is_int8 else key, value)
        queries = mix_heads(query, attention.head_dim) if is_int8 else query
        sinks = None if attention.sinks is None else self._weights.floats(attention.sinks)
        rows = []
        for row in range(len(query)):
            keys, values = self._visible(layer, row, attention.window)
            heads = queries[row].reshape(attention.num_kv_heads, -1, attention.head_dim)
            rows.append(attend(heads, keys, values, attention.scale, sinks))
        return np.stack(rows)

    def latent_attention(self, query: Floats, compressed: Floats, attention: LatentAttention, layer: int) -> Floats:
        num_tokens, nope, latent = len(query), attention.nope_dim, attention.latent_dim
        heads = query.reshape(num_tokens, attention.num_heads, -1)
        plain = np.ascontiguousarray(heads[..., :nope]).reshape(num_tokens, -1)
        absorbed = self._head_linear(plain, attention.key_up).reshape(num_tokens, attention.num_heads, latent)
        queries = np.concatenate([absorbed, self._rotate(heads[..., nope:], attention.rope)], axis=-1)
        normed = self.rms_norm(compressed[:, :latent], attention.key_value_norm)
        rotated = self._rotate(compressed[:, np.newaxis, latent:], attention.rope)[:, 0]
        self._append(layer, np.concatenate([normed, rotated], axis=-1), None)
        rows = []
        for row in range(num_tokens):
            keys, _ = self._visible(layer, row, None)
            rows.append(attend(queries[row][np.newaxis], keys, keys[..., :latent], attention.scale))
        return self._head_linear(np.stack(rows), attention.value_up)

    def _append(self, layer: int, key: Floats, value: Floats | None) -> None:
        cache = self._caches[layer]
        table = self._batch.page_tables[cache.group]
        pages, slots = table[self._sequences, self._positions // PAGE_TOKENS], self._positions % PAGE_TOKENS
        cache.put(pages, slots, key, value)

    def _visible(self, layer: int, row: int, window: int | None) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Keys and values (positions, heads, head_dim) that a row of the step sees."""
        cache, position = self._caches[layer], self._positions[row]
        first_visible = 0 if window is None else max(0, position - window + 1)
        visible = np.arange(first_visible, position + 1)
        pages = self._batch.page_tables[cache.group][self._sequences[row], visible // PAGE_TOKENS]
        return cache.keys[pages, visible % PAGE_TOKENS], cache.values[pages, visible % PAGE_TOKENS]

    def delta_net(self, query_key_value: Floats, beta: Floats, alpha: Floats, net: DeltaNet, layer: int) -> Floats:
        kernel = self._weights.floats(net.convolution)
        rate = softplus(alpha + self._weights.floats(net.time_bias)) * self._weights.floats(net.decay)
        decay, share = np.exp(rate), sigmoid(beta)
        offsets, rows = self._batch.sequence_offsets, []
        for sequence, (read, write) in enumerate(self._batch.states):
            own = slice(offsets[sequence], offsets[sequence + 1])
            states = self._states[layer]
            kept = np.zeros(states.shape[1], np.float32) if read == NO_STATE else states[read].copy()
            recent, matrices = np.split(kept, [(net.kernel_size - 1) * net.channels])
            inputs = np.concatenate([recent.reshape(-1, net.channels), query_key_value[own]])
            matrices = matrices.reshape(net.num_value_heads, net.key_dim, net.value_dim)
            for row, mixed in zip(range(own.start, own.stop), convolve(inputs, kernel), strict=True):
                rows.append(delta_step(matrices, mixed, decay[row], share[row], net))
            recent = inputs[len(inputs) - net.kernel_size + 1 :]
            states[write] = np.concatenate([recent.reshape(-1), matrices.reshape(-1)])
        return np.stack(rows)

    def choose_experts(self, logits: Floats, router: Router) -> Floats:
        """Numbers of the chosen experts, then their weights, (tokens, 2 * num_active)."""
        bias = None if router.choice_bias is None else self._weights.floats(router.choice_bias)
        experts, weights = choose_experts(logits, bias, router)
        if router.expert_scales is not None:
            weights = weights * self._weights.floats(router.expert_scales)[experts]
        return np.concatenate([experts.astype(np.float32), weights], axis=-1)

    def dispatch(self, x: Floats, choice: Floats) -> Floats:
        """The rows of a token one after another, in the order of choice."""
        return np.repeat(x, choice.shape[1] // 2, axis=0)

    def expert_linear(self, x: Floats, linears: Sequence[ExpertLinear], choice: Floats) -> tuple[Floats, ...]:
        experts = np.split(choice, 2, axis=-1)[0].reshape(-1).astype(np.intp)
        return tuple(self._expert_linear(x, experts, linear) for linear in linears)

    def _expert_linear(self, x: Floats, experts: NDArray[np.intp], linear: ExpertLinear) -> Floats:
        y = np.empty((len(x), linear.out_features), np.float32)
        for expert in np.unique(experts):
            own = np.flatnonzero(experts == expert)
            y[own] = self._weights.multiply(x[own], linear.weight, linear.stored_rows(expert))
        return y if linear.bias is None else y + self._weights.floats(linear.bias)[experts]

    def _head_linear(self, x: Floats, linear: HeadLinear) -> Floats:
        """Each head's part of x (tokens, num_heads * in_features) times its own matrix."""
        multiply = self._weights.multiply_columns if linear.is_transposed else self._weights.multiply
        parts = np.split(x, linear.num_heads, axis=-1)
        products = [multiply(part, linear.weight, linear.stored_rows(head)) for head, part in enumerate(parts)]
        return np.concatenate(products, axis=-1)

    def combine(self, routed: Floats, choice: Floats, shared: Floats | None, shared_gate: Floats | None) -> Floats:
        weights = np.split(choice, 2, axis=-1)[1]
        rows = routed.reshape(*weights.shape, -1)
        total = np.zeros((len(weights), rows.shape[-1]), np.float32)
        for rank in range(weights.shape[1]):
            total += weights[:, rank, np.newaxis] * rows[:, rank]
        if shared is None:
            return total
        return total + (shared if shared_gate is None else shared * sigmoid(shared_gate))

    def gated(self, gate_value: Floats, up: Floats, activation: Activation) -> Floats:
        return gate(gate_value, up, activation)

    def part(self, x: Floats, begin: int, size: int) -> Floats:
        return x[:, begin : begin + size]

    def add(self, x: Floats, y: Floats, scale: str | None = None) -> Floats:
        return x + y if scale is None else (x + y) * self._weights.floats(scale)

    def asked_rows(self, x: Floats) -> Floats:
        rows: Floats = x[self._asked]
        return rows

    def logits(self, x: Floats, head: Linear, soft_cap: float | None) -> None:
        self.hidden = x[np.searchsorted(self._asked, self._batch.hidden_rows)]
        rows = np.searchsorted(self._asked, self._batch.logit_rows["row"])
        for begin in range(0, len(rows), LOGIT_TILE_ROWS):
            tile = self._linear(x[rows[begin : begin + LOGIT_TILE_ROWS]], head)
            tile = tile if soft_cap is None else capped(tile, soft_cap)
            self.sampled += [sample_row(logits, self._batch, begin + index) for index, logits in enumerate(tile)]

    def _linear(self, x: Floats, linear: Linear) -> Floats:
        chosen = None if linear.rows is None else np.array(linear.rows.chosen(linear.out_features))
        inputs = x if linear.order is None else x[:, self._weights.floats(linear.order).astype(np.intp)]
        y = self._weights.multiply(inputs, linear.weight, chosen)
        if linear.bias is not None:
            bias = self._weights.floats(linear.bias)
            y = y + (bias if chosen is None else bias[chosen])
        for adapter in linear.adapters:
            y = y + self._linear(self._linear(x, adapter.down) * np.float32(adapter.scale), adapter.up)
        return y


def _gather(rows: list[SampledRow], hidden: Floats) -> StepOutput:
    width = max((len(row.top_ids) for row in rows), default=0)
    top_ids = np.full((len(rows), width), -1, np.int32)
    top_logprobs = np.full((len(rows), width), -np.inf, np.float32)
    for index, row in enumerate(rows):
        top_ids[index, : len(row.top_ids)] = row.top_ids
        top_logprobs[index, : len(row.top_ids)] = row.top_logprobs
    return StepOutput(
        token_ids=np.array([row.token_id for row in rows], np.int32),
        logprobs=np.array([row.logprob for row in rows], np.float32),
        top_ids=top_ids,
        top_logprobs=top_logprobs,
        hidden=hidden,
    )


def _check(batch: StepBatch, spec: ModelSpec, caches: Mapping[int, _LayerCache], states: Mapping[int, Floats]) -> None:
    """Raise ValueError unless every index of the batch is in range."""
    num_tokens, num_sequences = len(batch.token_ids), len(batch.first_positions)
    offsets, rows = batch.sequence_offsets, batch.logit_rows
    _require(bool(caches), "no cache has been allocated")
    _require(num_tokens > 0, "a step without tokens")
    _require(_within(batch.token_ids, 0, spec.vocab_size), "token ids out of range")
    _require(len(offsets) == num_sequences + 1, "sequence_offsets and first_positions differ in length")
    _require(
        offsets[0] == 0 and offsets[-1] == num_tokens and (np.diff(offsets) > 0).all(),
        "sequence_offsets do not split the rows",
    )
    _require((batch.first_positions >= 0).all(), "negative positions")
    _require(
        len(batch.page_tables) == 1 + max(cache.group for cache in caches.values()),
        "not one page table per cache group",
    )
    for cache in caches.values():
        table, num_pages = batch.page_tables[cache.group], len(cache.keys)
        _require(table.shape[0] == num_sequences and _within(table, -1, num_pages), "page tables out of range")
        for sequence in range(num_sequences):
            first = batch.first_positions[sequence]
            last = first + offsets[sequence + 1] - offsets[sequence] - 1
            _require(last // PAGE_TOKENS < table.shape[1], "a page table too short for the step's positions")
            own = table[sequence, first // PAGE_TOKENS : last // PAGE_TOKENS + 1]
            _require((own >= 0).all(), "the step's own positions have no page")
    if states:
        num_states = min(map(len, states.values()))
        _require(batch.states.shape == (num_sequences, 2), "not one pair of states per sequence")
        _require(_within(batch.states[:, 0], NO_STATE, num_states), "states to read out of range")
        _require(_within(batch.states[:, 1], 0, num_states), "states to write out of range")
        _require(len(np.unique(batch.states[:, 1])) == num_sequences, "two sequences write one state")
    _require(
        _within(rows["row"], 0, num_tokens) and (np.diff(rows["row"]) >= 0).all(), "logit rows out of range or order"
    )
    _require(_within(batch.hidden_rows, 0, num_tokens), "hidden rows out of range")
    _require(_within(rows["target"], SAMPLE, spec.vocab_size), "targets out of range")
    _require(_within(rows["num_top"], -1, spec.vocab_size + 1), "num_top out of range")
    _require(_within(rows["mask_row"], -1, len(batch.masks)), "mask rows out of range")
    for name, entries in (("history", batch.history), ("bias", batch.bias)):
        begins, ends = rows[f"{name}_begin"], rows[f"{name}_end"]
        _require(
            (begins <= ends).all() and (begins >= 0).all() and (ends <= len(entries)).all(),
            f"{name} ranges out of range",
        )
        _require(_within(entries["token_id"], 0, spec.vocab_size), f"{name} token ids out of range")


def _within(values: NDArray[np.integer], lowest: int, end: int) -> bool:
    return bool(((values >= lowest) & (values < end)).all())


def _require(condition: bool | np.bool_, complaint: str) -> None:
    if not condition:
        raise ValueError(complaint)
