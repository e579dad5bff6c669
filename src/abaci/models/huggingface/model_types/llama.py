"""Llama 2 and 3, and the models that are published as such (SmolLM2, DeepSeek-R1 distills)."""

from abaci.models.huggingface.dense import ENDS, GATED_MLP, NORMS, PAIRED_PROJECTIONS, decoder_settings
from abaci.models.huggingface.mapping import (
    HeadSizes,
    KeyValueHeads,
    ModelMapping,
    Only,
    Present,
    Unused,
)
from abaci.models.huggingface.rope import Rope

MAPPING = ModelMapping(
    model_type="llama",
    class_name="LlamaForCausalLM",
    architecture="llama",
    settings=(
        *decoder_settings(hidden_size=4096, mlp_size=11008, num_layers=32, num_heads=32, context=2048),
        KeyValueHeads(),
        HeadSizes(),
        Rope(),
        Only("hidden_act", "silu"),
        Present("attention_bias", "blk.0.attn_q.bias"),
        Present("mlp_bias", "blk.0.ffn_up.bias"),
        Unused(("rope_interleaved", "is_llama_config")),
    ),
    tensors=(*ENDS, *PAIRED_PROJECTIONS, *NORMS, *GATED_MLP),
)
