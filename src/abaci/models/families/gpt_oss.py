"""gpt-oss: attention with sinks and biases, every other layer with a window; clamped SwiGLU experts."""

from dataclasses import replace

from abaci.models.gguf_config import GgufConfig
from abaci.models.spec import Activation, Layer, ModelSpec, RopeStyle

_FULL_ATTENTION_PERIOD = 2


def spec_from_config(config: GgufConfig) -> ModelSpec:
    """The spec of a `gpt-oss` file."""
    rope = config.rope(RopeStyle.HALF, truncate_yarn=False)
    window = config.window()
    windowed = config.windowed_layers(_FULL_ATTENTION_PERIOD)

    def build_layer(layer: int) -> Layer:
        attention = config.attention(layer, rope, window=window if windowed[layer] else None)
        return Layer(
            mixer_norm=config.norm(f"blk.{layer}.attn_norm"),
            mixer=replace(config.with_biases(attention), sinks=f"blk.{layer}.attn_sinks.weight"),
            mlp_norm=config.norm(f"blk.{layer}.post_attention_norm"),
            mlp=config.experts(layer, Activation.CLAMPED_SWIGLU),
        )

    return config.model(build_layer)
