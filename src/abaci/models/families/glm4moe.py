"""GLM-4.5 and its kin: biased attention that rotates half of each head; a sigmoid router after a few dense layers.

The layers for predicting several tokens at once that the files bring along are not run.
"""

from abaci.models.gguf_config import MAX_WIDTH, GgufConfig
from abaci.models.spec import Activation, GatedMlp, Layer, MixtureOfExperts, ModelSpec, RopeStyle, Scoring


def spec_from_config(config: GgufConfig) -> ModelSpec:
    """The spec of a `glm4moe` file."""
    rope = config.rope(RopeStyle.HALF)
    num_dense = config.integer("leading_dense_block_count", 0, config.num_layers, default=0)
    expert_size = config.integer("expert_feed_forward_length", 1, MAX_WIDTH)
    shared_size = config.integer("expert_shared_count", 1, 64) * expert_size
    head_norms = config.has_tensor("blk.0.attn_q_norm.weight")

    def mlp(layer: int) -> GatedMlp | MixtureOfExperts:
        if layer < num_dense:
            return config.dense_mlp(layer)
        shared = config.gated_mlp(layer, Activation.SILU, suffix="_shexp", size=shared_size)
        return config.experts(layer, Activation.SILU, scoring=Scoring.SIGMOID, shared=shared)

    def build_layer(layer: int) -> Layer:
        return Layer(
            mixer_norm=config.norm(f"blk.{layer}.attn_norm"),
            mixer=config.attention(layer, rope, head_norms=head_norms),
            mlp_norm=config.norm(f"blk.{layer}.post_attention_norm"),
            mlp=mlp(layer),
        )

    return config.model(build_layer)
