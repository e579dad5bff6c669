"""DeepSeek V2 and V2-Lite: latent attention; experts chosen by their probabilities, perhaps in groups."""

from collections.abc import Mapping

from abaci.models.huggingface.dense import ENDS, GATED_MLP, NORMS, decoder_settings
from abaci.models.huggingface.experts import EXPERTS, ROUTER, ROUTER_TRAINING, SHARED_EXPERTS, expert_settings
from abaci.models.huggingface.latent import LATENT_PROJECTIONS, LatentRope, LatentSizes, with_latent_head
from abaci.models.huggingface.mapping import Gguf, Implied, ModelMapping, Number, Only, Present, Unused, Value, Whole
from abaci.models.huggingface.published_config import PublishedConfig

_GREEDY, _LIMITED = "greedy", "group_limited_greedy"


class _Groups:
    """Experts are in groups, of which a few are chosen from, only where the method says so."""

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        method = config.text("topk_method", _GREEDY)
        if method not in (_GREEDY, _LIMITED):
            raise config.unsupported("topk_method", f"is neither {_GREEDY} nor {_LIMITED}")
        groups, chosen = config.integer("n_group", 1), config.integer("topk_group", 1)
        if method == _GREEDY:
            groups, chosen = 1, 1
        return {"expert_group_count": groups, "expert_group_used_count": chosen}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        groups = settings.get("expert_group_count", 1)
        return {
            "topk_method": _GREEDY if groups == 1 else _LIMITED,
            "n_group": groups,
            "topk_group": settings.get("expert_group_used_count", 1),
        }


MAPPING = ModelMapping(
    model_type="deepseek_v2",
    class_name="DeepseekV2ForCausalLM",
    architecture="deepseek2",
    settings=(
        *decoder_settings(hidden_size=4096, mlp_size=11008, num_layers=32, num_heads=32, context=2048),
        LatentSizes(query_rank=1536, latent=512, rope=64, nope=128, value=128),
        LatentRope(),
        Whole("first_k_dense_replace", "leading_dense_block_count", 0),
        *expert_settings(count="n_routed_experts", num_experts=64, num_active=None, size=1407, normalises=None),
        Whole("n_shared_experts", "expert_shared_count", 2),
        Number("routed_scaling_factor", "expert_weights_scale", 1.0),
        _Groups(),
        Implied("expert_gating_func", 1),
        Only("norm_topk_prob", False),
        Only("scoring_func", "softmax"),
        Only("hidden_act", "silu"),
        Present("attention_bias", "blk.0.attn_kv_a_mqa.bias"),
        Only("mlp_bias", False),
        Only("moe_layer_freq", 1),
        Unused((*ROUTER_TRAINING, "head_dim", "qk_head_dim", "ep_size")),
    ),
    modernise=with_latent_head,
    tensors=(*ENDS, *LATENT_PROJECTIONS, *NORMS, *GATED_MLP, ROUTER, *EXPERTS, *SHARED_EXPERTS),
)
