"""Gemma 4, the text model: heads, ropes and windows by kind of layer; inputs of every layer or experts in some."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from abaci.errors import UnsupportedModelError
from abaci.models.huggingface.changes import AsFloats
from abaci.models.huggingface.dense import ENDS, GATED_MLP, HEAD_NORMS, PROJECTIONS, decoder_settings
from abaci.models.huggingface.layers import FULL, SLIDING, layer_count
from abaci.models.huggingface.llama3_stretch import FREQUENCY_FACTORS
from abaci.models.huggingface.mapping import (
    ComputedTensor,
    Gguf,
    ModelMapping,
    Only,
    TensorRule,
    Unused,
    Value,
    rounded,
    shortest,
)
from abaci.models.huggingface.published_config import PublishedConfig
from abaci.models.huggingface.rope import MAX_HEAD_DIM, RopeReader

_PERIOD = 6
_THETA = 1000000.0
_LOCAL_THETA = 10000.0
_PARTIAL = 0.25
_NEVER_TURNS = 1e30
"""The frequency factor of a pair that is left alone."""


def _types(config: PublishedConfig) -> list[object]:
    """The kind of every layer; the last always attends in full."""
    num_layers = layer_count(config)
    usual: list[object] = [FULL if (layer + 1) % _PERIOD == 0 else SLIDING for layer in range(num_layers)]
    types = config.items("layer_types", usual)
    if len(types) != num_layers or not set(types) <= {FULL, SLIDING}:
        raise config.invalid("layer_types", f"is not {FULL} or {SLIDING} for each layer")
    return [*types[:-1], FULL]


class _Windows:
    """Which layers have one."""

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        return {
            "attention.sliding_window": config.integer("sliding_window"),
            "attention.sliding_window_pattern": [kind == SLIDING for kind in _types(config)],
        }

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        types = [SLIDING if has_window else FULL for has_window in settings.get("attention.sliding_window_pattern")]
        return {"sliding_window": settings.get("attention.sliding_window"), "layer_types": types}

    @property
    def defaults(self) -> Mapping[str, Value]:
        return {"sliding_window": 512}


class _Heads:
    """Sizes and key-value heads by kind of layer, published as such or, since 2026, layer by layer."""

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        types = _types(config)
        sizes, kv_heads = (
            self._by_layer(config, types) if config.has("per_layer_config") else self._by_kind(config, types)
        )
        size_of = dict(zip(types, sizes, strict=True))
        if any(size_of[kind] != size for kind, size in zip(types, sizes, strict=True)):
            raise config.unsupported("per_layer_config", "gives layers of one kind heads of different sizes")
        local = size_of.get(SLIDING, config.integer("head_dim"))
        return {
            "attention.head_count_kv": kv_heads[0] if len(set(kv_heads)) == 1 else kv_heads,
            "attention.key_length": size_of[FULL],
            "attention.value_length": size_of[FULL],
            "attention.key_length_swa": local,
            "attention.value_length_swa": local,
            "rope.dimension_count": size_of[FULL],
            "rope.dimension_count_swa": local,
        }

    @property
    def defaults(self) -> Mapping[str, Value]:
        return {"head_dim": 256, "global_head_dim": 512, "num_key_value_heads": 4}

    def _by_kind(self, config: PublishedConfig, types: list[object]) -> tuple[list[int], list[int]]:
        size, heads = config.integer("head_dim"), config.integer("num_key_value_heads")
        full_size, full_heads = (
            config.integer("global_head_dim"),
            config.integer("num_global_key_value_heads", heads),
        )
        if not config.flag("attention_k_eq_v", False):
            full_heads = heads
        sizes = [full_size if kind == FULL else size for kind in types]
        return sizes, [full_heads if kind == FULL else heads for kind in types]

    def _by_layer(self, config: PublishedConfig, types: list[object]) -> tuple[list[int], list[int]]:
        size, heads = config.integer("head_dim"), config.integer("num_key_value_heads")
        for key in ("attention_k_eq_v", "global_head_dim", "num_global_key_value_heads"):
            config.value(key)
        # Numbers are padded with zeros to one width: "05".
        names = {name.lstrip("0") or "0": name for name in config.keys("per_layer_config")}
        places = [f"per_layer_config.{names.pop(str(layer), layer)}" for layer in range(len(types))]
        if names:
            raise config.invalid("per_layer_config", f"has layers beyond the {len(types)} there are")
        for place in places:
            if unknown := config.keys(place) - {"head_dim", "num_key_value_heads"}:
                raise UnsupportedModelError(f"{place} has the unknown keys {', '.join(sorted(unknown))}")
        sizes = [config.integer(f"{place}.head_dim", size) for place in places]
        return sizes, [config.integer(f"{place}.num_key_value_heads", heads) for place in places]

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        for key in (
            "attention.value_length",
            "attention.value_length_swa",
            "rope.dimension_count",
            "rope.dimension_count_swa",
        ):
            settings.get(key)
        has_window = settings.get("attention.sliding_window_pattern")
        heads = settings.get("attention.head_count_kv")
        heads = heads if isinstance(heads, list) else [heads] * len(has_window)
        full = [layer for layer, windowed in enumerate(has_window) if not windowed]
        local = [layer for layer, windowed in enumerate(has_window) if windowed]
        return {
            "head_dim": settings.get("attention.key_length_swa"),
            "global_head_dim": settings.get("attention.key_length"),
            "num_key_value_heads": heads[(local or full)[0]],
            "num_global_key_value_heads": heads[full[0]],
            "attention_k_eq_v": not settings.has_tensor(f"blk.{full[0]}.attn_v.weight"),
        }


class _Mlps:
    """Of layers without keys of their own the dense MLP may be twice as wide."""

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        size, num_shared = config.integer("intermediate_size"), config.integer("num_kv_shared_layers", 0)
        sizes: Value = size
        if config.flag("use_double_wide_mlp", False):
            num_own = layer_count(config) - num_shared
            sizes = [size] * num_own + [2 * size] * num_shared
        return {"feed_forward_length": sizes, "attention.shared_kv_layers": num_shared}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        sizes = settings.get("feed_forward_length")
        is_list = isinstance(sizes, list)
        return {
            "intermediate_size": sizes[0] if is_list else sizes,
            "use_double_wide_mlp": is_list and sizes[-1] == 2 * sizes[0],
            "num_kv_shared_layers": settings.get("attention.shared_kv_layers", 0),
        }

    @property
    def defaults(self) -> Mapping[str, Value]:
        return {"intermediate_size": 9216}


class _Experts:
    """Those of the mixture."""

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        for key in ("num_experts", "top_k_experts", "moe_intermediate_size", "expert_intermediate_size"):
            config.value(key)
        if not config.flag("enable_moe_block", False):
            return {}
        size = "moe_intermediate_size" if config.has("moe_intermediate_size") else "expert_intermediate_size"
        return {
            "expert_count": config.integer("num_experts"),
            "expert_used_count": config.integer("top_k_experts"),
            "expert_feed_forward_length": config.integer(size),
        }

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        count = settings.get("expert_count", 0)
        return {
            "enable_moe_block": count > 0,
            "num_experts": count or None,
            "top_k_experts": settings.get("expert_used_count", 0) or None,
            "moe_intermediate_size": settings.get("expert_feed_forward_length", 0) or None,
        }


class _SideInputs:
    """Values that every layer gets of each token; null or 0 for none."""

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        return {"embedding_length_per_layer_input": config.integer("hidden_size_per_layer_input", 0)}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        return {"hidden_size_per_layer_input": settings.get("embedding_length_per_layer_input", 0)}

    @property
    def defaults(self) -> Mapping[str, Value]:
        return {"hidden_size_per_layer_input": 256}


class _SoftCap:
    """Of the logits; null for none."""

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        config.value("final_logit_softcapping")
        if not config.has("final_logit_softcapping"):
            return {}
        return {"final_logit_softcapping": rounded(config.number("final_logit_softcapping"))}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        cap = settings.get("final_logit_softcapping", 0.0)
        return {"final_logit_softcapping": shortest(cap) if cap else None}


def _full_rope(config: PublishedConfig) -> RopeReader:
    return RopeReader(config, _THETA, f"rope_parameters.{FULL}")


class _Ropes:
    """One for each kind of layer; in full attention only the first pairs of a head turn, as the factors say."""

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        full = _full_rope(config)
        local = RopeReader(config, _LOCAL_THETA, f"rope_parameters.{SLIDING}")
        if not local.is_plain() or local.number("partial_rotary_factor", 1.0) != 1:
            raise config.unsupported(f"rope_parameters.{SLIDING}", "changes the rope of layers with a window")
        return {"rope.freq_base": rounded(full.theta), "rope.freq_base_swa": rounded(local.theta)}

    @property
    def computed(self) -> tuple[ComputedTensor, ...]:
        """The factors."""
        return (ComputedTensor(FREQUENCY_FACTORS, _frequency_factors),)

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        factors = settings.tensor(FREQUENCY_FACTORS)
        if factors is None or not set(factors.tolist()) <= {1.0, float(np.float32(_NEVER_TURNS))}:
            raise UnsupportedModelError(f"{FREQUENCY_FACTORS} does not tell which pairs of a head turn")
        full = {
            "rope_type": "proportional",
            "partial_rotary_factor": float(np.count_nonzero(factors == 1) / len(factors)),
            "rope_theta": shortest(settings.get("rope.freq_base", _THETA)),
        }
        local = {"rope_theta": shortest(settings.get("rope.freq_base_swa", _LOCAL_THETA)), "rope_type": "default"}
        return {"rope_parameters": {FULL: full, SLIDING: local}}


def _frequency_factors(config: PublishedConfig) -> NDArray[np.float32]:
    """1 for pairs that turn, of which there are as many as the share says, and _NEVER_TURNS for the rest."""
    rope = _full_rope(config)
    if rope.kind not in ("proportional", "default"):
        raise UnsupportedModelError(f"rope_parameters.{FULL} of the type {rope.kind!r} is not supported")
    if rope.number("factor", 1.0) != 1:
        raise config.unsupported(f"rope_parameters.{FULL}", "stretches the context")
    usual = 1.0 if config.has("rope_parameters") else _PARTIAL
    share = usual if rope.kind == "default" else rope.number("partial_rotary_factor", usual)
    rope.refuse_unknown()
    if not 0 <= share <= 1:
        raise config.invalid(f"rope_parameters.{FULL}.partial_rotary_factor", "is not a share")
    head_dim = int(_Heads().to_gguf(config)["attention.key_length"])
    if head_dim > MAX_HEAD_DIM:
        raise config.invalid("global_head_dim", "is too large")
    pairs = head_dim // 2
    turning = int(share * 2 * pairs // 2)
    return np.array([1.0] * turning + [_NEVER_TURNS] * (pairs - turning), np.float32)


_LAYER, _BLOCK = "model.layers.{layer}", "blk.{layer}"

MAPPING = ModelMapping(
    model_type="gemma4_text",
    class_name="Gemma4ForCausalLM",
    architecture="gemma4",
    settings=(
        *decoder_settings(hidden_size=2304, mlp_size=None, num_layers=30, num_heads=8, context=131072),
        _Heads(),
        _Windows(),
        _Ropes(),
        _Mlps(),
        _Experts(),
        _SideInputs(),
        _SoftCap(),
        Only("hidden_activation", "gelu_pytorch_tanh"),
        Only("attention_bias", False),
        Only("use_bidirectional_attention", None, ("vision",)),
        Unused(("vocab_size_per_layer_input", "hidden_act")),
    ),
    tensors=(
        *ENDS,
        *PROJECTIONS,
        *HEAD_NORMS,
        TensorRule(f"{_LAYER}.input_layernorm", f"{_BLOCK}.attn_norm"),
        TensorRule(f"{_LAYER}.post_attention_layernorm", f"{_BLOCK}.post_attention_norm"),
        TensorRule(f"{_LAYER}.pre_feedforward_layernorm", f"{_BLOCK}.ffn_norm"),
        TensorRule(f"{_LAYER}.post_feedforward_layernorm", f"{_BLOCK}.post_ffw_norm"),
        *GATED_MLP,
        TensorRule(f"{_LAYER}.layer_scalar", f"{_BLOCK}.layer_output_scale.weight"),
        TensorRule("model.embed_tokens_per_layer", "per_layer_token_embd"),
        TensorRule("model.per_layer_model_projection", "per_layer_model_proj"),
        TensorRule("model.per_layer_projection_norm", "per_layer_proj_norm"),
        TensorRule(f"{_LAYER}.per_layer_input_gate", f"{_BLOCK}.inp_gate"),
        TensorRule(f"{_LAYER}.per_layer_projection", f"{_BLOCK}.proj"),
        TensorRule(f"{_LAYER}.post_per_layer_input_norm", f"{_BLOCK}.post_norm"),
        TensorRule(f"{_LAYER}.pre_feedforward_layernorm_2", f"{_BLOCK}.pre_ffw_norm_2"),
        TensorRule(f"{_LAYER}.post_feedforward_layernorm_1", f"{_BLOCK}.post_ffw_norm_1"),
        TensorRule(f"{_LAYER}.post_feedforward_layernorm_2", f"{_BLOCK}.post_ffw_norm_2"),
        TensorRule(f"{_LAYER}.router.proj.weight", f"{_BLOCK}.ffn_gate_inp.weight", AsFloats()),
        TensorRule(f"{_LAYER}.router.scale", f"{_BLOCK}.ffn_gate_inp.scale"),
        TensorRule(f"{_LAYER}.router.per_expert_scale", f"{_BLOCK}.ffn_down_exps.scale"),
        TensorRule(f"{_LAYER}.experts.gate_up_proj", f"{_BLOCK}.ffn_gate_up_exps.weight"),
        TensorRule(f"{_LAYER}.experts.down_proj", f"{_BLOCK}.ffn_down_exps.weight"),
    ),
    is_tied_by_default=True,
)
