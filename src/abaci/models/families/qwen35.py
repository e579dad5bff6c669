"""Qwen3.5 and Qwen3.6, dense: three layers of gated delta net to one of gated attention."""

from abaci.models.gguf_config import GgufConfig
from abaci.models.qwen_hybrid import hybrid_mixers
from abaci.models.spec import Activation, Layer, ModelSpec


def spec_from_config(config: GgufConfig) -> ModelSpec:
    """The spec of a `qwen35` file."""
    mixer = hybrid_mixers(config)

    def build_layer(layer: int) -> Layer:
        return Layer(
            mixer_norm=config.norm(f"blk.{layer}.attn_norm"),
            mixer=mixer(layer),
            mlp_norm=config.norm(f"blk.{layer}.post_attention_norm"),
            mlp=config.gated_mlp(layer, Activation.SILU),
        )

    return config.model(build_layer)
