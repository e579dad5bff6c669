"""Qwen1.5-MoE and Qwen2-MoE: Qwen2's attention; experts by their plain probabilities, a gated shared one."""

from abaci.models.gguf_config import MAX_WIDTH, GgufConfig
from abaci.models.spec import Activation, GatedMlp, Layer, MixtureOfExperts, ModelSpec, RopeStyle


def spec_from_config(config: GgufConfig) -> ModelSpec:
    """The spec of a `qwen2moe` file. A layer without a router is dense."""
    rope = config.rope(RopeStyle.HALF)
    shared_size = config.integer("expert_shared_feed_forward_length", 1, MAX_WIDTH)

    def mlp(layer: int) -> GatedMlp | MixtureOfExperts:
        if not config.has_router(layer):
            return config.dense_mlp(layer)
        shared = config.gated_mlp(layer, Activation.SILU, suffix="_shexp", size=shared_size)
        shared_gate = config.linear(f"blk.{layer}.ffn_gate_inp_shexp", config.hidden_size, 1)
        return config.experts(layer, Activation.SILU, normalise=False, shared=shared, shared_gate=shared_gate)

    def build_layer(layer: int) -> Layer:
        return Layer(
            mixer_norm=config.norm(f"blk.{layer}.attn_norm"),
            mixer=config.with_biases(config.attention(layer, rope)),
            mlp_norm=config.norm(f"blk.{layer}.ffn_norm"),
            mlp=mlp(layer),
        )

    return config.model(build_layer)
