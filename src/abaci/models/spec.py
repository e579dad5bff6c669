"""What a model is, as data: a tree of frozen values that names every tensor with its shape.

A family file builds a ModelSpec from a configuration; `decoder.forward` walks it; the loader checks a file against
`ModelSpec.tensors()`. No numbers are stored here, only their names.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import TypeGuard

from abaci.tensor import WeightFormat

Tensor = tuple[str, tuple[int, ...]]
"""Name and shape, the last axis contiguous."""


class Activation(Enum):
    """How a gate g and a value u become one. CLAMPED_SWIGLU (gpt-oss): g = min(g, 7), u = u within +-7,
    g * sigmoid(1.702 g) * (u + 1)."""

    SILU = "silu"
    GELU_TANH = "gelu_tanh"
    SIGMOID = "sigmoid"
    CLAMPED_SWIGLU = "clamped_swiglu"


class RopeStyle(Enum):
    """Which two values of a head rotate together: (i, i + dim/2) or (2i, 2i + 1)."""

    HALF = "half"
    INTERLEAVED = "interleaved"


class Scoring(Enum):
    """How a router turns its logits into scores."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"


@dataclass(frozen=True, slots=True)
class Norm:
    """RMS norm (Zhang & Sennrich 2019): x / sqrt(mean(x^2) + epsilon) * weight * scale.

    The weight is a tensor of shape (size,); without a name it is one.
    """

    weight: str | None
    size: int
    epsilon: float
    scale: float = 1.0

    def tensors(self) -> Iterator[Tensor]:
        """Those that this part names itself."""
        if self.weight is not None:
            yield self.weight, (self.size,)


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a stored matrix: of each `period` rows those from `begin` on, as many as the Linear has outputs.

    Several matrices that a publisher stores as one, one after another (period = total) or head by head.
    """

    total: int
    period: int
    begin: int

    def chosen(self, count: int) -> list[int]:
        """The `count` rows in order."""
        per_period = count * self.period // self.total
        return [start + i for start in range(self.begin, self.total, self.period) for i in range(per_period)]


@dataclass(frozen=True, slots=True)
class Linear:
    """y = W x + b with W of shape (out_features, in_features), or `rows` of a larger tensor (and bias); and on top what
    the adapters add, one after another.

    `order` names a tensor of shape (in_features,), a permutation of 0, 1, ...: column i of the stored matrix meets
    input order[i].
    """

    weight: str
    in_features: int
    out_features: int
    bias: str | None = None
    rows: Rows | None = None
    order: str | None = None
    adapters: "tuple[LowRank, ...]" = ()

    @property
    def matrix(self) -> str:
        """Names the matrix, which the same tensor may hold several of."""
        return _matrix_name(self.weight, self.rows)

    @property
    def stored_rows(self) -> int:
        """Rows of the tensor."""
        return self.out_features if self.rows is None else self.rows.total

    def tensors(self) -> Iterator[Tensor]:
        """Those that this part names itself."""
        yield self.weight, (self.stored_rows, self.in_features)
        if self.bias is not None:
            yield self.bias, (self.stored_rows,)
        if self.order is not None:
            yield self.order, (self.in_features,)


@dataclass(frozen=True, slots=True)
class LowRank:
    """What an adapter adds to a product W x (LoRA, Hu et al. 2021): B (scale * (A x)), with A of shape (rank,
    in_features) and B of shape (out_features, rank)."""

    down: Linear
    """A."""
    up: Linear
    """B."""
    scale: float


@dataclass(frozen=True, slots=True)
class HeadLinear:
    """A matrix for each head: a tensor of shape (num_heads, out_features, in_features).

    With `rows` these rows of a matrix in which all that belongs to a head stands together; where `is_transposed`, they
    are the columns of the heads' matrices.
    """

    weight: str
    num_heads: int
    in_features: int
    out_features: int
    rows: Rows | None = None
    is_transposed: bool = False

    @property
    def matrix(self) -> str:
        """As of a Linear."""
        return _matrix_name(self.weight, self.rows)

    @property
    def num_matrices(self) -> int:
        """One for each head."""
        return self.num_heads

    @property
    def stored_height(self) -> int:
        """Rows of the tensor that are a head's matrix, or its columns."""
        return self.in_features if self.is_transposed else self.out_features

    def stored_rows(self, head: int) -> slice:
        """Where those rows stand among all of the tensor's."""
        return _rows_of(head, self.stored_height, self.rows)

    def matrix_format(self, stored: WeightFormat) -> WeightFormat:
        """What a tensor of the format `stored` is multiplied in: blocks cannot be cut into columns."""
        return WeightFormat.F32 if self.is_transposed and stored.is_quantised else stored

    def tensors(self) -> Iterator[Tensor]:
        """Those that this part names itself."""
        if self.rows is None:
            yield self.weight, (self.num_heads, self.out_features, self.in_features)
        else:
            yield self.weight, (self.rows.total, self.out_features if self.is_transposed else self.in_features)


