"""Gemma 4, text: E2B and E4B with an input of its own for every layer, the dense 31B, and the mixture 26B-A4B.

Layers with a sliding window and layers with full attention differ in head size, key-value heads and rope; of the last
layers none has keys and values of its own. Full attention may take its values from the key matrix. In the mixture the
experts stand beside a dense MLP. Scores are not scaled: queries and keys are normed.
"""

import math
from dataclasses import dataclass, replace

from abaci.errors import FileFormatError
from abaci.models.gguf_config import FREQUENCY_FACTORS, MAX_CONTEXT_TOKENS, MAX_EXPERTS, MAX_WIDTH, GgufConfig
from abaci.models.spec import (
    Activation,
    Attention,
    Branch,
    Embedding,
    Layer,
    Linear,
    MixtureOfExperts,
    ModelSpec,
    Norm,
    ParallelMlp,
    Rope,
    RopeStyle,
    SideGate,
    SideInputs,
)

_ACTIVATION = Activation.GELU_TANH
_FULL_ATTENTION_PERIOD = 6


def spec_from_config(config: GgufConfig) -> ModelSpec:
    """The spec of a `gemma4` file."""
    attention = _Attentions(config)
    has_experts = config.integer("expert_count", 0, MAX_EXPERTS, default=0) > 0
    side_size = config.integer("embedding_length_per_layer_input", 0, MAX_WIDTH, default=0)

    def build_layer(layer: int) -> Layer:
        scale = f"blk.{layer}.layer_output_scale.weight"
        return Layer(
            mixer_norm=config.norm(f"blk.{layer}.attn_norm"),
            mixer=attention.of(layer),
            mixer_post_norm=config.norm(f"blk.{layer}.post_attention_norm"),
            mlp_norm=None if has_experts else config.norm(f"blk.{layer}.ffn_norm"),
            mlp=_parallel_mlp(config, layer) if has_experts else config.gated_mlp(layer, _ACTIVATION),
            mlp_post_norm=config.norm(f"blk.{layer}.post_ffw_norm"),
            side=_side_gate(config, layer, side_size) if side_size else None,
            scale=scale if config.has_tensor(scale) else None,
        )

    model = config.model(build_layer, embedding_scale=math.sqrt(config.hidden_size))
    cap = config.factor("final_logit_softcapping", default=0.0)
    sides = _side_inputs(config, model.vocab_size, side_size) if side_size else None
    return replace(model, side_inputs=sides, logit_soft_cap=cap or None)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What layers with a window, or those without, have in common."""

    head_dim: int
    rope: Rope
    window: int | None


class _Attentions:
    """The attention of every layer."""

    def __init__(self, config: GgufConfig) -> None:
        self._config = config
        self._has_window = config.windowed_layers(_FULL_ATTENTION_PERIOD)
        # The factors of pairs that full attention leaves alone are so great that they never turn.
        full_rope = replace(config.rope(RopeStyle.HALF), frequency_factors=FREQUENCY_FACTORS)
        local_dim = config.head_size("attention.key_length_swa", "attention.value_length_swa", default=config.head_dim)
        local_rope = Rope(
            theta=config.number("rope.freq_base_swa", default=10000.0),
            dim=config.rotated("rope.dimension_count_swa", local_dim),
            style=RopeStyle.HALF,
        )
        self._full = _Kind(config.head_dim, full_rope, None)
        self._local = _Kind(local_dim, local_rope, config.integer("attention.sliding_window", 1, MAX_CONTEXT_TOKENS))
        num_shared = config.integer("attention.shared_kv_layers", 0, config.num_layers - 1, default=0)
        self._num_own = config.num_layers - num_shared

    def of(self, layer: int) -> Attention:
        """Of one layer."""
        config, block = self._config, f"blk.{layer}."
        kind = self._local if self._has_window[layer] else self._full
        query_size, kv_size = config.num_heads * kind.head_dim, config.kv_heads[layer] * kind.head_dim
        attention = Attention(
            query=config.linear(f"{block}attn_q", config.hidden_size, query_size),
            key=None,
            value=None,
            output=config.linear(f"{block}attn_output", query_size, config.hidden_size),
            num_heads=config.num_heads,
            num_kv_heads=config.kv_heads[layer],
            head_dim=kind.head_dim,
            scale=1.0,
            rope=kind.rope,
            window=kind.window,
            query_norm=config.norm(f"{block}attn_q_norm", kind.head_dim),
        )
        if layer >= self._num_own:
            for name in ("attn_k", "attn_v", "attn_k_norm"):
                config.leave(f"{block}{name}.weight")
            return replace(attention, cache_of=self._owner(layer))
        key = config.linear(f"{block}attn_k", config.hidden_size, kv_size)
        has_value = config.has_tensor(f"{block}attn_v.weight")
        return replace(
            attention,
            key=key,
            value=config.linear(f"{block}attn_v", config.hidden_size, kv_size) if has_value else key,
            key_norm=config.norm(f"{block}attn_k_norm", kind.head_dim),
            value_norm=Norm(None, kind.head_dim, config.epsilon),
        )

    def _owner(self, layer: int) -> int:
        """The last layer of the same kind that has keys and values."""
        has_window, heads = self._has_window, self._config.kv_heads
        alike = [owner for owner in range(self._num_own) if has_window[owner] == has_window[layer]]
        if not alike or heads[alike[-1]] != heads[layer]:
            raise FileFormatError(f"layer {layer} has neither keys of its own nor a layer before it to share those of")
        return alike[-1]


def _parallel_mlp(config: GgufConfig, layer: int) -> ParallelMlp:
    """The dense MLP, and the experts beside it; the router reads what comes in by a norm of its own."""
    block = f"blk.{layer}."
    experts: MixtureOfExperts = config.experts(layer, _ACTIVATION)
    router = replace(
        experts.router,
        norm=Norm(f"{block}ffn_gate_inp.scale", config.hidden_size, config.epsilon, config.hidden_size**-0.5),
        expert_scales=f"{block}ffn_down_exps.scale",
    )
    experts = replace(experts, router=router, norm=config.norm(f"{block}pre_ffw_norm_2"))
    dense = config.gated_mlp(layer, _ACTIVATION)
    return ParallelMlp(
        Branch(config.norm(f"{block}ffn_norm"), dense, config.norm(f"{block}post_ffw_norm_1")),
        Branch(None, experts, config.norm(f"{block}post_ffw_norm_2")),
    )


def _side_inputs(config: GgufConfig, vocab_size: int, size: int) -> SideInputs:
    """Of all layers.

    The original divides the projection by sqrt(hidden size) and the sum by sqrt(2). Norms follow on both, the second in
    `_side_gate`, so each is the same as a larger epsilon.
    """
    width = config.num_layers * size
    norm = config.norm("per_layer_proj_norm", size)
    return SideInputs(
        embedding=Embedding("per_layer_token_embd.weight", vocab_size, width, scale=math.sqrt(size)),
        projection=Linear("per_layer_model_proj.weight", config.hidden_size, width),
        norm=replace(norm, epsilon=norm.epsilon * config.hidden_size),
    )


def _side_gate(config: GgufConfig, layer: int, size: int) -> SideGate:
    norm = config.norm(f"blk.{layer}.post_norm")
    return SideGate(
        gate=config.linear(f"blk.{layer}.inp_gate", config.hidden_size, size),
        output=config.linear(f"blk.{layer}.proj", size, config.hidden_size),
        norm=replace(norm, epsilon=2 * norm.epsilon),
        activation=_ACTIVATION,
    )
