"""Qwen2 and Qwen2.5: Llama's decoder with biases on query, key and value."""

from abaci.errors import FileFormatError
from abaci.models.gguf_config import GgufConfig
from abaci.models.spec import Activation, Attention, Layer, ModelSpec, RopeStyle


def spec_from_config(config: GgufConfig) -> ModelSpec:
    """The spec of a `qwen2` file."""
    rope = config.rope(RopeStyle.HALF)
    embedding = config.embedding()
    return ModelSpec(
        architecture=config.architecture,
        embedding=embedding,
        layers=tuple(
            Layer(
                attention_norm=config.norm(f"blk.{layer}.attn_norm"),
                attention=_with_biases(config.attention(layer, rope)),
                mlp_norm=config.norm(f"blk.{layer}.ffn_norm"),
                mlp=config.gated_mlp(layer, Activation.SILU),
            )
            for layer in range(config.num_layers)
        ),
        norm=config.norm("output_norm"),
        head=config.head(embedding),
        context_length=config.context_length,
    )


def _with_biases(attention: Attention) -> Attention:
    """Biases are optional in GGUF but not in this family: a file without them is incomplete."""
    for linear in (attention.query, attention.key, attention.value):
        if linear.bias is None:
            raise FileFormatError(f"tensor {linear.weight.removesuffix('.weight')}.bias is missing")
    return attention
