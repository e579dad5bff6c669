"""Qwen3.5 and Qwen3.6, mixtures of experts: as Qwen3-Next, with the delta net's parts stored apart."""

from abaci.models.gguf_config import GgufConfig
from abaci.models.qwen_hybrid import hybrid_mixers, shared_mixture
from abaci.models.spec import Layer, ModelSpec


def spec_from_config(config: GgufConfig) -> ModelSpec:
    """The spec of a `qwen35moe` file."""
    mixer = hybrid_mixers(config)

    def build_layer(layer: int) -> Layer:
        return Layer(
            mixer_norm=config.norm(f"blk.{layer}.attn_norm"),
            mixer=mixer(layer),
            mlp_norm=config.norm(f"blk.{layer}.post_attention_norm"),
            mlp=shared_mixture(config, layer),
        )

    return config.model(build_layer)
