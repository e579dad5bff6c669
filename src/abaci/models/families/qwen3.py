"""Qwen3: Llama's decoder with a norm on each query and key head. Its embedding models and rerankers are the same."""

from abaci.models.gguf_config import GgufConfig
from abaci.models.spec import Activation, Layer, ModelSpec, RopeStyle


def spec_from_config(config: GgufConfig) -> ModelSpec:
    """The spec of a `qwen3` file."""
    rope = config.rope(RopeStyle.HALF)

    def build_layer(layer: int) -> Layer:
        return Layer(
            mixer_norm=config.norm(f"blk.{layer}.attn_norm"),
            mixer=config.attention(layer, rope, head_norms=True),
            mlp_norm=config.norm(f"blk.{layer}.ffn_norm"),
            mlp=config.gated_mlp(layer, Activation.SILU),
        )

    return config.model(build_layer)
