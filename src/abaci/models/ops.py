"""The operations a decoder is made of. An executor runs them (reference) or records them (native).

A value stands for an array of shape (tokens, features) of the step's ragged batch: all new tokens of all sequences, one
after another. Values are opaque to the decoder. Weights are named; the executor holds the tensors.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from abaci.models.spec import (
    Activation,
    Attention,
    DeltaNet,
    Embedding,
    ExpertLinear,
    LatentAttention,
    Linear,
    Norm,
    PositionScale,
    Rope,
    Router,
)

V = TypeVar("V")


class Ops(Protocol[V]):
    """What `decoder.forward` may ask of an executor."""

    def embed(self, embedding: Embedding) -> V:
        """Rows of the table at the step's token ids, times the scale: (tokens, hidden_size)."""

    def rms_norm(self, x: V, norm: Norm) -> V:
        """RMS norm of each row."""

    def head_norm(self, x: V, norm: Norm) -> V:
        """RMS norm of each head: rows of (tokens * heads, norm.size)."""

    def linear(self, x: V, linears: Sequence[Linear]) -> tuple[V, ...]:
        """x, its columns in the matrix's order, times each matrix, plus its bias and what its adapters add (of x as it
        is): values of shape (tokens, out_features).

        Given together: they share x.
        """

    def rope(self, x: V, rope: Rope, head_dim: int) -> V:
        """Rotate each head by its token's position."""

    def scale_by_position(self, query: V, scale: PositionScale) -> V:
        """Each row times the factor of its token's position."""

    def attention(self, query: V, key_value: tuple[V, V] | None, attention: Attention, layer: int) -> V:
        """Append key and value, if any, to the cache of `layer`, attend to it: (tokens, num_heads * head_dim)."""

    def latent_attention(self, query: V, compressed: V, attention: LatentAttention, layer: int) -> V:
        """From queries (tokens, num_heads * (nope_dim + rope.dim)) and compressed (tokens, latent_dim + rope.dim).

        Norms the latent, rotates the rest of key and query, appends the key to the cache of `layer`, takes the plain
        part of the query into latent space, attends, takes the result to values: (tokens, num_heads * value_dim).
        """

    def delta_net(self, query_key_value: V, beta: V, alpha: V, net: DeltaNet, layer: int) -> V:
        """Convolve, then update and read the state of `layer`, token by token: (tokens, value heads * value_dim)."""

    def choose_experts(self, logits: V, router: Router) -> V:
        """Which experts see each token, with which weights."""

    def dispatch(self, x: V, choice: V) -> V:
        """A row for each token and expert chosen for it, in the order that suits the executor."""

    def expert_linear(self, x: V, linears: Sequence[ExpertLinear], choice: V) -> tuple[V, ...]:
        """Each dispatched row times its own expert's matrix, plus that expert's bias."""

    def combine(self, routed: V, choice: V, shared: V | None, shared_gate: V | None) -> V:
        """The weighted sum of each token's rows, in the order of choice, plus `shared` times sigmoid(shared_gate).

        Without a gate `shared` counts in full. (tokens, features) again.
        """

    def gated(self, gate: V, up: V, activation: Activation) -> V:
        """activation(gate) * up."""

    def part(self, x: V, begin: int, size: int) -> V:
        """Some columns of x, to be what a gate multiplies."""

    def add(self, x: V, y: V, scale: str | None = None) -> V:
        """x + y, times the one value of the tensor `scale`.

        x must not be used afterwards: an executor may write the sum over it.
        """

    def asked_rows(self, x: V) -> V:
        """The rows whose logits or hidden states the batch asks for; x must not be used afterwards.

        From then on every operation is given values of such rows only. What looks at other tokens comes before.
        """

    def logits(self, x: V, head: Linear, soft_cap: float | None) -> None:
        """End of the step: logits of the rows the batch asks for, capped, handed to sampling."""
