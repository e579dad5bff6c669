"""GLM-4.5 and its kin: half of each head turns; a sigmoid router after a few dense layers."""

from abaci.models.huggingface.dense import ENDS, GATED_MLP, HEAD_NORMS, PROJECTIONS, decoder_settings
from abaci.models.huggingface.experts import (
    EXPERTS,
    ROUTER,
    ROUTER_BIAS,
    ROUTER_TRAINING,
    SHARED_EXPERTS,
    STACKED_EXPERTS,
    expert_settings,
)
from abaci.models.huggingface.mapping import (
    HeadSizes,
    Implied,
    KeyValueHeads,
    ModelMapping,
    Number,
    Only,
    Present,
    TensorRule,
    Unused,
    Whole,
)
from abaci.models.huggingface.rope import Rope

MAPPING = ModelMapping(
    model_type="glm4_moe",
    class_name="Glm4MoeForCausalLM",
    architecture="glm4moe",
    settings=(
        *decoder_settings(hidden_size=4096, mlp_size=10944, num_layers=46, num_heads=96, context=131072, epsilon=1e-5),
        KeyValueHeads(8),
        HeadSizes(),
        Rope(partial=0.5),
        Whole("first_k_dense_replace", "leading_dense_block_count", 1),
        *expert_settings(count="n_routed_experts", num_experts=128, num_active=8, size=1408, normalises=True),
        Whole("n_shared_experts", "expert_shared_count", 1),
        Number("routed_scaling_factor", "expert_weights_scale", 1.0),
        Whole("n_group", "expert_group_count", 1),
        Whole("topk_group", "expert_group_used_count", 1),
        Implied("expert_gating_func", 2),
        Only("hidden_act", "silu"),
        Present("attention_bias", "blk.0.attn_q.bias"),
        Present("use_qk_norm", "blk.0.attn_q_norm.weight"),
        Unused((*ROUTER_TRAINING, "num_nextn_predict_layers")),
    ),
    tensors=(
        *ENDS,
        *PROJECTIONS,
        *HEAD_NORMS,
        TensorRule("model.layers.{layer}.input_layernorm", "blk.{layer}.attn_norm"),
        TensorRule("model.layers.{layer}.post_attention_layernorm", "blk.{layer}.post_attention_norm"),
        *GATED_MLP,
        ROUTER,
        ROUTER_BIAS,
        *EXPERTS,
        *STACKED_EXPERTS,
        *SHARED_EXPERTS,
    ),
    guess_layers_key="num_nextn_predict_layers",
)
