"""DeepSeek V2, V3 and R1: latent attention, and experts beside a shared one after a few dense layers.

Key and value matrices are in absorbed form, split by head: in tensors of their own (`attn_k_b`, `attn_v_b`), or, as
older conversions have them, as rows of one (`attn_kv_b`), of which those for keys are transposed. YaRN's growth of the
scores counts twice, once for queries and once for keys, and not in the rotation.
"""

import math
from dataclasses import replace

from abaci.models.gguf_config import MAX_WIDTH, GgufConfig
from abaci.models.spec import (
    Activation,
    GatedMlp,
    HeadLinear,
    LatentAttention,
    Layer,
    Linear,
    MixtureOfExperts,
    ModelSpec,
    Norm,
    Rope,
    RopeStyle,
    Rows,
)


def spec_from_config(config: GgufConfig) -> ModelSpec:
    """The spec of a `deepseek2` file."""
    rope = config.rope(RopeStyle.INTERLEAVED)
    num_dense = config.integer("leading_dense_block_count", 0, config.num_layers, default=0)
    expert_size = config.integer("expert_feed_forward_length", 1, MAX_WIDTH)
    shared_size = config.integer("expert_shared_count", 1, 64) * expert_size

    def mlp(layer: int) -> GatedMlp | MixtureOfExperts:
        if layer < num_dense:
            return config.dense_mlp(layer)
        shared = config.gated_mlp(layer, Activation.SILU, suffix="_shexp", size=shared_size)
        return config.experts(layer, Activation.SILU, normalise=False, shared=shared)

    def build_layer(layer: int) -> Layer:
        return Layer(
            mixer_norm=config.norm(f"blk.{layer}.attn_norm"),
            mixer=_attention(config, layer, rope),
            mlp_norm=config.norm(f"blk.{layer}.ffn_norm"),
            mlp=mlp(layer),
        )

    return config.model(build_layer)


def _attention(config: GgufConfig, layer: int, rope: Rope) -> LatentAttention:
    block, hidden, heads = f"blk.{layer}.", config.hidden_size, config.num_heads
    latent_dim = config.integer("attention.kv_lora_rank", 1, MAX_WIDTH)
    head_dim, value_dim = _head_sizes(config, rope, latent_dim)
    query_rank = config.integer("attention.q_lora_rank", 0, MAX_WIDTH, default=0)
    nope_dim = head_dim - rope.dim
    query_down: Linear | None = None
    query_norm: Norm | None = None
    if query_rank:
        query_down = config.linear(f"{block}attn_q_a", hidden, query_rank)
        query_norm = config.norm(f"{block}attn_q_a_norm", query_rank)
        query_up = config.linear(f"{block}attn_q_b", query_rank, heads * head_dim)
    else:
        query_up = config.linear(f"{block}attn_q", hidden, heads * head_dim)
    growth = 1.0
    if rope.yarn is not None:
        growth += config.yarn_log_multiplier() * math.log(rope.yarn.factor)
    key_up, value_up = _absorbed(config, layer, latent_dim, nope_dim, value_dim)
    return LatentAttention(
        query_down=query_down,
        query_norm=query_norm,
        query_up=query_up,
        key_value_down=config.linear(f"{block}attn_kv_a_mqa", hidden, latent_dim + rope.dim),
        key_value_norm=config.norm(f"{block}attn_kv_a_norm", latent_dim),
        key_up=key_up,
        value_up=value_up,
        output=config.linear(f"{block}attn_output", heads * value_dim, hidden),
        num_heads=heads,
        nope_dim=nope_dim,
        latent_dim=latent_dim,
        value_dim=value_dim,
        scale=growth * growth / math.sqrt(head_dim),
        rope=rope,
    )


def _head_sizes(config: GgufConfig, rope: Rope, latent_dim: int) -> tuple[int, int]:
    """Of a head's keys and values. Older conversions have them where others have the sizes of the one latent head."""
    if not config.has("attention.key_length_mla"):
        key, value = "attention.key_length", "attention.value_length"
    else:
        key, value = "attention.key_length_mla", "attention.value_length_mla"
        config.integer("attention.value_length", latent_dim, latent_dim, default=latent_dim)
    return config.integer(key, rope.dim + 1, MAX_WIDTH), config.integer(value, 1, MAX_WIDTH)


def _absorbed(
    config: GgufConfig, layer: int, latent_dim: int, nope_dim: int, value_dim: int
) -> tuple[HeadLinear, HeadLinear]:
    """What takes queries into the latent space, and the mixed latents to values."""
    block, heads = f"blk.{layer}.", config.num_heads
    key_up = HeadLinear(f"{block}attn_k_b.weight", heads, nope_dim, latent_dim)
    value_up = HeadLinear(f"{block}attn_v_b.weight", heads, latent_dim, value_dim)
    combined = f"{block}attn_kv_b.weight"
    if not config.has_tensor(combined):
        return key_up, value_up
    height = nope_dim + value_dim
    keys, values = (Rows(heads * height, height, begin) for begin in (0, nope_dim))
    return (
        replace(key_up, weight=combined, rows=keys, is_transposed=True),
        replace(value_up, weight=combined, rows=values),
    )
