"""Qwen3.5 and Qwen3.6, mixtures of experts."""

from abaci.models.huggingface.dense import decoder_settings
from abaci.models.huggingface.experts import (
    EXPERTS,
    ROUTER,
    ROUTER_TRAINING,
    SHARED_EXPERT,
    STACKED_EXPERTS,
    expert_settings,
)
from abaci.models.huggingface.mapping import HeadSizes, KeyValueHeads, ModelMapping, Only, Unused, Whole
from abaci.models.huggingface.qwen_hybrid import (
    COMMON,
    DELTA_SETTINGS,
    TURNED_DELTA_NET,
    HybridLayers,
    InnerSize,
    SectionedRope,
)

MAPPING = ModelMapping(
    model_type="qwen3_5_moe_text",
    class_name="Qwen3_5MoeForCausalLM",
    architecture="qwen35moe",
    settings=(
        *decoder_settings(hidden_size=2048, mlp_size=None, num_layers=40, num_heads=16, context=32768),
        KeyValueHeads(2),
        HeadSizes(256),
        SectionedRope(),
        HybridLayers(),
        *DELTA_SETTINGS,
        InnerSize(),
        *expert_settings(count="num_experts", num_experts=256, num_active=8, size=512, normalises=None),
        Whole("shared_expert_intermediate_size", "expert_shared_feed_forward_length", 512),
        Only("norm_topk_prob", True),
        Only("hidden_act", "silu"),
        Only("attention_bias", False),
        Only("attn_output_gate", True),
        Unused(
            (
                *ROUTER_TRAINING,
                "intermediate_size",
                "mlp_only_layers",
                "mamba_ssm_dtype",
                "mtp_num_hidden_layers",
                "mtp_use_dedicated_embeddings",
            )
        ),
    ),
    tensors=(*COMMON, *TURNED_DELTA_NET, ROUTER, *EXPERTS, *STACKED_EXPERTS, *SHARED_EXPERT),
    guess_prefixes=("mtp.", "model.mtp."),
)
