"""The operations a decoder is made of. An executor runs them (reference) or records them (native).

A value stands for an array of shape (tokens, features) of the step's ragged batch: all new tokens of all sequences, one
after another. Values are opaque to the decoder. Weights are named; the executor holds the tensors.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from abaci.models.spec import Activation, Attention, Embedding, Linear, Norm, Rope

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
        """x times each matrix, plus its bias: values of shape (tokens, out_features). Given together: they share x."""

    def rope(self, x: V, rope: Rope, head_dim: int) -> V:
        """Rotate each head by its token's position."""

    def attention(self, query: V, key: V, value: V, attention: Attention, layer: int) -> V:
        """Append key and value to the cache of `layer`, attend causally: (tokens, num_heads * head_dim)."""

    def gated(self, gate: V, up: V, activation: Activation) -> V:
        """activation(gate) * up."""

    def add(self, x: V, y: V) -> V:
        """x + y. x must not be used afterwards: an executor may write the sum over it."""

    def logits(self, x: V, head: Linear) -> None:
        """End of the step: logits of the rows the batch asks for, handed to sampling."""
