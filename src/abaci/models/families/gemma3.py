"""Gemma 3, text: five layers with a sliding window to each one with full attention, norms before and after each block.

The norm weights in GGUF already hold the one that the original adds to them. Local layers keep the rope base 10,000 and
are never stretched; the file's rope settings are those of the full-attention layers.
"""

import math

from abaci.models.gguf_config import MAX_CONTEXT_TOKENS, GgufConfig
from abaci.models.spec import Activation, Layer, ModelSpec, Rope, RopeStyle

_LOCAL_THETA = 10000.0
_FULL_ATTENTION_PERIOD = 6
_NUM_LAYERS_27B = 62


def spec_from_config(config: GgufConfig) -> ModelSpec:
    """The spec of a `gemma3` file."""
    full_rope = config.rope(RopeStyle.HALF)
    local_theta = config.number("rope.freq_base_swa", default=_LOCAL_THETA)
    local_rope = Rope(local_theta, full_rope.dim, RopeStyle.HALF)
    window = config.integer("attention.sliding_window", 1, MAX_CONTEXT_TOKENS)
    windowed = config.windowed_layers(_FULL_ATTENTION_PERIOD)

    def build_layer(layer: int) -> Layer:
        rope = local_rope if windowed[layer] else full_rope
        return Layer(
            mixer_norm=config.norm(f"blk.{layer}.attn_norm"),
            mixer=config.attention(
                layer, rope, scale=_score_scale(config), window=window if windowed[layer] else None, head_norms=True
            ),
            mixer_post_norm=config.norm(f"blk.{layer}.post_attention_norm"),
            mlp_norm=config.norm(f"blk.{layer}.ffn_norm"),
            mlp=config.gated_mlp(layer, Activation.GELU_TANH),
            mlp_post_norm=config.norm(f"blk.{layer}.post_ffw_norm"),
        )

    return config.model(build_layer, embedding_scale=math.sqrt(config.hidden_size))


def _score_scale(config: GgufConfig) -> float:
    """1/sqrt(head size), except in the 27B model, whose `query_pre_attn_scalar` of hidden/heads GGUF does not carry."""
    size = config.hidden_size / config.num_heads if config.num_layers == _NUM_LAYERS_27B else config.head_dim
    return 1 / math.sqrt(size)
