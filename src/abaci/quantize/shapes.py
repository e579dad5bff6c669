"""Shapes of published models, as the metadata and tensors that a GGUF file of each has. No values."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from importlib import resources
from typing import Any, Final

from abaci.errors import UsageError
from abaci.formats.checkpoint import MetadataValue

_DATA: Final = "shapes.toml"
_SIGMOID_SCORES: Final = 2
_SOFTMAX_SCORES: Final = 1


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder's sizes. Zero stands for a part that the family does not have."""

    architecture: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    mlp_size: int
    vocab_size: int
    context_length: int
    rope_theta: float
    epsilon: float
    head_size: int = 0
    """Zero: the hidden size over the heads."""
    is_tied: bool = False
    has_qkv_bias: bool = False
    has_head_norms: bool = False
    has_post_norms: bool = False
    has_sinks: bool = False
    has_expert_bias: bool = False
    window: int = 0
    num_experts: int = 0
    num_experts_used: int = 0
    expert_size: int = 0
    num_shared_experts: int = 0
    num_dense_layers: int = 0
    num_expert_groups: int = 0
    num_expert_groups_used: int = 0
    expert_scale: float = 1.0
    query_rank: int = 0
    key_value_rank: int = 0
    rope_head_size: int = 0
    plain_head_size: int = 0
    value_head_size: int = 0

    def metadata(self) -> dict[str, MetadataValue]:
        """The keys of `general.architecture`, without the tokenizer's."""
        prefix = self.architecture
        keys: dict[str, MetadataValue] = {
            "block_count": self.num_layers,
            "context_length": self.context_length,
            "embedding_length": self.hidden_size,
            "feed_forward_length": self.mlp_size,
            "attention.head_count": self.num_heads,
            "attention.head_count_kv": self.num_kv_heads,
            "attention.layer_norm_rms_epsilon": self.epsilon,
            "rope.freq_base": self.rope_theta,
            "vocab_size": self.vocab_size,
        }
        if self.head_size:
            keys |= {"attention.key_length": self.head_size, "attention.value_length": self.head_size}
        if self.window:
            keys["attention.sliding_window"] = self.window
        if self.num_experts:
            keys |= {"expert_count": self.num_experts, "expert_used_count": self.num_experts_used}
            keys["expert_feed_forward_length"] = self.expert_size
        if self.key_value_rank:
            keys |= self._latent_keys()
        return {"general.architecture": prefix} | {f"{prefix}.{key}": value for key, value in keys.items()}

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes, the contiguous axis last, in the usual order."""
        yield "token_embd.weight", (self.vocab_size, self.hidden_size)
        for layer in range(self.num_layers):
            mixer = self._latent_attention() if self.key_value_rank else self._attention()
            is_sparse = self.num_experts > 0 and layer >= self.num_dense_layers
            for name, shape in (*mixer, *(self._experts() if is_sparse else self._mlp(self.mlp_size, ""))):
                yield f"blk.{layer}.{name}", shape
        yield "output_norm.weight", (self.hidden_size,)
        if not self.is_tied:
            yield "output.weight", (self.vocab_size, self.hidden_size)

    def _latent_keys(self) -> dict[str, MetadataValue]:
        keys: dict[str, MetadataValue] = {
            "attention.kv_lora_rank": self.key_value_rank,
            "attention.key_length": self.key_value_rank + self.rope_head_size,
            "attention.value_length": self.key_value_rank,
            "attention.key_length_mla": self.plain_head_size + self.rope_head_size,
            "attention.value_length_mla": self.value_head_size,
            "rope.dimension_count": self.rope_head_size,
            "leading_dense_block_count": self.num_dense_layers,
            "expert_shared_count": self.num_shared_experts,
            "expert_weights_scale": self.expert_scale,
            "expert_weights_norm": self.num_expert_groups > 0,
            "expert_gating_func": _SIGMOID_SCORES if self.num_expert_groups else _SOFTMAX_SCORES,
        }
        if self.query_rank:
            keys["attention.q_lora_rank"] = self.query_rank
        if self.num_expert_groups:
            keys["expert_group_count"] = self.num_expert_groups
            keys["expert_group_used_count"] = self.num_expert_groups_used
        return keys

    def _norms(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield "attn_norm.weight", (self.hidden_size,)
        # gpt-oss names the norm before its experts after what it follows.
        yield "post_attention_norm.weight" if self.has_sinks else "ffn_norm.weight", (self.hidden_size,)
        if self.has_post_norms:
            yield "post_attention_norm.weight", (self.hidden_size,)
            yield "post_ffw_norm.weight", (self.hidden_size,)

    def _attention(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        head_size = self.head_size or self.hidden_size // self.num_heads
        query_size, key_size = self.num_heads * head_size, self.num_kv_heads * head_size
        yield from self._norms()
        for name, size in (("attn_q", query_size), ("attn_k", key_size), ("attn_v", key_size)):
            yield f"{name}.weight", (size, self.hidden_size)
            if self.has_qkv_bias:
                yield f"{name}.bias", (size,)
        yield "attn_output.weight", (self.hidden_size, query_size)
        if self.has_head_norms:
            yield "attn_q_norm.weight", (head_size,)
            yield "attn_k_norm.weight", (head_size,)
        if self.has_sinks:
            yield "attn_output.bias", (self.hidden_size,)
            yield "attn_sinks.weight", (self.num_heads,)

    def _latent_attention(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        heads, rank = self.num_heads, self.key_value_rank
        query_size = heads * (self.plain_head_size + self.rope_head_size)
        yield from self._norms()
        if self.query_rank:
            yield "attn_q_a.weight", (self.query_rank, self.hidden_size)
            yield "attn_q_a_norm.weight", (self.query_rank,)
            yield "attn_q_b.weight", (query_size, self.query_rank)
        else:
            yield "attn_q.weight", (query_size, self.hidden_size)
        yield "attn_kv_a_mqa.weight", (rank + self.rope_head_size, self.hidden_size)
        yield "attn_kv_a_norm.weight", (rank,)
        yield "attn_k_b.weight", (heads, rank, self.plain_head_size)
        yield "attn_v_b.weight", (heads, self.value_head_size, rank)
        yield "attn_output.weight", (self.hidden_size, heads * self.value_head_size)

    def _mlp(self, size: int, suffix: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        for name in ("ffn_gate", "ffn_up"):
            yield f"{name}{suffix}.weight", (size, self.hidden_size)
        yield f"ffn_down{suffix}.weight", (self.hidden_size, size)

    def _experts(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        count, size, hidden = self.num_experts, self.expert_size, self.hidden_size
        yield "ffn_gate_inp.weight", (count, hidden)
        if self.num_expert_groups:
            yield "exp_probs_b.bias", (count,)
        for name, shape in (("ffn_gate", (size, hidden)), ("ffn_up", (size, hidden)), ("ffn_down", (hidden, size))):
            yield f"{name}_exps.weight", (count, *shape)
            if self.has_expert_bias:
                yield f"{name}_exps.bias", (count, shape[0])
        if self.has_expert_bias:
            yield "ffn_gate_inp.bias", (count,)
        if self.num_shared_experts:
            yield from self._mlp(self.num_shared_experts * size, "_shexp")


def shape_named(family: str, size: str) -> Shape:
    """A published shape. Raises UsageError that names those there are."""
    families = known_sizes()
    if family not in families:
        raise UsageError(f"no shape is known of {family!r}", hint=f"Choose one of: {', '.join(families)}.")
    if size not in families[family]:
        raise UsageError(f"{family} has no size {size!r}", hint=f"Choose one of: {', '.join(families[family])}.")
    table = _tables()[family]
    shared = {key: value for key, value in table.items() if key != "sizes"}
    return Shape(**shared | table["sizes"][size])


def known_sizes() -> dict[str, list[str]]:
    """Sizes by family."""
    return {family: list(table["sizes"]) for family, table in _tables().items()}


def _tables() -> dict[str, dict[str, Any]]:
    tables = tomllib.loads(resources.files(__package__).joinpath(_DATA).read_text("utf-8"))
    known = {field.name for field in fields(Shape)} | {"sizes"}
    assert all(table.keys() <= known for table in tables.values()), f"{_DATA} has a field that Shape lacks"
    return tables
