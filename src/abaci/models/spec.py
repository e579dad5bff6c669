"""What a model is, as data: a tree of frozen values that names every tensor with its shape.

A family file builds a ModelSpec from a configuration; `decoder.forward` walks it; the loader checks a file against
`ModelSpec.tensors()`. No numbers are stored here, only their names.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class Activation(Enum):
    """The gate of a gated MLP."""

    SILU = "silu"
    GELU_TANH = "gelu_tanh"


class RopeStyle(Enum):
    """Which two values of a head rotate together: (i, i + dim/2) or (2i, 2i + 1)."""

    HALF = "half"
    INTERLEAVED = "interleaved"


@dataclass(frozen=True, slots=True)
class Norm:
    """RMS norm (Zhang & Sennrich 2019): x / sqrt(mean(x^2) + epsilon) * weight, weight of shape (size,)."""

    weight: str
    size: int
    epsilon: float


@dataclass(frozen=True, slots=True)
class Linear:
    """y = W x + b with W of shape (out_features, in_features)."""

    weight: str
    in_features: int
    out_features: int
    bias: str | None = None


@dataclass(frozen=True, slots=True)
class Embedding:
    """A table of shape (vocab_size, hidden_size); rows are multiplied by `scale`."""

    weight: str
    vocab_size: int
    hidden_size: int
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding (Su et al. 2021) over the first `dim` values of a head.

    Angle of pair i at position p: p / linear_scale * theta^(-2i/dim) / factor_i, where `frequency_factors` names an
    optional tensor of shape (dim/2,).
    """

    theta: float
    dim: int
    style: RopeStyle
    linear_scale: float = 1.0
    frequency_factors: str | None = None


@dataclass(frozen=True, slots=True)
class Attention:
    """Grouped-query attention with scores q.k * scale; position p sees (p - window, p], without a window [0, p]."""

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    rope: Rope
    window: int | None = None
    query_norm: Norm | None = None
    key_norm: Norm | None = None


@dataclass(frozen=True, slots=True)
class GatedMlp:
    """down(activation(gate x) * (up x))."""

    gate: Linear
    up: Linear
    down: Linear
    activation: Activation


@dataclass(frozen=True, slots=True)
class Layer:
    """x += post_norm(attention(norm(x))); x += post_norm(mlp(norm(x))); absent post norms are the identity."""

    attention_norm: Norm
    attention: Attention
    mlp_norm: Norm
    mlp: GatedMlp
    attention_post_norm: Norm | None = None
    mlp_post_norm: Norm | None = None


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """Layers whose keys and values live and die together: all with the same `window`."""

    window: int | None
    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A whole decoder. `head` may name the embedding's tensor (tied)."""

    architecture: str
    embedding: Embedding
    layers: tuple[Layer, ...]
    norm: Norm
    head: Linear
    context_length: int

    @property
    def vocab_size(self) -> int:
        return self.embedding.vocab_size

    @property
    def hidden_size(self) -> int:
        return self.embedding.hidden_size

    def cache_groups(self) -> tuple[CacheGroup, ...]:
        """Layers grouped by window; full attention first, then by growing window."""
        windows = {layer.attention.window for layer in self.layers}
        ordered = sorted(windows, key=lambda window: (window is not None, window or 0))
        return tuple(
            CacheGroup(window, tuple(i for i, layer in enumerate(self.layers) if layer.attention.window == window))
            for window in ordered
        )

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every tensor the model needs with its shape; a tied head comes once."""
        yield self.embedding.weight, (self.embedding.vocab_size, self.embedding.hidden_size)
        for layer in self.layers:
            attention, mlp = layer.attention, layer.mlp
            for norm in (
                layer.attention_norm,
                attention.query_norm,
                attention.key_norm,
                layer.attention_post_norm,
                layer.mlp_norm,
                layer.mlp_post_norm,
            ):
                if norm is not None:
                    yield norm.weight, (norm.size,)
            projections = (attention.query, attention.key, attention.value, attention.output)
            for linear in (*projections, mlp.gate, mlp.up, mlp.down):
                yield linear.weight, (linear.out_features, linear.in_features)
                if linear.bias is not None:
                    yield linear.bias, (linear.out_features,)
        factors = {layer.attention.rope.frequency_factors: layer.attention.rope.dim // 2 for layer in self.layers}
        for name, size in factors.items():
            if name is not None:
                yield name, (size,)
        yield self.norm.weight, (self.norm.size,)
        if self.head.weight != self.embedding.weight:
            yield self.head.weight, (self.head.out_features, self.head.in_features)
