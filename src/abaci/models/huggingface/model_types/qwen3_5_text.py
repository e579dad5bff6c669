"""Qwen3.5 and Qwen3.6, dense: delta nets beside gated attention."""

from abaci.models.huggingface.dense import GATED_MLP, decoder_settings
from abaci.models.huggingface.mapping import HeadSizes, KeyValueHeads, ModelMapping, Only, Unused
from abaci.models.huggingface.qwen_hybrid import (
    COMMON,
    DELTA_SETTINGS,
    TURNED_DELTA_NET,
    HybridLayers,
    InnerSize,
    SectionedRope,
)

MAPPING = ModelMapping(
    model_type="qwen3_5_text",
    class_name="Qwen3_5ForCausalLM",
    architecture="qwen35",
    settings=(
        *decoder_settings(hidden_size=4096, mlp_size=12288, num_layers=32, num_heads=16, context=32768),
        KeyValueHeads(4),
        HeadSizes(256),
        SectionedRope(),
        HybridLayers(),
        *DELTA_SETTINGS,
        InnerSize(),
        Only("hidden_act", "silu"),
        Only("attention_bias", False),
        Only("attn_output_gate", True),
        Unused(("mlp_only_layers", "mamba_ssm_dtype", "mtp_num_hidden_layers", "mtp_use_dedicated_embeddings")),
    ),
    tensors=(*COMMON, *TURNED_DELTA_NET, *GATED_MLP),
    guess_prefixes=("mtp.", "model.mtp."),
)
