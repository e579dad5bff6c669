"""DeepSeek V2 and V2-Lite: latent attention; experts chosen by their probabilities, perhaps in groups."""

from abaci.models.huggingface.dense import ENDS, GATED_MLP, NORMS, decoder_settings
from abaci.models.huggingface.experts import EXPERTS, ROUTER, ROUTER_TRAINING, SHARED_EXPERTS, expert_settings
from abaci.models.huggingface.latent import LATENT_PROJECTIONS, LatentRope, LatentSizes
from abaci.models.huggingface.mapping import Implied, ModelMapping, Number, Only, Unused, Whole

MAPPING = ModelMapping(
    model_type="deepseek_v2",
    class_name="DeepseekV2ForCausalLM",
    architecture="deepseek2",
    settings=(
        *decoder_settings(hidden_size=4096, mlp_size=11008, num_layers=32, num_heads=32, context=2048),
        LatentSizes(query_rank=None, latent=512, rope=64, nope=128, value=128),
        LatentRope(),
        Whole("first_k_dense_replace", "leading_dense_block_count", 0),
        *expert_settings(count="n_routed_experts", num_experts=64, num_active=None, size=1407, normalises=None),
        Whole("n_shared_experts", "expert_shared_count", 2),
        Number("routed_scaling_factor", "expert_weights_scale", 1.0),
        Whole("n_group", "expert_group_count", 1),
        Whole("topk_group", "expert_group_used_count", 1),
        Implied("expert_gating_func", 1),
        Only("norm_topk_prob", False),
        Only("scoring_func", "softmax"),
        Only("topk_method", "greedy", others=("group_limited_greedy",)),
        Only("hidden_act", "silu"),
        Only("attention_bias", False),
        Only("mlp_bias", False),
        Only("moe_layer_freq", 1),
        Unused((*ROUTER_TRAINING, "head_dim", "qk_head_dim", "ep_size")),
    ),
    tensors=(*ENDS, *LATENT_PROJECTIONS, *NORMS, *GATED_MLP, ROUTER, *EXPERTS, *SHARED_EXPERTS),
)