@dataclass(frozen=True, slots=True)
class ExpertLinear:
    """A matrix for each expert: a tensor of shape (num_experts, out_features, in_features), and biases likewise.

    With `rows` these rows of a larger tensor, in which an expert's matrices stand one below another; without biases.
    """

    weight: str
    num_experts: int
    in_features: int
    out_features: int
    bias: str | None = None
    rows: Rows | None = None

    @property
    def matrix(self) -> str:
        """As of a Linear."""
        return _matrix_name(self.weight, self.rows)

    @property
    def num_matrices(self) -> int:
        """One for each expert."""
        return self.num_experts

    def stored_rows(self, expert: int) -> slice:
        """Where an expert's matrix stands among the rows of all of the tensor's matrices."""
        return _rows_of(expert, self.out_features, self.rows)

    def tensors(self) -> Iterator[Tensor]:
        """Those that this part names itself."""
        height = self.out_features if self.rows is None else self.rows.period
        yield self.weight, (self.num_experts, height, self.in_features)
        if self.bias is not None:
            yield self.bias, (self.num_experts, self.out_features)


def _matrix_name(weight: str, rows: Rows | None) -> str:
    return weight if rows is None else f"{weight}[{rows.begin}/{rows.period}]"


def _rows_of(index: int, height: int, rows: Rows | None) -> slice:
    """Of the matrix `index` in a stack of matrices of so many rows each, which may be rows of larger ones."""
    period, begin = (height, 0) if rows is None else (rows.period, rows.begin)
    return slice(index * period + begin, index * period + begin + height)


@dataclass(frozen=True, slots=True)
class Embedding:
    """A table of shape (vocab_size, hidden_size); rows are multiplied by `scale`."""

    weight: str
    vocab_size: int
    hidden_size: int
    scale: float = 1.0

    def tensors(self) -> Iterator[Tensor]:
        """Those that this part names itself."""
        yield self.weight, (self.vocab_size, self.hidden_size)


