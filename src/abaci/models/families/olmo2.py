"""OLMo 2 and OLMo 3: norms after the blocks instead of before them, and over whole queries and keys.

OLMo 3 has a sliding window in three layers of four; only the layers without one are stretched.
"""

from dataclasses import replace

from abaci.models.gguf_config import MAX_CONTEXT_TOKENS, GgufConfig
from abaci.models.spec import Activation, Attention, Layer, ModelSpec, Rope, RopeStyle

_FULL_ATTENTION_PERIOD = 4


def spec_from_config(config: GgufConfig) -> ModelSpec:
    """The spec of an `olmo2` file."""
    rope = config.rope(RopeStyle.HALF)
    local_rope = Rope(rope.theta, rope.dim, rope.style)
    window = config.window()
    has_windows = config.integer("attention.sliding_window", 0, MAX_CONTEXT_TOKENS, default=0) > 0
    windowed = config.windowed_layers(_FULL_ATTENTION_PERIOD)

    def attention(layer: int, rope: Rope, window: int | None) -> Attention:
        plain = config.attention(layer, rope, window=window)
        return replace(
            plain,
            query_norm=config.norm(f"blk.{layer}.attn_q_norm", plain.query.out_features),
            key_norm=config.norm(f"blk.{layer}.attn_k_norm", config.num_kv_heads * config.head_dim),
        )

    def build_layer(layer: int) -> Layer:
        is_local = has_windows and windowed[layer]  # even where the window is so wide that it hides nothing
        return Layer(
            mixer_norm=None,
            mixer=attention(layer, local_rope, window) if is_local else attention(layer, rope, None),
            mixer_post_norm=config.norm(f"blk.{layer}.post_attention_norm"),
            mlp_norm=None,
            mlp=config.gated_mlp(layer, Activation.SILU),
            mlp_post_norm=config.norm(f"blk.{layer}.post_ffw_norm"),
        )

    return config.model(build_layer)
