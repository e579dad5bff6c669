"""The mathematics of the reference executor: plain functions of arrays, each the definition of one operation.

Must not know steps, caches or where weights come from.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abaci.kernels.dequantise import GroupedIntegers, ScaleSteps, power_of_two_below
from abaci.models.spec import Activation, DeltaNet, PositionScale, Rope, RopeStyle, Router, Scoring, Yarn
from abaci.tensor import CACHE_GROUP

Floats = NDArray[np.float32]

ACTIVATION_GROUP = 32
"""Consecutive activations that share a scale in int8 mode."""

SMALLEST_MAXIMUM = 1e-30
"""A group of activations no larger than this counts as zero: its scale's inverse must stay finite."""

MOST_BELOW = 127
"""The magnitude of the least code: that of a group's largest activation, whatever its sign was."""

MOST_ABOVE = 113
"""The largest code of the other sign: with a 4-bit code added, all fit 8 bits."""

LARGEST_ONE_SIDED_SUM = 2184
"""Of a group's positive codes, or of its negative ones: times 15, the largest 4-bit code, that fits 16 bits."""

FEW_LEVELS = LARGEST_ONE_SIDED_SUM // ACTIVATION_GROUP
"""What the codes of a nearly constant group reach instead of MOST_BELOW."""

NORMALISE_EPSILON = 1e-20
"""Added to the sum by which a router's weights are divided."""

LENGTH_EPSILON = 1e-6
"""Added to the squared length by which a delta net's queries and keys are divided."""


def multiply_integers(x: Floats, weight: GroupedIntegers) -> Floats:
    """x (tokens, in) quantised per group, times the transposed matrix (out, in): (tokens, out).

    An output adds its weight groups in order along K: fma(round(dot * weight scale), activation scale, sum), then for
    formats with offsets fma(activation scale * sum of codes, offset, sum). A fused step is formed in float64. Formats
    with steps add whole blocks instead: see `multiply_blocks`.
    """
    codes, scales = quantise_activations(x)
    if weight.steps is not None:
        return multiply_blocks(codes, scales, weight.codes, weight.steps)
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


def multiply_blocks(
    codes: NDArray[np.int8], scales: Floats, weight_codes: NDArray[np.int8], weight: ScaleSteps
) -> Floats:
    """Quantised activations (tokens, in) times a transposed matrix (out, in) whose groups have integer scales.

    A block has eight groups, those beyond the last are zero. Its activation scales count as multiples of 2^-14 of a
    power of two, and their products with steps as multiples of 2^15 times as much; the factors of its minimums as
    multiples in another unit. Only a block's two sums are floats: fma(dots @ products, d, sum), then
    fma(factors @ minimums, -dmin, sum). See csrc/matmul/paired-inl.h.
    """
    num_tokens, num_blocks = len(codes), weight.d.shape[-1]

    def in_blocks(values: NDArray[Any], *of_a_block: int) -> Floats:
        missing = num_blocks * math.prod(of_a_block) - values.shape[1]
        return np.pad(values, [(0, 0), (0, missing)]).reshape(len(values), num_blocks, *of_a_block).astype(np.float32)

    codes_of = in_blocks(codes, 8, ACTIVATION_GROUP)
    weights_of = in_blocks(weight_codes, 8, ACTIVATION_GROUP)
    scales = in_blocks(scales, 8)
    total = np.zeros((num_tokens, len(weight_codes)), np.float32)
    for block in range(num_blocks):
        scale, group_codes = scales[:, block], codes_of[:, block]
        unit = power_of_two_below(np.abs(scale))
        multiples = np.minimum(np.rint(scale / unit * 2.0**14), 32767)
        dots = np.einsum("tgk,ogk->tog", group_codes, weights_of[:, block], optimize=True)  # below 2^15: exact
        products = np.floor(multiples[:, np.newaxis] * weight.steps[:, block] * 2.0**-15 + 0.5)
        sums = np.einsum("tog,tog->to", dots, products)
        total = _fused_multiply_add((sums * 2 * unit).astype(np.float32), weight.d[:, block], total)
        factors = scale * group_codes.sum(axis=-1)
        unit = power_of_two_below(np.abs(factors))
        counts = np.rint(factors / unit * 2.0**weight.factor_bits)
        sums = counts @ weight.minimums[:, block].T.astype(np.float64) * 2.0**-weight.factor_bits
        total = _fused_multiply_add((sums * unit).astype(np.float32), -weight.dmin[:, block], total)
    return total