@dataclass(frozen=True, slots=True)
class Yarn:
    """Stretching a context by frequency (Peng et al. 2023): pairs that turn more than `beta_fast` times in the original
    context keep their frequency, those that turn less than `beta_slow` times are divided by `factor`, between them a
    linear blend, whose ends are whole pairs if `truncate`."""

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding (Su et al. 2021) over the first `dim` values of a head.

    Angle of pair i at position p: p / linear_scale * theta^(-2i/dim) / factor_i, where `frequency_factors` names an
    optional tensor of shape (dim/2,); `yarn` blends as it says. Sine and cosine are multiplied by `magnitude`.
    """

    theta: float
    dim: int
    style: RopeStyle
    linear_scale: float = 1.0
    frequency_factors: str | None = None
    yarn: Yarn | None = None
    magnitude: float = 1.0

    def tensors(self) -> Iterator[Tensor]:
        """Those that this part names itself."""
        if self.frequency_factors is not None:
            yield self.frequency_factors, (self.dim // 2,)


@dataclass(frozen=True, slots=True)
class TokenCache:
    """What a mixer keeps of each token: so many heads of keys, and of values, of `head_dim` values each."""

    num_key_heads: int
    num_value_heads: int
    head_dim: int

    @property
    def num_heads(self) -> int:
        """Of both."""
        return self.num_key_heads + self.num_value_heads


@dataclass(frozen=True, slots=True)
class PositionScale:
    """Queries at position p are multiplied by 1 + beta * ln(1 + floor(p / period)) (Llama 4, Ministral 3)."""

    beta: float
    period: int


@dataclass(frozen=True, slots=True)
class Attention:
    """Grouped-query attention with scores q.k * scale; position p sees (p - window, p], without a window [0, p].

    Norms of query, key and value run over each head, or over all of them where their size is that of the whole row. A
    sink (one logit per head, of shape (num_heads,)) takes its share of the softmax and brings no value. A `gate`
    multiplies the output by its sigmoid. Without key and value the layer sees those of the earlier layer `cache_of`,
    whose window and heads it shares.
    """

    query: Linear
    key: Linear | None
    value: Linear | None
    output: Linear
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    rope: Rope | None
    window: int | None = None
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    value_norm: Norm | None = None
    query_scale: PositionScale | None = None
    sinks: str | None = None
    gate: Linear | None = None
    cache_of: int | None = None

    @property
    def cache(self) -> TokenCache:
        """Of the layer whose cache is read, which may be another one."""
        return TokenCache(self.num_kv_heads, self.num_kv_heads, self.head_dim)

    @property
    def state_values(self) -> int:
        """Floats kept per sequence."""
        return 0

    @property
    def position_products(self) -> int:
        """Multiplications of one token with each position it sees: scores and sums."""
        return 2 * self.num_heads * self.head_dim

    @property
    def projections(self) -> tuple[Linear, ...]:
        """Query, key, value and gate, those that are there."""
        return tuple(linear for linear in (self.query, self.key, self.value, self.gate) if linear is not None)

    def tensors(self) -> Iterator[Tensor]:
        """Those that this part names itself."""
        if self.sinks is not None:
            yield self.sinks, (self.num_heads,)


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, 2024), in the absorbed form.

    All heads share one key per token, of which only a latent vector of `latent_dim` values and `rope.dim` rotated ones
    are kept. `query_up` gives each head `nope_dim` plain values and `rope.dim` to rotate; `key_up` (latent from plain)
    takes the plain ones into the latent space, where attention happens: (num_heads, latent_dim, nope_dim). `value_up`
    takes each head's mixed latent to its values: (num_heads, value_dim, latent_dim).
    """

    query_down: Linear | None
    query_norm: Norm | None
    query_up: Linear
    key_value_down: Linear
    key_value_norm: Norm
    key_up: HeadLinear
    value_up: HeadLinear
    output: Linear
    num_heads: int
    nope_dim: int
    latent_dim: int
    value_dim: int
    scale: float
    rope: Rope

    @property
    def window(self) -> None:
        """Attends to everything."""
        return

    @property
    def cache(self) -> TokenCache:
        """One key, of which the values are a part."""
        return TokenCache(1, 0, self.key_dim)

    @property
    def state_values(self) -> int:
        """Floats kept per sequence."""
        return 0

    @property
    def position_products(self) -> int:
        """Multiplications of one token with each position it sees: scores and sums."""
        return self.num_heads * (self.key_dim + self.latent_dim)

    @property
    def key_dim(self) -> int:
        """Values kept per token."""
        return self.latent_dim + self.rope.dim


@dataclass(frozen=True, slots=True)
class DeltaNet:
    """Gated delta rule (Yang et al. 2024), a linear attention with one matrix of state per value head.

    A causal convolution over the last `kernel_size` tokens (tensor of shape (channels, kernel_size)) and SiLU make
    queries, keys (`num_key_heads` of `key_dim`, normalised to length 1; queries divided by sqrt(key_dim)) and values
    (`num_value_heads` of `value_dim`). Value head h uses key head h // (value heads per key head), or with
    `tiled_heads` h % num_key_heads. Per value head and token, with state S (key_dim, value_dim):

        S = exp(decay * softplus(alpha + time_bias)) S;  S += k (sigmoid(beta) (v - S^T k))^T;  out = S^T q

    `decay`, `time_bias`: tensors of shape (num_value_heads,). A head's output is normed and multiplied by silu(gate).
    """

    query_key_value: Linear
    gate: Linear
    beta: Linear
    alpha: Linear
    convolution: str
    decay: str
    time_bias: str
    norm: Norm
    output: Linear
    num_key_heads: int
    num_value_heads: int
    key_dim: int
    value_dim: int
    kernel_size: int
    tiled_heads: bool = False

    @property
    def channels(self) -> int:
        """Of the convolution: queries, keys, values."""
        return 2 * self.num_key_heads * self.key_dim + self.num_value_heads * self.value_dim

    @property
    def cache(self) -> TokenCache:
        """Nothing."""
        return TokenCache(0, 0, 0)

    @property
    def state_values(self) -> int:
        """Floats kept per sequence: the last kernel_size - 1 inputs of the convolution, then the matrices."""
        return (self.kernel_size - 1) * self.channels + self.num_value_heads * self.key_dim * self.value_dim

    def tensors(self) -> Iterator[Tensor]:
        """Those that this part names itself."""
        yield self.convolution, (self.channels, self.kernel_size)
        yield self.decay, (self.num_value_heads,)
        yield self.time_bias, (self.num_value_heads,)


