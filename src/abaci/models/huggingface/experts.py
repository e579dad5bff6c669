"""What the mixtures of experts share: settings, and how their tensors are named."""

from collections.abc import Mapping
from dataclasses import dataclass

from abaci.models.huggingface.changes import AsFloats, Halves
from abaci.models.huggingface.mapping import Flag, Gguf, SettingRule, SplitRule, TensorRule, Value, Whole
from abaci.models.huggingface.published_config import PublishedConfig


def expert_settings(
    *,
    count: str,
    num_experts: int,
    num_active: int | None,
    size: int,
    normalises: bool | None,
    other_count: str | None = None,
) -> tuple[SettingRule, ...]:
    """`count` is what the type calls the number of experts, `other_count` what some of its files do.

    The rest are the values it may leave out.
    """
    settings: tuple[SettingRule, ...] = (
        Whole(count, "expert_count", num_experts, other_count),
        Whole("num_experts_per_tok", "expert_used_count", num_active),
        Whole("moe_intermediate_size", "expert_feed_forward_length", size),
    )
    return settings if normalises is None else (*settings, Flag("norm_topk_prob", "expert_weights_norm", normalises))


@dataclass(frozen=True, slots=True)
class DenseLayers:
    """Which layers have no experts: in GGUF those without a router."""

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        config.integer("decoder_sparse_step", 1)
        config.items("mlp_only_layers", [])
        return {}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        layers = range(settings.get("block_count"))
        dense = [layer for layer in layers if not settings.has_tensor(f"blk.{layer}.ffn_gate_inp.weight")]
        return {"decoder_sparse_step": 1, "mlp_only_layers": dense}


ROUTER = TensorRule("model.layers.{layer}.mlp.gate.weight", "blk.{layer}.ffn_gate_inp.weight", AsFloats())
ROUTER_BIAS = TensorRule("model.layers.{layer}.mlp.gate.e_score_correction_bias", "blk.{layer}.exp_probs_b.bias")

EXPERTS = (
    TensorRule("model.layers.{layer}.mlp.experts.{expert}.gate_proj", "blk.{layer}.ffn_gate_exps"),
    TensorRule("model.layers.{layer}.mlp.experts.{expert}.up_proj", "blk.{layer}.ffn_up_exps"),
    TensorRule("model.layers.{layer}.mlp.experts.{expert}.down_proj", "blk.{layer}.ffn_down_exps"),
)

STACKED_EXPERTS = (
    SplitRule(
        "model.layers.{layer}.mlp.experts.gate_up_proj",
        ("blk.{layer}.ffn_gate_exps.weight", "blk.{layer}.ffn_up_exps.weight"),
        Halves(),
    ),
    TensorRule("model.layers.{layer}.mlp.experts.down_proj", "blk.{layer}.ffn_down_exps.weight"),
)
"""As some folders have them: all experts of a layer in one tensor."""

SHARED_EXPERT = (
    TensorRule("model.layers.{layer}.mlp.shared_expert.gate_proj", "blk.{layer}.ffn_gate_shexp"),
    TensorRule("model.layers.{layer}.mlp.shared_expert.up_proj", "blk.{layer}.ffn_up_shexp"),
    TensorRule("model.layers.{layer}.mlp.shared_expert.down_proj", "blk.{layer}.ffn_down_shexp"),
    TensorRule(
        "model.layers.{layer}.mlp.shared_expert_gate.weight", "blk.{layer}.ffn_gate_inp_shexp.weight", AsFloats()
    ),
)

SHARED_EXPERTS = (
    TensorRule("model.layers.{layer}.mlp.shared_experts.gate_proj", "blk.{layer}.ffn_gate_shexp"),
    TensorRule("model.layers.{layer}.mlp.shared_experts.up_proj", "blk.{layer}.ffn_up_shexp"),
    TensorRule("model.layers.{layer}.mlp.shared_experts.down_proj", "blk.{layer}.ffn_down_shexp"),
)

ROUTER_TRAINING = ("output_router_logits", "router_aux_loss_coef", "router_jitter_noise", "aux_loss_alpha", "seq_aux")
"""Settings that matter only while a router is trained."""
