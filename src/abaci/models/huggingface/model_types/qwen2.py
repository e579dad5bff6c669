"""Qwen2, Qwen2.5 and what is made of them (Coder, Math, DeepSeek-R1 distills)."""

from abaci.models.huggingface.dense import ENDS, GATED_MLP, NORMS, PROJECTIONS, decoder_settings
from abaci.models.huggingface.layers import FullAttentionOnly
from abaci.models.huggingface.mapping import HeadSizes, Idle, KeyValueHeads, ModelMapping, Only
from abaci.models.huggingface.rope import Rope

MAPPING = ModelMapping(
    model_type="qwen2",
    class_name="Qwen2ForCausalLM",
    architecture="qwen2",
    settings=(
        *decoder_settings(hidden_size=4096, mlp_size=22016, num_layers=32, num_heads=32, context=32768),
        KeyValueHeads(32),
        HeadSizes(),
        Rope(),
        Only("hidden_act", "silu"),
        FullAttentionOnly(),
        Idle("use_mrope", False),
    ),
    tensors=(*ENDS, *PROJECTIONS, *NORMS, *GATED_MLP),
)