Mixer = Attention | LatentAttention | DeltaNet


@dataclass(frozen=True, slots=True)
class GatedMlp:
    """down(activation(gate x) * (up x))."""

    gate: Linear
    up: Linear
    down: Linear
    activation: Activation


@dataclass(frozen=True, slots=True)
class Router:
    """Which experts see a token: the `num_active` of greatest score, ties by number, weighted by their scores.

    `choice_bias` (num_experts,) is added for the choice only. With groups, only experts of the `top_groups` groups
    count whose `group_best` greatest scores have the greatest sum. Weights are divided by their sum (plus 1e-20) if
    `normalise`, then multiplied by `scale` and by the expert's own of `expert_scales` (num_experts,).
    """

    logits: Linear
    num_experts: int
    num_active: int
    scoring: Scoring
    normalise: bool
    choice_bias: str | None = None
    num_groups: int = 1
    top_groups: int = 1
    group_best: int = 2
    scale: float = 1.0
    norm: Norm | None = None
    """Of what the router reads."""
    expert_scales: str | None = None

    def tensors(self) -> Iterator[Tensor]:
        """Those that this part names itself."""
        for name in (self.choice_bias, self.expert_scales):
            if name is not None:
                yield name, (self.num_experts,)


@dataclass(frozen=True, slots=True)
class MixtureOfExperts:
    """The weighted sum of the chosen experts, each a gated MLP, added in the router's order; then the shared expert's
    output, times the sigmoid of `shared_gate` (one output) where there is one."""

    router: Router
    gate: ExpertLinear
    up: ExpertLinear
    down: ExpertLinear
    activation: Activation
    shared: GatedMlp | None = None
    shared_gate: Linear | None = None
    norm: Norm | None = None
    """Of what the experts read."""


@dataclass(frozen=True, slots=True)
class Branch:
    """post_norm(mlp(norm(x))); absent norms are the identity."""

    norm: Norm | None
    mlp: GatedMlp | MixtureOfExperts
    post_norm: Norm | None


@dataclass(frozen=True, slots=True)
class ParallelMlp:
    """The sum of two that read the same values."""

    first: Branch
    second: Branch


Mlp = GatedMlp | MixtureOfExperts | ParallelMlp


@dataclass(frozen=True, slots=True)
class SideGate:
    """What a layer adds of its side input: norm(output(activation(gate x) * side))."""

    gate: Linear
    output: Linear
    norm: Norm
    activation: Activation


@dataclass(frozen=True, slots=True)
class Layer:
    """x += post_norm(mixer(norm(x))); x += post_norm(mlp(norm(x))); x += side(x); x *= scale.

    Absent norms are the identity. `scale` names a tensor of one value.
    """

    mixer_norm: Norm | None
    mixer: Mixer
    mlp_norm: Norm | None
    mlp: Mlp
    mixer_post_norm: Norm | None = None
    mlp_post_norm: Norm | None = None
    side: SideGate | None = None
    scale: str | None = None

    def tensors(self) -> Iterator[Tensor]:
        """Those that this part names itself."""
        if self.scale is not None:
            yield self.scale, (1,)