def quantise_activations(x: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Rows as int8 in groups of ACTIVATION_GROUP: codes (tokens, columns), scales (tokens, groups) of either sign.

    A group's largest activation gets a negative code, at least -MOST_BELOW; those of the other sign get codes up to
    MOST_ABOVE. Where the positive or the negative codes would sum to more than LARGEST_ONE_SIDED_SUM, codes are made
    anew, and the largest becomes -FEW_LEVELS.
    """
    grouped = x.reshape(len(x), -1, ACTIVATION_GROUP)
    above, below = grouped.max(axis=-1, keepdims=True), -grouped.min(axis=-1, keepdims=True)
    largest, others = np.maximum(above, below), np.minimum(above, below)
    sign = np.where(above > below, np.float32(-1), np.float32(1)) * (largest > SMALLEST_MAXIMUM)
    scales = sign * np.maximum(largest * np.float32(1 / MOST_BELOW), others * np.float32(1 / MOST_ABOVE))
    codes = _round_to_codes(grouped, scales)
    one_sided = np.maximum(codes.clip(0).sum(-1, keepdims=True), -codes.clip(max=0).sum(-1, keepdims=True))
    few = sign * largest * np.float32(1 / FEW_LEVELS)
    scales = np.where(one_sided > LARGEST_ONE_SIDED_SUM, few, scales)
    return _round_to_codes(grouped, scales).astype(np.int8).reshape(x.shape), scales[..., 0]


def _round_to_codes(grouped: Floats, scales: Floats) -> Floats:
    inverse = np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales != 0)
    return np.clip(np.rint(grouped * inverse), -MOST_BELOW, MOST_ABOVE)


def round_to_int8(heads: Floats) -> Floats:
    """What an int8 cache keeps of heads (..., head_dim): each group of CACHE_GROUP values as codes times a scale.

    The scale is a float16, and the codes are rounded to it.
    """
    kept = np.empty_like(heads)
    for begin in range(0, heads.shape[-1], CACHE_GROUP):
        group = heads[..., begin : begin + CACHE_GROUP]
        largest = np.abs(group).max(axis=-1, keepdims=True)
        scale = (largest / np.float32(127)).astype(np.float16).astype(np.float32)
        inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
        kept[..., begin : begin + CACHE_GROUP] = np.clip(np.rint(group * inverse), -127, 127) * scale
    return kept


def round_to_bfloat16(values: Floats) -> Floats:
    """What a bfloat16 cache keeps: the nearest, of two equally near ones the even; cut off at 2**60.

    What is no number becomes that, what is too small for a normal number zero.
    """
    largest = np.float32(2**60)
    finite = np.clip(np.where(np.isnan(values), largest, values), -largest, largest).astype(np.float32)
    bits = np.where(np.abs(finite) < np.finfo(np.float32).tiny, np.float32(0), finite).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16
    return rounded.astype(np.uint32).view(np.float32)


def mix_heads(heads: Floats, head_dim: int) -> Floats:
    """The Walsh-Hadamard transform of heads one after another, in runs of the largest power of two that divides one.

    Applied to queries and keys alike it leaves their products as they are, and spreads what is large in one element
    (QuaRot, Ashkboos et al. 2024).
    """
    size = head_dim & -head_dim
    mixed = heads.reshape(-1, size)
    for stage in (1 << bit for bit in range(size.bit_length() - 1)):
        pairs = mixed.reshape(-1, 2, stage)
        mixed = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1)
    result: Floats = (mixed / np.sqrt(np.float32(size))).reshape(heads.shape)
    return result


def _fused_multiply_add(a: Floats, b: Floats, c: Floats) -> Floats:
    return (a.astype(np.float64) * b + c).astype(np.float32)


def rotate_heads(heads: Floats, angles: NDArray[np.float64], style: RopeStyle, magnitude: float = 1.0) -> Floats:
    """Rotate the pairs of heads (tokens, heads, head_dim) by angles (tokens, pairs); other values pass through."""
    dim = 2 * angles.shape[1]
    if style is RopeStyle.HALF:
        first, second = slice(0, dim // 2), slice(dim // 2, dim)
    else:
        first, second = slice(0, dim, 2), slice(1, dim, 2)
    cosine = (np.cos(angles) * magnitude).astype(np.float32)[:, np.newaxis]
    sine = (np.sin(angles) * magnitude).astype(np.float32)[:, np.newaxis]
    rotated = heads.copy()
    rotated[..., first] = heads[..., first] * cosine - heads[..., second] * sine
    rotated[..., second] = heads[..., second] * cosine + heads[..., first] * sine
    return rotated


def attend(
    queries: Floats,
    keys: NDArray[np.floating],
    values: NDArray[np.floating],
    scale: float,
    sinks: Floats | None = None,
) -> Floats:
    """Attention of one position over the visible ones.

    Queries (kv heads, queries per kv head, head_dim); keys (positions, kv heads, head_dim), values likewise of any
    size; sinks (num_heads,). Gives the heads one after another, (num_heads * value size,).
    """
    scores = np.einsum("hqd,phd->hqp", queries, keys.astype(np.float32)) * np.float32(scale)
    if sinks is not None:
        scores = np.concatenate([scores, sinks.reshape(*scores.shape[:2], 1)], axis=-1)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    weights = weights[..., : len(keys)]
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


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), through exp of a negative number only."""
    tail = np.exp(-np.abs(x))
    result: Floats = np.where(x >= 0, np.float32(1), tail) / (1 + tail)
    return result


def capped(logits: Floats, cap: float) -> Floats:
    """Within +-cap, smoothly."""
    result: Floats = np.float32(cap) * np.tanh(logits / np.float32(cap))
    return result


def softplus(x: Floats) -> Floats:
    """ln(1 + exp(x)), through exp of a negative number only."""
    result: Floats = np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
    return result


def gate(gate: Floats, up: Floats, activation: Activation) -> Floats:
    """activation(gate) * up, as `Activation` says."""
    match activation:
        case Activation.SILU:
            return silu(gate) * up
        case Activation.GELU_TANH:
            return gelu_tanh(gate) * up
        case Activation.SIGMOID:
            return sigmoid(gate) * up
        case Activation.CLAMPED_SWIGLU:
            clamped = np.minimum(gate, np.float32(7))
            return clamped * sigmoid(np.float32(1.702) * clamped) * (np.clip(up, -7, 7) + np.float32(1))


def rope_frequencies(rope: Rope, factors: Floats | None) -> NDArray[np.float64]:
    """Radians per position of each pair, (dim / 2,)."""
    frequencies = rope.theta ** (-np.arange(0, rope.dim, 2) / rope.dim) / rope.linear_scale
    if factors is not None:
        frequencies = frequencies / factors
    if rope.yarn is None:
        return frequencies
    kept = 1 - yarn_ramp(rope.yarn, rope.theta, rope.dim)
    return frequencies * kept + frequencies / rope.yarn.factor * (1 - kept)


def yarn_ramp(yarn: Yarn, theta: float, dim: int) -> NDArray[np.float64]:
    """How much of each pair is stretched, 0 to 1."""

    def pair_of(turns: float) -> float:
        return dim * math.log(yarn.original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_of(yarn.beta_fast), pair_of(yarn.beta_slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    return np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)


def position_factors(scale: PositionScale, positions: NDArray[np.integer]) -> Floats:
    """What queries at `positions` are multiplied by."""
    factors: Floats = (1 + scale.beta * np.log1p(positions // scale.period)).astype(np.float32)
    return factors


def choose_experts(logits: Floats, bias: Floats | None, router: Router) -> tuple[NDArray[np.intp], Floats]:
    """Experts (tokens, num_active), best first and ties by number, and their weights.

    Scores may be any floats: what is no number counts as minus infinity.
    """
    if router.scoring is Scoring.SIGMOID:
        scores = sigmoid(logits)
    else:
        scores = np.exp(logits - logits.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
    choosing = _ranked(scores if bias is None else scores + bias)
    if router.num_groups > 1:
        groups = choosing.reshape(len(logits), router.num_groups, -1)
        best = np.sort(groups, axis=-1)[..., ::-1][..., : router.group_best].sum(axis=-1)
        best = _ranked(best)
        chosen = np.argsort(-best, axis=-1, kind="stable")[:, : router.top_groups]
        allowed = np.zeros(best.shape, bool)
        np.put_along_axis(allowed, chosen, True, axis=-1)
        choosing = np.where(allowed[..., np.newaxis], groups, np.nan).reshape(choosing.shape)  # sorted last
    experts = np.argsort(-choosing, axis=-1, kind="stable")[:, : router.num_active]
    weights = np.take_along_axis(scores, experts, axis=-1)
    if router.normalise:
        weights /= weights.sum(axis=-1, keepdims=True) + np.float32(NORMALISE_EPSILON)
    return experts, weights * np.float32(router.scale)


def _ranked(scores: Floats) -> Floats:
    return np.where(np.isnan(scores), np.float32(-np.inf), scores)


def convolve(inputs: Floats, kernel: Floats) -> Floats:
    """SiLU of the causal convolution per channel: inputs (kernel_size - 1 + tokens, channels) to (tokens, channels)."""
    size = kernel.shape[1]
    num_tokens = len(inputs) - size + 1
    mixed = sum(inputs[i : i + num_tokens] * kernel[:, i] for i in range(size))
    return silu(np.asarray(mixed, np.float32))


def delta_step(state: Floats, query_key_value: Floats, decay: Floats, beta: Floats, net: DeltaNet) -> Floats:
    """One token: updates `state` (value heads, key_dim, value_dim) in place and reads it: (value heads * value_dim,).

    `decay` and `beta`, one per value head, are the factors of the state and of the correction.
    """
    key_size = net.num_key_heads * net.key_dim
    query, key, value = np.split(query_key_value, [key_size, 2 * key_size])
    heads = np.arange(net.num_value_heads)
    key_heads = heads % net.num_key_heads if net.tiled_heads else heads // (net.num_value_heads // net.num_key_heads)
    query = _unit(query.reshape(-1, net.key_dim)) / np.float32(math.sqrt(net.key_dim))
    query, key = query[key_heads], _unit(key.reshape(-1, net.key_dim))[key_heads]
    state *= decay[:, np.newaxis, np.newaxis]
    known = np.einsum("hkv,hk->hv", state, key)
    correction = (value.reshape(-1, net.value_dim) - known) * beta[:, np.newaxis]
    state += key[:, :, np.newaxis] * correction[:, np.newaxis, :]
    read: Floats = np.einsum("hkv,hk->hv", state, query)
    return read.reshape(-1)


def _unit(rows: Floats) -> Floats:
    """Rows of length 1."""
    unit: Floats = rows / np.sqrt((rows * rows).sum(axis=-1, keepdims=True) + np.float32(LENGTH_EPSILON))
    return unit
