"""Phi-3, Phi-3.5 and Phi-4: Llama's decoder with query, key and value in one matrix, and gate and up in another.

Long-context files stretch the rotation by factors per frequency: one set within the original context, one beyond it.
The original chooses by the length of the text, and reads all of it anew when it outgrows the first set. Here one set
holds for all texts, so that what is cached of one serves another: the first if no text that is served can outgrow it.
It is the context asked for that decides, not what memory allows: the same request gives the same answer everywhere.
"""

from dataclasses import replace

from abaci.models.gguf_config import MAX_CONTEXT_TOKENS, GgufConfig
from abaci.models.spec import Activation, Layer, ModelSpec, Rope, RopeStyle

_SHORT, _LONG = "rope_factors_short.weight", "rope_factors_long.weight"


def spec_from_config(config: GgufConfig) -> ModelSpec:
    """The spec of a `phi3` file."""
    rope, notes = _rope(config)
    window = config.window()

    def build_layer(layer: int) -> Layer:
        return Layer(
            mixer_norm=config.norm(f"blk.{layer}.attn_norm"),
            mixer=config.attention(layer, rope, window=window),
            mlp_norm=config.norm(f"blk.{layer}.ffn_norm"),
            mlp=config.gated_mlp(layer, Activation.SILU),
        )

    return replace(config.model(build_layer), notes=notes)


def _rope(config: GgufConfig) -> tuple[Rope, tuple[str, ...]]:
    """And what to tell of it."""
    rope = config.rope(RopeStyle.HALF)
    if not config.has_tensor(_LONG):
        return rope, ()
    original = config.integer("rope.scaling.original_context_length", 1, MAX_CONTEXT_TOKENS)
    rope = replace(rope, magnitude=config.number("rope.scaling.attn_factor", default=1.0))
    if config.served_context <= original:
        config.leave(_LONG)
        return replace(rope, frequency_factors=_SHORT), ()
    config.leave(_SHORT)
    note = (
        f"texts beyond {original:,} tokens have a rope of their own, which with a context of "
        f"{config.served_context:,} holds for shorter ones too; to run those as the original does, ask for a context "
        f"of {original}"
    )
    return replace(rope, frequency_factors=_LONG), (note,)
