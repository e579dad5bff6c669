"""Llama and its kin (SmolLM2, Mistral 7B): the plain pre-norm decoder.

GGUF stores the rows of the query and key matrices of this architecture permuted, so that neighbouring values rotate
together (`RopeStyle.INTERLEAVED`); Llama 3's stretched context comes as frequency factors in `rope_freqs.weight`.
"""

from abaci.models.gguf_config import GgufConfig
from abaci.models.spec import Activation, Layer, ModelSpec, RopeStyle


def spec_from_config(config: GgufConfig) -> ModelSpec:
    """The spec of a `llama` file. Mixtures of experts share the name and are refused by their settings."""
    rope = config.rope(RopeStyle.INTERLEAVED)
    embedding = config.embedding()
    return ModelSpec(
        architecture=config.architecture,
        embedding=embedding,
        layers=tuple(
            Layer(
                attention_norm=config.norm(f"blk.{layer}.attn_norm"),
                attention=config.attention(layer, rope),
                mlp_norm=config.norm(f"blk.{layer}.ffn_norm"),
                mlp=config.gated_mlp(layer, Activation.SILU),
            )
            for layer in range(config.num_layers)
        ),
        norm=config.norm("output_norm"),
        head=config.head(embedding),
        context_length=config.context_length,
    )
