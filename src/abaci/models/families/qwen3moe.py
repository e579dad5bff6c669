"""Qwen3-MoE: Qwen3's attention over a mixture of experts whose weights sum to one; no shared expert."""

from abaci.models.gguf_config import GgufConfig
from abaci.models.spec import Activation, Layer, ModelSpec, RopeStyle


def spec_from_config(config: GgufConfig) -> ModelSpec:
    """The spec of a `qwen3moe` file. A layer without a router is dense."""
    rope = config.rope(RopeStyle.HALF)

    def build_layer(layer: int) -> Layer:
        return Layer(
            mixer_norm=config.norm(f"blk.{layer}.attn_norm"),
            mixer=config.attention(layer, rope, head_norms=True),
            mlp_norm=config.norm(f"blk.{layer}.ffn_norm"),
            mlp=config.experts(layer, Activation.SILU) if config.has_router(layer) else config.dense_mlp(layer),
        )

    return config.model(build_layer)
