"""What the hybrid Qwen families (Qwen3-Next, Qwen3.5, Qwen3.6) share: gated delta nets beside gated full attention."""

import math
from collections.abc import Callable

from abaci.errors import UnsupportedModelError
from abaci.models.gguf_config import MAX_LAYERS, MAX_WIDTH, GgufConfig
from abaci.models.spec import (
    Activation,
    Attention,
    DeltaNet,
    GatedMlp,
    Linear,
    Mixer,
    MixtureOfExperts,
    Rope,
    RopeStyle,
    Rows,
)

_FULL_ATTENTION_PERIOD = 4
_DELTA_SETTINGS = ("ssm.state_size", "ssm.group_count", "ssm.time_step_rank", "ssm.inner_size", "ssm.conv_kernel")


def hybrid_mixers(config: GgufConfig) -> Callable[[int], Mixer]:
    """Every fourth layer (or as the file says) attends in full; the others are delta nets."""
    rope = config.rope(RopeStyle.HALF)
    period = config.integer("full_attention_interval", 1, MAX_LAYERS, default=_FULL_ATTENTION_PERIOD)
    if period > config.num_layers:
        raise UnsupportedModelError(
            f"none of the {config.num_layers} layers attends in full (full_attention_interval is {period})",
            hint="Models of delta nets alone are not supported: the cache of prompts counts in pages of attention.",
        )
    if period == 1:
        config.pass_over(_DELTA_SETTINGS)

    def mixer(layer: int) -> Mixer:
        return gated_attention(config, layer, rope) if (layer + 1) % period == 0 else delta_net(config, layer)

    return mixer


def gated_attention(config: GgufConfig, layer: int, rope: Rope) -> Attention:
    """Attention whose query matrix also holds, head by head after each query, the gate of its output."""
    block, heads, head_dim = f"blk.{layer}.", config.num_heads, config.head_dim
    stored, kv_size = 2 * heads * head_dim, config.num_kv_heads * head_dim

    def half(begin: int) -> Linear:
        rows = Rows(total=stored, period=2 * head_dim, begin=begin)
        return config.linear(f"{block}attn_q", config.hidden_size, heads * head_dim, rows)

    return Attention(
        query=half(0),
        gate=half(head_dim),
        key=config.linear(f"{block}attn_k", config.hidden_size, kv_size),
        value=config.linear(f"{block}attn_v", config.hidden_size, kv_size),
        output=config.linear(f"{block}attn_output", heads * head_dim, config.hidden_size),
        num_heads=heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=head_dim,
        scale=1 / math.sqrt(head_dim),
        rope=rope,
        query_norm=config.norm(f"{block}attn_q_norm", head_dim),
        key_norm=config.norm(f"{block}attn_k_norm", head_dim),
    )


def delta_net(config: GgufConfig, layer: int) -> DeltaNet:
    """The linear attention of one layer. Qwen3-Next stores beta and alpha together, by key head; later models apart,
    with the value heads in another order."""
    block, hidden = f"blk.{layer}.", config.hidden_size
    if config.has_tensor(f"{block}ssm_in.weight"):
        raise UnsupportedModelError(
            f"{block}ssm_in.weight: queries, keys, values and gates in one matrix, head by head, are not supported",
            hint="The file is an early conversion: fetch a newer GGUF file of the model, or its folder, and use "
            "`abaci convert` on that.",
        )
    key_dim = config.integer("ssm.state_size", 1, 1024)
    num_key_heads = config.integer("ssm.group_count", 1, MAX_WIDTH)
    num_value_heads = config.integer("ssm.time_step_rank", 1, MAX_WIDTH)
    inner = config.integer("ssm.inner_size", num_value_heads, MAX_WIDTH)
    if num_value_heads % num_key_heads or inner % num_value_heads:
        raise config.invalid("ssm.time_step_rank", "does not fit ssm.group_count and ssm.inner_size")
    together = config.has_tensor(f"{block}ssm_ba.weight")

    def scalars(name: str, part: int) -> Linear:
        if not together:
            return config.linear(f"{block}ssm_{name}", hidden, num_value_heads)
        ratio = num_value_heads // num_key_heads
        rows = Rows(total=2 * num_value_heads, period=2 * ratio, begin=part * ratio)
        return config.linear(f"{block}ssm_ba", hidden, num_value_heads, rows)

    return DeltaNet(
        query_key_value=config.linear(f"{block}attn_qkv", hidden, 2 * num_key_heads * key_dim + inner),
        gate=config.linear(f"{block}attn_gate", hidden, inner),
        beta=scalars("beta", 0),
        alpha=scalars("alpha", 1),
        convolution=f"{block}ssm_conv1d.weight",
        decay=f"{block}ssm_a",
        time_bias=f"{block}ssm_dt.bias",
        norm=config.norm(f"{block}ssm_norm", inner // num_value_heads),
        output=config.linear(f"{block}ssm_out", inner, hidden),
        num_key_heads=num_key_heads,
        num_value_heads=num_value_heads,
        key_dim=key_dim,
        value_dim=inner // num_value_heads,
        kernel_size=config.integer("ssm.conv_kernel", 1, 64),
        tiled_heads=not together,
    )


def shared_mixture(config: GgufConfig, layer: int) -> GatedMlp | MixtureOfExperts:
    """Experts whose weights sum to one, beside one that all tokens see through a gate; without a router a dense MLP."""
    size = config.integer("expert_shared_feed_forward_length", 1, MAX_WIDTH)
    if not config.has_router(layer):
        return config.dense_mlp(layer)
    return config.experts(
        layer,
        Activation.SILU,
        shared=config.gated_mlp(layer, Activation.SILU, suffix="_shexp", size=size),
        shared_gate=config.linear(f"blk.{layer}.ffn_gate_inp_shexp", config.hidden_size, 1),
    )
