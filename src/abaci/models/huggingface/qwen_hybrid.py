"""What the hybrid Qwens share (Qwen3-Next, Qwen3.5, Qwen3.6): three delta nets to one gated full attention."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from abaci.models.huggingface.changes import AddOne
from abaci.models.huggingface.delta_net import Convolution, Decay, QueriesKeysValuesAndGates, TurnedValueHeads
from abaci.models.huggingface.dense import ENDS, HEAD_NORMS, PROJECTIONS
from abaci.models.huggingface.layers import FULL
from abaci.models.huggingface.mapping import ComputedTensor, Gguf, SplitRule, TensorRule, Value, Whole
from abaci.models.huggingface.published_config import PublishedConfig
from abaci.models.huggingface.rope import Rope

_LINEAR = "linear_attention"
_PERIOD = 4
_NET = "model.layers.{layer}.linear_attn"

DELTA_SETTINGS = (
    Whole("linear_conv_kernel_dim", "ssm.conv_kernel", 4),
    Whole("linear_key_head_dim", "ssm.state_size", 128),
    Whole("linear_num_key_heads", "ssm.group_count", 16),
    Whole("linear_num_value_heads", "ssm.time_step_rank", 32),
)


@dataclass(frozen=True, slots=True)
class InnerSize:
    """All values of a delta net together."""

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        heads = config.integer("linear_num_value_heads")
        return {"ssm.inner_size": heads * config.integer("linear_value_head_dim", 128)}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        return {"linear_value_head_dim": settings.get("ssm.inner_size") // settings.get("ssm.time_step_rank")}


@dataclass(frozen=True, slots=True)
class HybridLayers:
    """Which layers attend in full: every n-th."""

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        period = config.integer("full_attention_interval", _PERIOD)
        if config.has("layer_types"):
            types = config.items("layer_types")
            period = types.index(FULL) + 1 if FULL in types else len(types) + 1
            if types != _types(len(types), period):
                raise config.unsupported("layer_types", "is not full attention in every n-th layer")
        return {"full_attention_interval": period}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        return {"layer_types": _types(settings.get("block_count"), settings.get("full_attention_interval", _PERIOD))}


def _types(num_layers: int, period: int) -> list[str]:
    return [FULL if (layer + 1) % period == 0 else _LINEAR for layer in range(num_layers)]


_ROPE = Rope(partial=0.25)


@dataclass(frozen=True, slots=True)
class SectionedRope:
    """A quarter of each head turns; the pairs are dealt to time, height and width of images, for text all alike."""

    sections: tuple[int, ...] = (11, 11, 10)

    @property
    def computed(self) -> tuple[ComputedTensor, ...]:
        """As of a rope without sections."""
        return _ROPE.computed

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        place = "rope_parameters" if config.has("rope_parameters") else "rope_scaling"
        sections = config.items(f"{place}.mrope_section", list(self.sections))
        if len(sections) > 4 or not all(isinstance(size, int) and 0 <= size < 1 << 16 for size in sections):
            raise config.invalid(f"{place}.mrope_section", "is not a list of up to four whole numbers")
        return {**_ROPE.to_gguf(config), "rope.dimension_sections": [*sections, *[0] * (4 - len(sections))]}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        parameters = _ROPE.to_published(settings)["rope_parameters"]
        sections = settings.get("rope.dimension_sections", [*self.sections, 0])
        while sections and sections[-1] == 0:
            sections = sections[:-1]
        return {"rope_parameters": {**parameters, "mrope_section": sections, "mrope_interleaved": True}}


COMMON = (
    *(replace(rule, change=AddOne()) if rule.published == "model.norm" else rule for rule in ENDS),
    *PROJECTIONS,
    *(replace(rule, change=AddOne()) for rule in HEAD_NORMS),
    TensorRule("model.layers.{layer}.input_layernorm", "blk.{layer}.attn_norm", AddOne()),
    TensorRule("model.layers.{layer}.post_attention_layernorm", "blk.{layer}.post_attention_norm", AddOne()),
    TensorRule(f"{_NET}.norm", "blk.{layer}.ssm_norm"),
)

DELTA_NET = (
    SplitRule(
        f"{_NET}.in_proj_qkvz.weight",
        ("blk.{layer}.attn_qkv.weight", "blk.{layer}.attn_gate.weight"),
        QueriesKeysValuesAndGates(),
    ),
    TensorRule(f"{_NET}.in_proj_ba", "blk.{layer}.ssm_ba"),
    TensorRule(f"{_NET}.A_log", "blk.{layer}.ssm_a", Decay()),
    TensorRule(f"{_NET}.dt_bias", "blk.{layer}.ssm_dt.bias"),
    TensorRule(f"{_NET}.conv1d.weight", "blk.{layer}.ssm_conv1d.weight", Convolution()),
    TensorRule(f"{_NET}.out_proj", "blk.{layer}.ssm_out"),
)
"""As Qwen3-Next has it."""

TURNED_DELTA_NET = (
    TensorRule(f"{_NET}.in_proj_qkv", "blk.{layer}.attn_qkv", TurnedValueHeads(behind_keys=True)),
    TensorRule(f"{_NET}.in_proj_z", "blk.{layer}.attn_gate", TurnedValueHeads()),
    TensorRule(f"{_NET}.in_proj_b", "blk.{layer}.ssm_beta", TurnedValueHeads(is_scalar=True)),
    TensorRule(f"{_NET}.in_proj_a", "blk.{layer}.ssm_alpha", TurnedValueHeads(is_scalar=True)),
    TensorRule(f"{_NET}.A_log", "blk.{layer}.ssm_a", Decay(is_turned=True)),
    TensorRule(f"{_NET}.dt_bias", "blk.{layer}.ssm_dt.bias", TurnedValueHeads(is_scalar=True, needs_floats=True)),
    TensorRule(f"{_NET}.conv1d.weight", "blk.{layer}.ssm_conv1d.weight", Convolution(is_turned=True)),
    TensorRule(f"{_NET}.out_proj", "blk.{layer}.ssm_out", TurnedValueHeads(axis=1)),
)
"""As Qwen3.5 and later have it."""