@dataclass(frozen=True, slots=True)
class SideInputs:
    """A second input of every layer (Gemma 3n, 2025): norm(projection(x)) + embedding, x being the embedded tokens.

    All layers' inputs stand one after another; each has `norm.size` values, over which the norm runs.
    """

    embedding: Embedding
    projection: Linear
    norm: Norm


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """Layers whose keys and values live and die together: all with the same `window`."""

    window: int | None
    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Classifier:
    """The small head of a reranker: `weight` has a row for either answer, to be multiplied with a hidden state.

    No step computes it, so it is none of the spec's tensors.
    """

    weight: str
    yes: int
    no: int


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A whole decoder. `head` may name the embedding's tensor (tied)."""

    architecture: str
    embedding: Embedding
    layers: tuple[Layer, ...]
    norm: Norm
    head: Linear
    context_length: int
    side_inputs: SideInputs | None = None
    logit_soft_cap: float | None = None
    """Logits x become cap * tanh(x / cap)."""
    has_head: bool = True
    """False: the model only embeds; `head`, which names the embedding then, gives no logits that mean anything."""
    classifier: Classifier | None = None
    """Of the last token's normed hidden state, in a reranker."""
    notes: tuple[str, ...] = ()
    """What the user should know of how it is run."""
    parts: tuple[object, ...] = field(init=False, repr=False, compare=False)
    """All nodes of the tree, in order: found once, as many questions go through them."""

    def __post_init__(self) -> None:
        roots = (self.embedding, self.side_inputs, *self.layers, self.norm, self.head)
        object.__setattr__(self, "parts", tuple(_nodes(roots)))

    @property
    def vocab_size(self) -> int:
        return self.embedding.vocab_size

    @property
    def hidden_size(self) -> int:
        return self.embedding.hidden_size

    def embeddings(self) -> Iterator[Embedding]:
        """Every table that token ids choose rows of."""
        for part in self.parts:
            if isinstance(part, Embedding):
                yield part

    def row_tables(self) -> tuple[Embedding, ...]:
        """Those of which a step needs the rows of its tokens only: all but one that is the head as well."""
        return tuple(table for table in self.embeddings() if table.weight != self.head.weight)

    def attending_layers(self) -> tuple[int, ...]:
        """Layers that look at a cache, their own or another's."""
        return tuple(index for index, mixer in enumerate(self._mixers()) if not isinstance(mixer, DeltaNet))

    def cache_groups(self) -> tuple[CacheGroup, ...]:
        """Layers that keep something per token, by window; full attention first, then by growing window."""
        windows = {i: mixer.window for i, mixer in enumerate(self._mixers()) if _keeps_tokens(mixer)}
        ordered = sorted(set(windows.values()), key=lambda window: (window is not None, window or 0))
        return tuple(CacheGroup(window, tuple(i for i in windows if windows[i] == window)) for window in ordered)

    def state_layers(self) -> tuple[int, ...]:
        """Layers that keep a state of fixed size per sequence."""
        return tuple(index for index, mixer in enumerate(self._mixers()) if isinstance(mixer, DeltaNet))

    def linears(self) -> Iterator[Linear]:
        """Every matrix that multiplies activations, but for those of heads and experts; the head last."""
        for part in self.parts:
            if isinstance(part, Linear):
                yield part

    def low_ranks(self) -> Iterator[LowRank]:
        """What adapters add."""
        for part in self.parts:
            if isinstance(part, LowRank):
                yield part

    def stacks(self) -> Iterator[HeadLinear | ExpertLinear]:
        """Every tensor that holds a matrix for each head or expert."""
        for part in self.parts:
            if isinstance(part, HeadLinear | ExpertLinear):
                yield part

    def mixtures(self) -> Iterator[MixtureOfExperts]:
        """Those of all layers."""
        for part in self.parts:
            if isinstance(part, MixtureOfExperts):
                yield part

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor the model needs, each once."""
        seen: set[str] = set()
        for part in self.parts:
            for name, shape in part.tensors() if isinstance(part, _NAMING) else ():
                if name not in seen:
                    seen.add(name)
                    yield name, shape

    def _mixers(self) -> Iterator[Mixer]:
        return (layer.mixer for layer in self.layers)


_NAMING = (Embedding, Norm, Linear, HeadLinear, ExpertLinear, Rope, Attention, DeltaNet, Router, Layer)
_COMPOSED = (LowRank, LatentAttention, GatedMlp, MixtureOfExperts, Branch, ParallelMlp, SideGate, SideInputs)


def _keeps_tokens(mixer: Mixer) -> TypeGuard[Attention | LatentAttention]:
    """Whether a layer has a cache of its own that grows with the text."""
    return isinstance(mixer, LatentAttention) or (isinstance(mixer, Attention) and mixer.cache_of is None)


def _nodes(parts: tuple[object, ...]) -> Iterator[object]:
    """The parts and what they are made of, depth first."""
    for part in parts:
        if isinstance(part, _NAMING + _COMPOSED):
            yield part
            yield from _nodes(tuple(getattr(part, own.name) for own in fields(part)))
        elif isinstance(part, tuple):
            yield from _nodes(part)
