"""Qwen3-Next: delta nets beside gated attention, over experts."""

from abaci.models.huggingface.dense import GATED_MLP, decoder_settings
from abaci.models.huggingface.experts import (
    EXPERTS,
    ROUTER,
    ROUTER_TRAINING,
    SHARED_EXPERT,
    STACKED_EXPERTS,
    DenseLayers,
    expert_settings,
)
from abaci.models.huggingface.mapping import HeadSizes, Idle, KeyValueHeads, ModelMapping, Only, Unused, Whole
from abaci.models.huggingface.qwen_hybrid import COMMON, DELTA_NET, DELTA_SETTINGS, HybridLayers, InnerSize
from abaci.models.huggingface.rope import Rope

MAPPING = ModelMapping(
    model_type="qwen3_next",
    class_name="Qwen3NextForCausalLM",
    architecture="qwen3next",
    settings=(
        *decoder_settings(hidden_size=2048, mlp_size=5632, num_layers=48, num_heads=16, context=32768),
        KeyValueHeads(2),
        HeadSizes(256),
        Rope(partial=0.25),
        HybridLayers(),
        *DELTA_SETTINGS,
        InnerSize(),
        *expert_settings(count="num_experts", num_experts=512, num_active=10, size=512, normalises=True),
        Whole("shared_expert_intermediate_size", "expert_shared_feed_forward_length", 512),
        DenseLayers(),
        Idle("use_sliding_window", False),
        Only("hidden_act", "silu"),
        Only("attention_bias", False),
        Unused(ROUTER_TRAINING),
    ),
    tensors=(*COMMON, *DELTA_NET, *GATED_MLP, ROUTER, *EXPERTS, *STACKED_EXPERTS, *SHARED_EXPERT),
    guess_prefixes=("mtp.",),
)
