"""Qwen1.5-MoE and Qwen2-MoE: Qwen2's attention; experts by their plain probabilities, a gated shared one."""

from abaci.models.gguf_config import MAX_WIDTH, GgufConfig
from abaci.models.spec import Activation, Layer, ModelSpec, RopeStyle


def spec_from_config(config: GgufConfig) -> ModelSpec:
    """The spec of a `qwen2moe` file."""
    rope = config.rope(RopeStyle.HALF)
    shared_size = config.integer("expert_shared_feed_forward_length", 1, MAX_WIDTH)

    def build_layer(layer: int) -> Layer:
        shared = config.gated_mlp(layer, Activation.SILU, suffix="_shexp", size=shared_size)
        shared_gate = config.linear(f"blk.{layer}.ffn_gate_inp_shexp", config.hidden_size, 1)
        return Layer(
            mixer_norm=config.norm(f"blk.{layer}.attn_norm"),
            mixer=config.with_biases(config.attention(layer, rope)),
            mlp_norm=config.norm(f"blk.{layer}.ffn_norm"),
            mlp=config.experts(layer, Activation.SILU, normalise=False, shared=shared, shared_gate=shared_gate),
        )

    return config.model(build_layer)
