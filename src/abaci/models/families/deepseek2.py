"""DeepSeek V2, V3 and R1: latent attention, and experts beside a shared one after a few dense layers.

Key and value matrices are in absorbed form, split by head (`attn_k_b`, `attn_v_b`). YaRN's growth of the scores counts
twice, once for queries and once for keys, and not in the rotation.
"""

import math

from abaci.errors import UnsupportedModelError
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
)


def spec_from_config(config: GgufConfig) -> ModelSpec:
    """The spec of a `deepseek2` file."""
    if config.has_tensor("blk.0.attn_kv_b.weight"):
        raise UnsupportedModelError(
            "the file keeps keys and values of latent attention in one matrix (attn_kv_b), as old conversions did",
            hint="Use a newer conversion of the model, with attn_k_b and attn_v_b.",
        )
    rope = config.rope(RopeStyle.INTERLEAVED)
    num_dense = config.integer("leading_dense_block_count", 0, config.num_layers, default=0)
    expert_size = config.integer("expert_feed_forward_length", 1, MAX_WIDTH)
    shared_size = config.integer("expert_shared_count", 1, 64) * expert_size

    def mlp(layer: int) -> GatedMlp | MixtureOfExperts:
        if layer < num_dense:
            return config.gated_mlp(layer, Activation.SILU)
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
    head_dim = config.integer("attention.key_length_mla", rope.dim + 1, MAX_WIDTH)
    value_dim = config.integer("attention.value_length_mla", 1, MAX_WIDTH)
    config.integer("attention.value_length", latent_dim, latent_dim, default=latent_dim)
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
    return LatentAttention(
        query_down=query_down,
        query_norm=query_norm,
        query_up=query_up,
        key_value_down=config.linear(f"{block}attn_kv_a_mqa", hidden, latent_dim + rope.dim),
        key_value_norm=config.norm(f"{block}attn_kv_a_norm", latent_dim),
        key_up=HeadLinear(f"{block}attn_k_b.weight", heads, nope_dim, latent_dim),
        value_up=HeadLinear(f"{block}attn_v_b.weight", heads, latent_dim, value_dim),
        output=config.linear(f"{block}attn_output", heads * value_dim, hidden),
        num_heads=heads,
        nope_dim=nope_dim,
        latent_dim=latent_dim,
        value_dim=value_dim,
        scale=growth * growth / math.sqrt(head_dim),
        rope=rope,
    )
