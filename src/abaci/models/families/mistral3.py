"""Ministral 3: Llama's decoder, permuted as Llama's, with YaRN and queries that grow with their position."""

from dataclasses import replace

from abaci.models.gguf_config import MAX_CONTEXT_TOKENS, GgufConfig
from abaci.models.spec import Activation, Layer, ModelSpec, PositionScale, RopeStyle


def spec_from_config(config: GgufConfig) -> ModelSpec:
    """The spec of a `mistral3` file."""
    rope = config.rope(RopeStyle.INTERLEAVED)
    beta = config.factor("attention.temperature_scale", default=0.0)
    window = config.window()
    period = MAX_CONTEXT_TOKENS
    for key in ("rope.scaling.original_context_length", "attention.temperature_length"):
        period = config.integer(key, 1, MAX_CONTEXT_TOKENS, default=period)
    query_scale = PositionScale(beta, period) if beta else None

    def build_layer(layer: int) -> Layer:
        return Layer(
            mixer_norm=config.norm(f"blk.{layer}.attn_norm"),
            mixer=replace(config.attention(layer, rope, window=window), query_scale=query_scale),
            mlp_norm=config.norm(f"blk.{layer}.ffn_norm"),
            mlp=config.gated_mlp(layer, Activation.SILU),
        )

    return config.model(build_layer)
