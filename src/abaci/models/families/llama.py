"""Llama and its kin (SmolLM2, Mistral 7B, Mixtral): the plain pre-norm decoder, dense or a mixture of experts.

GGUF stores the rows of the query and key matrices of this architecture permuted, so that neighbouring values rotate
together (`RopeStyle.INTERLEAVED`); Llama 3's stretched context comes as frequency factors in `rope_freqs.weight`.
"""

from abaci.models.gguf_config import MAX_EXPERTS, GgufConfig
from abaci.models.spec import Activation, Layer, ModelSpec, RopeStyle


def spec_from_config(config: GgufConfig) -> ModelSpec:
    """The spec of a `llama` file."""
    rope = config.rope(RopeStyle.INTERLEAVED)
    window = config.window()
    is_mixture = config.integer("expert_count", 0, MAX_EXPERTS, default=0) > 0
    if not is_mixture:
        config.integer("expert_used_count", 0, 0, default=0)
    mlp = config.experts if is_mixture else config.gated_mlp

    def build_layer(layer: int) -> Layer:
        return Layer(
            mixer_norm=config.norm(f"blk.{layer}.attn_norm"),
            mixer=config.attention(layer, rope, window=window),
            mlp_norm=config.norm(f"blk.{layer}.ffn_norm"),
            mlp=mlp(layer, Activation.SILU),
        )

    return config.model(build_layer)
