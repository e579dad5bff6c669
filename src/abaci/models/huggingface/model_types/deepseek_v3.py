"""DeepSeek V3, R1 and Kimi K2: latent attention; experts chosen in groups by biased sigmoid scores."""

from abaci.models.huggingface.dense import ENDS, GATED_MLP, NORMS, decoder_settings
from abaci.models.huggingface.experts import (
    EXPERTS,
    ROUTER,
    ROUTER_BIAS,
    ROUTER_TRAINING,
    SHARED_EXPERTS,
    expert_settings,
)
from abaci.models.huggingface.latent import LATENT_PROJECTIONS, LatentRope, LatentSizes, with_latent_head
from abaci.models.huggingface.mapping import Implied, ModelMapping, Number, Only, Present, Unused, Whole

MAPPING = ModelMapping(
    model_type="deepseek_v3",
    class_name="DeepseekV3ForCausalLM",
    architecture="deepseek2",
    settings=(
        *decoder_settings(hidden_size=7168, mlp_size=18432, num_layers=61, num_heads=128, context=4096),
        LatentSizes(query_rank=1536, latent=512, rope=64, nope=128, value=128),
        LatentRope(),
        Whole("first_k_dense_replace", "leading_dense_block_count", 3),
        *expert_settings(count="n_routed_experts", num_experts=256, num_active=8, size=2048, normalises=True),
        Whole("n_shared_experts", "expert_shared_count", 1),
        Number("routed_scaling_factor", "expert_weights_scale", 2.5),
        Whole("n_group", "expert_group_count", 8),
        Whole("topk_group", "expert_group_used_count", 4),
        Implied("expert_gating_func", 2),
        Only("scoring_func", "sigmoid"),
        Only("topk_method", "noaux_tc"),
        Only("hidden_act", "silu"),
        Present("attention_bias", "blk.0.attn_kv_a_mqa.bias"),
        Only("rope_interleave", True),
        Only("moe_layer_freq", 1),
        Unused((*ROUTER_TRAINING, "num_nextn_predict_layers", "head_dim", "qk_head_dim", "ep_size")),
    ),
    modernise=with_latent_head,
    tensors=(
        *ENDS,
        *LATENT_PROJECTIONS,
        *NORMS,
        *GATED_MLP,
        ROUTER,
        ROUTER_BIAS,
        *EXPERTS,
        *SHARED_EXPERTS,
    ),
    guess_layers_key="num_nextn_predict_layers",
)
