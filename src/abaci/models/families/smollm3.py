"""SmolLM3: Llama's decoder in which every fourth layer does not rotate (NoPE). Permuted as Llama."""

from abaci.models.gguf_config import GgufConfig
from abaci.models.spec import Activation, Layer, ModelSpec, RopeStyle

_UNROTATED_PERIOD = 4


def spec_from_config(config: GgufConfig) -> ModelSpec:
    """The spec of a `smollm3` file."""
    rope = config.rope(RopeStyle.INTERLEAVED)

    def build_layer(layer: int) -> Layer:
        return Layer(
            mixer_norm=config.norm(f"blk.{layer}.attn_norm"),
            mixer=config.attention(layer, None if (layer + 1) % _UNROTATED_PERIOD == 0 else rope),
            mlp_norm=config.norm(f"blk.{layer}.ffn_norm"),
            mlp=config.gated_mlp(layer, Activation.SILU),
        )

    return config.model(build_layer)
