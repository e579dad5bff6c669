"""Qwen3-MoE: Qwen3's attention over experts; layers may be dense."""

from abaci.models.huggingface.dense import ENDS, GATED_MLP, HEAD_NORMS, NORMS, PROJECTIONS, decoder_settings
from abaci.models.huggingface.experts import (
    EXPERTS,
    ROUTER,
    ROUTER_TRAINING,
    STACKED_EXPERTS,
    DenseLayers,
    expert_settings,
)
from abaci.models.huggingface.layers import FullAttentionOnly
from abaci.models.huggingface.mapping import HeadSizes, Idle, KeyValueHeads, ModelMapping, Only, Present, Unused
from abaci.models.huggingface.rope import Rope

MAPPING = ModelMapping(
    model_type="qwen3_moe",
    class_name="Qwen3MoeForCausalLM",
    architecture="qwen3moe",
    settings=(
        *decoder_settings(hidden_size=2048, mlp_size=6144, num_layers=24, num_heads=32, context=32768),
        KeyValueHeads(4),
        HeadSizes(),
        Rope(),
        *expert_settings(
            count="num_experts",
            num_experts=128,
            num_active=8,
            size=768,
            normalises=False,
            other_count="num_local_experts",
        ),
        FullAttentionOnly(),
        Only("hidden_act", "silu"),
        Present("attention_bias", "blk.0.attn_q.bias"),
        DenseLayers(),
        Idle("use_qk_norm", True),
        Idle("qkv_bias", False),
        Idle("shared_expert_intermediate_size", 0),
        Unused(ROUTER_TRAINING),
    ),
    tensors=(*ENDS, *PROJECTIONS, *HEAD_NORMS, *NORMS, *GATED_MLP, ROUTER, *EXPERTS, *STACKED_EXPERTS),
)
