"""Qwen1.5-MoE and Qwen2-MoE: experts beside one that all tokens see through a gate."""

from abaci.models.huggingface.dense import ENDS, GATED_MLP, NORMS, PROJECTIONS, decoder_settings
from abaci.models.huggingface.experts import (
    EXPERTS,
    ROUTER,
    ROUTER_TRAINING,
    SHARED_EXPERT,
    STACKED_EXPERTS,
    DenseLayers,
    expert_settings,
)
from abaci.models.huggingface.layers import FullAttentionOnly
from abaci.models.huggingface.mapping import HeadSizes, KeyValueHeads, ModelMapping, Only, Unused, Whole
from abaci.models.huggingface.rope import Rope

MAPPING = ModelMapping(
    model_type="qwen2_moe",
    class_name="Qwen2MoeForCausalLM",
    architecture="qwen2moe",
    settings=(
        *decoder_settings(hidden_size=2048, mlp_size=5632, num_layers=24, num_heads=16, context=32768),
        KeyValueHeads(16),
        HeadSizes(),
        Rope(),
        *expert_settings(count="num_experts", num_experts=60, num_active=4, size=1408, normalises=False),
        Whole("shared_expert_intermediate_size", "expert_shared_feed_forward_length", 5632),
        FullAttentionOnly(),
        Only("hidden_act", "silu"),
        Only("qkv_bias", True),
        DenseLayers(),
        Unused(ROUTER_TRAINING),
    ),
    tensors=(*ENDS, *PROJECTIONS, *NORMS, *GATED_MLP, ROUTER, *EXPERTS, *STACKED_EXPERTS, *SHARED_EXPERT),
)
