"""Gemma 3, the text model. Its norms are published as differences from one."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from abaci.models.huggingface.changes import AddOne
from abaci.models.huggingface.dense import ENDS, GATED_MLP, HEAD_NORMS, PROJECTIONS, decoder_settings
from abaci.models.huggingface.layers import FULL, SLIDING, Pattern, WindowedLayers
from abaci.models.huggingface.llama3_stretch import FREQUENCY_FACTORS
from abaci.models.huggingface.mapping import (
    ComputedTensor,
    Gguf,
    HeadSizes,
    KeyValueHeads,
    ModelMapping,
    Only,
    Present,
    TensorRule,
    Unused,
    Value,
    head_dim_of,
    rounded,
    shortest,
)
from abaci.models.huggingface.published_config import PublishedConfig
from abaci.models.huggingface.rope import Rope, RopeReader, full_rope

_THETA = 1000000.0
_LOCAL_THETA = 10000.0
_NUM_LAYERS_27B = 62


class _Ropes:
    """Layers with a window have a rope of their own: a base, never stretched."""

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        full = full_rope(config, _THETA)
        full.dimensions()
        if config.has(f"rope_parameters.{FULL}"):
            local = RopeReader(config, _LOCAL_THETA, f"rope_parameters.{SLIDING}")
            local.dimensions()
            if not local.is_plain():
                raise config.unsupported("rope_parameters", "stretches the layers with a window")
            local_theta = local.theta
        else:
            local_theta = config.number("rope_local_base_freq", _LOCAL_THETA)
        return {"rope.freq_base_swa": rounded(local_theta), **full.turning()}

    @property
    def computed(self) -> tuple[ComputedTensor, ...]:
        """The table of `llama3`."""
        return (ComputedTensor(FREQUENCY_FACTORS, _frequency_factors),)

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        full = Rope(_THETA).parameters(settings)
        local = {"rope_theta": shortest(settings.get("rope.freq_base_swa", _LOCAL_THETA)), "rope_type": "default"}
        return {"rope_parameters": {FULL: full, SLIDING: local}}


def _frequency_factors(config: PublishedConfig) -> NDArray[np.float32] | None:
    return full_rope(config, _THETA).frequency_factors(head_dim_of(config))


class _ScoreScale:
    """`query_pre_attn_scalar`: GGUF has no name for it, but the 27B model's differs from the head size."""

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        expected = head_dim_of(config)
        if config.integer("num_hidden_layers") == _NUM_LAYERS_27B:
            expected = config.integer("hidden_size") // config.integer("num_attention_heads")
        if config.number("query_pre_attn_scalar", 256) != expected:
            raise config.unsupported("query_pre_attn_scalar", f"is not {expected}, which GGUF takes for granted")
        return {}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        if settings.get("block_count") == _NUM_LAYERS_27B:
            return {"query_pre_attn_scalar": settings.get("embedding_length") // settings.get("attention.head_count")}
        return {"query_pre_attn_scalar": settings.get("attention.key_length")}


_NORMS = (
    TensorRule("model.layers.{layer}.input_layernorm", "blk.{layer}.attn_norm", AddOne()),
    TensorRule("model.layers.{layer}.post_attention_layernorm", "blk.{layer}.post_attention_norm", AddOne()),
    TensorRule("model.layers.{layer}.pre_feedforward_layernorm", "blk.{layer}.ffn_norm", AddOne()),
    TensorRule("model.layers.{layer}.post_feedforward_layernorm", "blk.{layer}.post_ffw_norm", AddOne()),
)

MAPPING = ModelMapping(
    model_type="gemma3_text",
    class_name="Gemma3ForCausalLM",
    architecture="gemma3",
    settings=(
        *decoder_settings(hidden_size=2304, mlp_size=9216, num_layers=26, num_heads=8, context=131072),
        KeyValueHeads(4),
        HeadSizes(256),
        _Ropes(),
        _ScoreScale(),
        WindowedLayers(default_window=4096, default_period=6, pattern=Pattern.PERIOD),
        Only("hidden_activation", "gelu_pytorch_tanh"),
        Present("attention_bias", "blk.0.attn_q.bias"),
        Only("attn_logit_softcapping", None),
        Only("final_logit_softcapping", None),
        Only("use_bidirectional_attention", False),
        Unused(("cache_implementation", "hidden_act")),
    ),
    tensors=(
        *(replace(rule, change=AddOne()) if rule.published == "model.norm" else rule for rule in ENDS),
        *PROJECTIONS,
        *(replace(rule, change=AddOne()) for rule in HEAD_NORMS),
        *_NORMS,
        *GATED_MLP,
    ),
    is_tied_by_default=True,
)
