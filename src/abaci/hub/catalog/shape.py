"""The shape of a decoder as its published configuration gives it, and the number of weights that follow from it.

Enough to estimate memory and speed without the network. Knows no files; whether we can run such a shape is for others.
"""

from dataclasses import dataclass

_GATED_MLP_MATRICES = 3


@dataclass(frozen=True, slots=True)
class Experts:
    """Layers whose MLP is chosen per token among many."""

    num_experts: int
    num_experts_per_token: int
    mlp_size: int
    """Inner size of one expert."""
    shared_mlp_size: int = 0
    """Inner size of what every token passes besides, all shared experts together."""
    num_dense_layers: int = 0
    """Layers, the first ones, that have a plain MLP instead."""


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Keys and values as one compressed vector per token (MLA, https://arxiv.org/abs/2405.04434)."""

    key_value_rank: int
    rope_head_size: int
    plain_head_size: int
    value_head_size: int
    query_rank: int | None = None
    """None: queries are not compressed."""


@dataclass(frozen=True, slots=True)
class LinearAttention:
    """Layers that keep a state of fixed size instead of a cache (gated delta rule, https://arxiv.org/abs/2412.06464)."""

    num_layers: int
    num_key_heads: int
    num_value_heads: int
    key_head_size: int
    value_head_size: int
    convolution_size: int


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """Layers that see the last `num_tokens` positions only."""

    num_tokens: int
    num_layers: int


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder's sizes; `source` is where they were read."""

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    mlp_size: int
    """Inner size of a plain MLP; 0 where every layer has experts."""
    vocab_size: int
    is_tied: bool
    """Whether the embedding is also the head."""
    source: str
    experts: Experts | None = None
    latent_attention: LatentAttention | None = None
    linear_attention: LinearAttention | None = None
    sliding_window: SlidingWindow | None = None
    has_gated_attention: bool = False
    """Whether attention's output is multiplied by a gate that is computed like another query."""

    @property
    def num_parameters(self) -> int:
        """Weights of all matrices; norms and biases, far below a percent, are left out."""
        return self._num_embedding_parameters() + self._num_mixer_parameters() + self._num_mlp_parameters(active=False)

    @property
    def num_active_parameters(self) -> int:
        """Weights that one token is multiplied by: chosen experts only, and of the embedding its one row."""
        head = self.vocab_size * self.hidden_size
        return head + self._num_mixer_parameters() + self._num_mlp_parameters(active=True)

    def _num_embedding_parameters(self) -> int:
        return self.vocab_size * self.hidden_size * (1 if self.is_tied else 2)

    def _num_mixer_parameters(self) -> int:
        linear = self.linear_attention
        num_linear = 0 if linear is None else linear.num_layers
        total = (self.num_layers - num_linear) * self._num_attention_parameters()
        if linear is not None:
            total += num_linear * self._num_linear_attention_parameters(linear)
        return total

    def _num_attention_parameters(self) -> int:
        latent = self.latent_attention
        if latent is not None:
            return self._num_latent_attention_parameters(latent)
        queries = self.num_heads * self.head_size
        keys_and_values = 2 * self.num_kv_heads * self.head_size
        gate = queries if self.has_gated_attention else 0
        return self.hidden_size * (queries + gate + keys_and_values + queries)

    def _num_latent_attention_parameters(self, latent: LatentAttention) -> int:
        query_size = self.num_heads * (latent.plain_head_size + latent.rope_head_size)
        rank = latent.query_rank
        queries = self.hidden_size * query_size if rank is None else rank * (self.hidden_size + query_size)
        down = self.hidden_size * (latent.key_value_rank + latent.rope_head_size)
        up = latent.key_value_rank * self.num_heads * (latent.plain_head_size + latent.value_head_size)
        return queries + down + up + self.num_heads * latent.value_head_size * self.hidden_size

    def _num_linear_attention_parameters(self, linear: LinearAttention) -> int:
        key_size = linear.num_key_heads * linear.key_head_size
        value_size = linear.num_value_heads * linear.value_head_size
        inputs = self.hidden_size * (2 * key_size + 2 * value_size + 2 * linear.num_value_heads)
        convolution = (2 * key_size + value_size) * linear.convolution_size
        return inputs + convolution + value_size * self.hidden_size

    def _num_mlp_parameters(self, *, active: bool) -> int:
        experts = self.experts
        if experts is None:
            return self.num_layers * self._num_parameters_of_mlp(self.mlp_size)
        num_used = experts.num_experts_per_token if active else experts.num_experts
        sparse = self._num_parameters_of_mlp(num_used * experts.mlp_size + experts.shared_mlp_size)
        sparse += self.hidden_size * experts.num_experts
        dense = self._num_parameters_of_mlp(self.mlp_size)
        return experts.num_dense_layers * dense + (self.num_layers - experts.num_dense_layers) * sparse

    def _num_parameters_of_mlp(self, size: int) -> int:
        return _GATED_MLP_MATRICES * self.hidden_size * size
