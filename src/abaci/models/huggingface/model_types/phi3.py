"""Phi-3, Phi-3.5 and Phi-4. Matrices that are fused as published are fused in GGUF too.

Long contexts have a factor per frequency: one set within the original context, one beyond it, and a magnitude.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from abaci.errors import UnsupportedModelError
from abaci.models.huggingface.dense import ENDS, NORMS, PROJECTIONS, decoder_settings
from abaci.models.huggingface.layers import Window
from abaci.models.huggingface.mapping import (
    ComputedTensor,
    Gguf,
    HeadSizes,
    KeyValueHeads,
    ModelMapping,
    Only,
    TensorRule,
    Unused,
    Value,
    rounded,
    shortest,
)
from abaci.models.huggingface.published_config import PublishedConfig
from abaci.models.huggingface.rope import RopeReader

_CONTEXT = 4096
_LONG_TYPES = ("longrope", "su", "yarn")
"""The original takes the last two, of its early files, for the first, and refuses every other stretch."""


class _LongRope:
    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        rope = RopeReader(config, 10000.0)
        settings: dict[str, Value] = {
            "rope.freq_base": rounded(rope.theta),
            "rope.dimension_count": rope.dimensions(1.0),
            "rope.scaling.original_context_length": _original_context(config, rope),
        }
        if rope.kind not in _LONG_TYPES:
            if rope.kind != "default":
                raise UnsupportedModelError(f"a rope of the type {rope.kind!r} is not supported for this type of model")
            return {**settings, **rope.scaling()}
        settings["rope.scaling.attn_factor"] = rounded(_magnitude(config, rope))
        rope.numbers("short_factor")
        rope.numbers("long_factor")
        rope.refuse_unknown()
        return settings

    @property
    def computed(self) -> tuple[ComputedTensor, ...]:
        """Both sets of factors."""
        return (
            ComputedTensor("rope_factors_short.weight", _factors("short_factor")),
            ComputedTensor("rope_factors_long.weight", _factors("long_factor")),
        )

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        head_dim = settings.get("embedding_length") // settings.get("attention.head_count")
        dim, original = settings.get("rope.dimension_count"), settings.get("rope.scaling.original_context_length")
        parameters: dict[str, Value] = {
            "rope_theta": shortest(settings.get("rope.freq_base", 10000.0)),
            "partial_rotary_factor": 1.0 if dim is None else dim / head_dim,
            "rope_type": "default",
        }
        short, long = settings.tensor("rope_factors_short.weight"), settings.tensor("rope_factors_long.weight")
        magnitude = settings.get("rope.scaling.attn_factor")
        if long is not None and short is not None:
            parameters |= {
                "rope_type": "longrope",
                "short_factor": [shortest(value) for value in short],
                "long_factor": [shortest(value) for value in long],
                "original_max_position_embeddings": original,
                "attention_factor": shortest(magnitude),
            }
        return {"rope_parameters": parameters, "original_max_position_embeddings": original}


def _original_context(config: PublishedConfig, rope: RopeReader) -> int:
    original = config.integer("original_max_position_embeddings", config.integer("max_position_embeddings"))
    return int(rope.number("original_max_position_embeddings", original))


def _magnitude(config: PublishedConfig, rope: RopeReader) -> float:
    """What queries and keys are multiplied with: the root of one plus the logarithm of the stretch, to base context."""
    original = _original_context(config, rope)
    stretch = rope.number("factor", config.integer("max_position_embeddings") / original)
    usual = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
    return rope.number("attention_factor", usual)


def _factors(key: str) -> Callable[[PublishedConfig], NDArray[np.float32] | None]:
    def compute(config: PublishedConfig) -> NDArray[np.float32] | None:
        rope = RopeReader(config, 10000.0)
        return np.array(rope.numbers(key), np.float32) if rope.kind in _LONG_TYPES else None

    return compute


MAPPING = ModelMapping(
    model_type="phi3",
    class_name="Phi3ForCausalLM",
    architecture="phi3",
    settings=(
        *decoder_settings(hidden_size=3072, mlp_size=8192, num_layers=32, num_heads=32, context=_CONTEXT, epsilon=1e-5),
        KeyValueHeads(),
        HeadSizes(),
        _LongRope(),
        Window(None, none=0),
        Only("hidden_act", "silu"),
        Only("attention_bias", False),
        Unused(("lm_head_bias", "mlp_bias", "full_attn_mod", "interpolate_factor")),
    ),
    tensors=(
        *ENDS,
        TensorRule("model.layers.{layer}.self_attn.qkv_proj", "blk.{layer}.attn_qkv"),
        PROJECTIONS[3],
        *NORMS,
        TensorRule("model.layers.{layer}.mlp.gate_up_proj", "blk.{layer}.ffn_up"),
        TensorRule("model.layers.{layer}.mlp.down_proj", "blk.{layer}.ffn_down"),
    ),
)
