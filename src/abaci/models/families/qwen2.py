"""Qwen2 and Qwen2.5: Llama's decoder with biases on query, key and value."""

from abaci.models.gguf_config import GgufConfig
from abaci.models.spec import Activation, Layer, ModelSpec, RopeStyle


def spec_from_config(config: GgufConfig) -> ModelSpec:
    """The spec of a `qwen2` file."""
    rope = config.rope(RopeStyle.HALF)

    def build_layer(layer: int) -> Layer:
        return Layer(
            mixer_norm=config.norm(f"blk.{layer}.attn_norm"),
            mixer=config.with_biases(config.attention(layer, rope)),
            mlp_norm=config.norm(f"blk.{layer}.ffn_norm"),
            mlp=config.gated_mlp(layer, Activation.SILU),
        )

    return config.model(build_layer)
