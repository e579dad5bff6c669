"""Phi-3, Phi-3.5 and Phi-4: Llama's decoder with query, key and value in one matrix, and gate and up in another.

Long-context files stretch the rotation by factors per frequency: one set within the original context, one beyond it.
Which one applies depends on the context that is served.
"""

from dataclasses import replace

from abaci.models.gguf_config import MAX_CONTEXT_TOKENS, GgufConfig
from abaci.models.spec import Activation, Layer, ModelSpec, Rope, RopeStyle

_SHORT, _LONG = "rope_factors_short.weight", "rope_factors_long.weight"


def spec_from_config(config: GgufConfig) -> ModelSpec:
    """The spec of a `phi3` file."""
    rope = _rope(config)
    window = config.window()

    def build_layer(layer: int) -> Layer:
        return Layer(
            mixer_norm=config.norm(f"blk.{layer}.attn_norm"),
            mixer=config.attention(layer, rope, window=window),
            mlp_norm=config.norm(f"blk.{layer}.ffn_norm"),
            mlp=config.gated_mlp(layer, Activation.SILU),
        )

    return config.model(build_layer)


def _rope(config: GgufConfig) -> Rope:
    rope = config.rope(RopeStyle.HALF)
    if not config.has_tensor(_LONG):
        return rope
    original = config.integer("rope.scaling.original_context_length", 1, MAX_CONTEXT_TOKENS)
    magnitude = config.number("rope.scaling.attn_factor", default=1.0)
    factors = _LONG if config.served_context > original else _SHORT
    config.leave(_SHORT if factors == _LONG else _LONG)
    return replace(rope, frequency_factors=factors, magnitude=magnitude)
