"""The executable specification: a step of the decoder in numpy, slow and legible.

Every other executor is compared with this one. It must not know how steps are planned or where weights come from.
A row's result never depends on its neighbours: each is multiplied, normed and attended for by itself.

Two modes. "float32": the file's exact weights times float32 activations, the oracle of fidelity. "int8": what the
native kernels compute for quantised weights, with activations as int8 in groups of 32 and integer dot products.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from abaci.kernels.batch import PAGE_TOKENS, SAMPLE, StepBatch, StepOutput
from abaci.kernels.dequantise import GroupedIntegers, decode, dequantise
from abaci.kernels.reference_sampling import SampledRow, sample_row
from abaci.kernels.weights import TensorSource
from abaci.models import decoder
from abaci.models.spec import Activation, Attention, Embedding, Linear, ModelSpec, Norm, Rope, RopeStyle

Floats = NDArray[np.float32]

ACTIVATION_GROUP = 32
"""Consecutive activations that share a scale in int8 mode."""

SMALLEST_MAXIMUM = 1e-30
"""A group of activations no larger than this counts as zero: 127 / max|x| must stay finite."""

LOGIT_TILE_ROWS = 32
"""Rows whose logits are held at once: a vocabulary is wide."""


class ReferenceExecutor:
    """Runs steps of one model (`kernels.batch.Executor`). Weights are read, and dequantised, at their first use."""

    def __init__(
        self,
        spec: ModelSpec,
        source: TensorSource,
        *,
        activations: Literal["float32", "int8"] = "float32",
        cache_type: Literal["float16", "float32"] = "float16",
    ) -> None:
        self.spec = spec
        self._weights = _Weights(source, quantise_activations=activations == "int8")
        self._cache_dtype = np.dtype(cache_type)
        self._caches: tuple[_LayerCache, ...] = ()
        self._groups = spec.cache_groups()

    def page_bytes(self, group: int) -> int:
        """Bytes that one page of a cache group takes, all its layers together."""
        attentions = (self.spec.layers[layer].attention for layer in self._groups[group].layers)
        num_values = sum(2 * PAGE_TOKENS * attention.num_kv_heads * attention.head_dim for attention in attentions)
        return num_values * self._cache_dtype.itemsize

    def allocate_cache(self, num_pages: tuple[int, ...]) -> None:
        """Make room for that many pages per group; once, before the first step.

        Fresh pages hold NaN, so that a wrong read shows.
        """
        _require(not self._caches, "the cache is already there")
        _require(len(num_pages) == len(self._groups), "not one number of pages per cache group")
        group_of_layer = {layer: group for group, members in enumerate(self._groups) for layer in members.layers}
        self._caches = tuple(
            _LayerCache.of_pages(
                num_pages[group_of_layer[index]], group_of_layer[index], layer.attention, self._cache_dtype
            )
            for index, layer in enumerate(self.spec.layers)
        )

    def step(self, batch: StepBatch) -> StepOutput:
        """Run one step. Raises ValueError for a batch whose arrays contradict each other, the model or the cache."""
        _check(batch, self.spec, self._caches)
        ops = _StepOps(batch, self._weights, self._caches)
        decoder.forward(ops, self.spec)
        return _gather(ops.sampled, ops.hidden)

    def close(self) -> None:
        """Release weights and cache."""
        self._weights.clear()
        self._caches = ()


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

    def multiply(self, x: Floats, name: str) -> Floats:
        """x (tokens, in) times the transposed matrix (out, in), by the mode: (tokens, out)."""
        if self._quantise_activations and self._is_quantised(name):
            return multiply_integers(x, self._integers[name])
        matrix = self.floats(name)
        return np.stack([matrix @ row for row in x])

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


@dataclass(frozen=True, slots=True)
class _LayerCache:
    """Keys and values of one layer, (pages, PAGE_TOKENS, kv heads, head_dim), reached by the page tables of `group`."""

    group: int
    keys: NDArray[np.floating]
    values: NDArray[np.floating]

    @classmethod
    def of_pages(cls, num_pages: int, group: int, attention: Attention, dtype: np.dtype[np.floating]) -> "_LayerCache":
        shape = (num_pages, PAGE_TOKENS, attention.num_kv_heads, attention.head_dim)
        return cls(group, np.full(shape, np.nan, dtype), np.full(shape, np.nan, dtype))


class _StepOps:
    """The operations of one step (`models.ops.Ops`), run at once on arrays of (tokens, features)."""

    def __init__(self, batch: StepBatch, weights: _Weights, caches: tuple[_LayerCache, ...]) -> None:
        self._batch = batch
        self._weights = weights
        self._caches = caches
        self._sequences = np.repeat(np.arange(len(batch.first_positions)), np.diff(batch.sequence_offsets))
        row_in_sequence = np.arange(len(batch.token_ids)) - batch.sequence_offsets[self._sequences]
        self._positions = batch.first_positions[self._sequences] + row_in_sequence
        self.sampled: list[SampledRow] = []
        self.hidden = np.empty((0, 0), np.float32)

    def embed(self, embedding: Embedding) -> Floats:
        rows = self._weights.floats(embedding.weight)[self._batch.token_ids]
        return rows * np.float32(embedding.scale)

    def rms_norm(self, x: Floats, norm: Norm) -> Floats:
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        normed: Floats = x / np.sqrt(mean_square + np.float32(norm.epsilon))
        return normed * self._weights.floats(norm.weight)

    def head_norm(self, x: Floats, norm: Norm) -> Floats:
        return self.rms_norm(x.reshape(-1, norm.size), norm).reshape(x.shape)

    def linear(self, x: Floats, linears: Sequence[Linear]) -> tuple[Floats, ...]:
        return tuple(self._linear(x, linear) for linear in linears)

    def rope(self, x: Floats, rope: Rope, head_dim: int) -> Floats:
        factors = 1.0 if rope.frequency_factors is None else self._weights.floats(rope.frequency_factors)
        frequencies = rope.theta ** (-np.arange(0, rope.dim, 2) / rope.dim) / factors
        angles = self._positions[:, np.newaxis] / rope.linear_scale * frequencies
        heads = x.reshape(len(x), -1, head_dim)
        return rotate_heads(heads, angles, rope.style).reshape(x.shape)

    def attention(self, query: Floats, key: Floats, value: Floats, attention: Attention, layer: int) -> Floats:
        cache = self._caches[layer]
        table = self._batch.page_tables[cache.group]
        kv_shape = (len(query), attention.num_kv_heads, attention.head_dim)
        pages, slots = table[self._sequences, self._positions // PAGE_TOKENS], self._positions % PAGE_TOKENS
        cache.keys[pages, slots] = key.reshape(kv_shape)
        cache.values[pages, slots] = value.reshape(kv_shape)
        rows = []
        for row, (sequence, position) in enumerate(zip(self._sequences, self._positions, strict=True)):
            first_visible = 0 if attention.window is None else max(0, position - attention.window + 1)
            visible = np.arange(first_visible, position + 1)
            pages, slots = table[sequence, visible // PAGE_TOKENS], visible % PAGE_TOKENS
            heads = query[row].reshape(attention.num_kv_heads, -1, attention.head_dim)
            rows.append(attend(heads, cache.keys[pages, slots], cache.values[pages, slots], attention.scale))
        return np.stack(rows)

    def gated(self, gate: Floats, up: Floats, activation: Activation) -> Floats:
        return _ACTIVATIONS[activation](gate) * up

    def add(self, x: Floats, y: Floats) -> Floats:
        return x + y

    def logits(self, x: Floats, head: Linear) -> None:
        self.hidden = x[self._batch.hidden_rows]
        rows = self._batch.logit_rows["row"]
        for begin in range(0, len(rows), LOGIT_TILE_ROWS):
            tile = self._linear(x[rows[begin : begin + LOGIT_TILE_ROWS]], head)
            self.sampled += [sample_row(logits, self._batch, begin + index) for index, logits in enumerate(tile)]

    def _linear(self, x: Floats, linear: Linear) -> Floats:
        y = self._weights.multiply(x, linear.weight)
        return y if linear.bias is None else y + self._weights.floats(linear.bias)


def multiply_integers(x: Floats, weight: GroupedIntegers) -> Floats:
    """x (tokens, in) quantised per group, times the transposed matrix (out, in): (tokens, out).

    An output adds its weight groups in order along K: fma(round(dot * weight scale), activation scale, sum), then for
    formats with offsets fma(activation scale * sum of codes, offset, sum). A fused step is formed in float64.
    """
    codes, scales = quantise_activations(x)
    total = np.zeros((len(x), len(weight.codes)), np.float32)
    for group in range(weight.scales.shape[1]):
        columns = slice(group * weight.group_size, (group + 1) * weight.group_size)
        group_codes = codes[:, columns].astype(np.float32)
        scale = scales[:, columns.start // ACTIVATION_GROUP, np.newaxis]
        dot = group_codes @ weight.codes[:, columns].astype(np.float32).T  # below 2^24: exact
        total = _fused_multiply_add(dot * weight.scales[:, group], scale, total)
        if weight.offsets is not None:
            total = _fused_multiply_add(scale * group_codes.sum(axis=1, keepdims=True), weight.offsets[:, group], total)
    return total


def quantise_activations(x: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Rows as int8 in groups of ACTIVATION_GROUP: codes (tokens, columns) in [-127, 127], scales (tokens, groups)."""
    grouped = x.reshape(len(x), -1, ACTIVATION_GROUP)
    largest = np.abs(grouped).max(axis=-1, keepdims=True)
    largest[largest <= SMALLEST_MAXIMUM] = 0
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    codes = np.clip(np.rint(grouped * inverse), -127, 127).astype(np.int8)
    return codes.reshape(x.shape), (largest / np.float32(127))[..., 0]


def _fused_multiply_add(a: Floats, b: Floats, c: Floats) -> Floats:
    return (a.astype(np.float64) * b + c).astype(np.float32)


def rotate_heads(heads: Floats, angles: NDArray[np.float64], style: RopeStyle) -> Floats:
    """Rotate the pairs of heads (tokens, heads, head_dim) by angles (tokens, pairs); other values pass through."""
    dim = 2 * angles.shape[1]
    if style is RopeStyle.HALF:
        first, second = slice(0, dim // 2), slice(dim // 2, dim)
    else:
        first, second = slice(0, dim, 2), slice(1, dim, 2)
    cosine, sine = np.cos(angles).astype(np.float32)[:, np.newaxis], np.sin(angles).astype(np.float32)[:, np.newaxis]
    rotated = heads.copy()
    rotated[..., first] = heads[..., first] * cosine - heads[..., second] * sine
    rotated[..., second] = heads[..., second] * cosine + heads[..., first] * sine
    return rotated


def attend(queries: Floats, keys: NDArray[np.floating], values: NDArray[np.floating], scale: float) -> Floats:
    """Attention of one position over the visible ones.

    Queries (kv heads, queries per kv head, head_dim); keys and values (positions, kv heads, head_dim). Gives the heads
    one after another, (num_heads * head_dim,).
    """
    scores = np.einsum("hqd,phd->hqp", queries, keys.astype(np.float32)) * np.float32(scale)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed: Floats = np.einsum("hqp,phd->hqd", weights, values.astype(np.float32))
    return mixed.reshape(-1)


def silu(x: Floats) -> Floats:
    """x * sigmoid(x), through exp of a negative number only."""
    tail = np.exp(-np.abs(x))
    activated: Floats = x * np.where(x >= 0, np.float32(1), tail) / (1 + tail)
    return activated


def gelu_tanh(x: Floats) -> Floats:
    """GELU in its tanh form (Hendrycks & Gimpel 2016)."""
    inner = np.float32(0.7978845608028654) * (x + np.float32(0.044715) * x * x * x)
    activated: Floats = np.float32(0.5) * x * (1 + np.tanh(inner))
    return activated


_ACTIVATIONS = {Activation.SILU: silu, Activation.GELU_TANH: gelu_tanh}


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


def _check(batch: StepBatch, spec: ModelSpec, caches: tuple[_LayerCache, ...]) -> None:
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
    _require(len(batch.page_tables) == 1 + max(cache.group for cache in caches), "not one page table per cache group")
    for cache in caches:
        table, num_pages = batch.page_tables[cache.group], len(cache.keys)
        _require(table.shape[0] == num_sequences and _within(table, -1, num_pages), "page tables out of range")
        for sequence in range(num_sequences):
            first = batch.first_positions[sequence]
            last = first + offsets[sequence + 1] - offsets[sequence] - 1
            _require(last // PAGE_TOKENS < table.shape[1], "a page table too short for the step's positions")
            own = table[sequence, first // PAGE_TOKENS : last // PAGE_TOKENS + 1]
            _require((own >= 0).all(), "the step's own positions have no page")
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
