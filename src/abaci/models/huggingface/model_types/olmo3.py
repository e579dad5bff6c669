"""OLMo 3: norms behind the blocks, a sliding window in three layers of four; YaRN only where there is none."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

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
    TensorRule,
    Value,
    shortest,
)
from abaci.models.huggingface.published_config import PublishedConfig
from abaci.models.huggingface.rope import Rope, RopeReader, full_rope

_THETA = 500000.0


class _Ropes:
    """Published once for all layers or for each kind; layers with a window are never stretched."""

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        full = full_rope(config, _THETA)
        if config.has(f"rope_parameters.{FULL}"):
            local = RopeReader(config, _THETA, f"rope_parameters.{SLIDING}")
            if not local.is_plain() or local.theta != full.theta or local.dimensions() != full.dimensions():
                raise config.unsupported("rope_parameters", "gives layers with a window a rope that GGUF cannot name")
        return {"rope.dimension_count": full.dimensions(), **full.turning()}

    @property
    def computed(self) -> tuple[ComputedTensor, ...]:
        """The table of `llama3`."""
        return (ComputedTensor(FREQUENCY_FACTORS, _frequency_factors),)

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        full = Rope(_THETA).to_published(settings)["rope_parameters"]
        local = {"rope_theta": shortest(settings.get("rope.freq_base", _THETA)), "rope_type": "default"}
        return {"rope_parameters": {FULL: full, SLIDING: local}}


def _frequency_factors(config: PublishedConfig) -> NDArray[np.float32] | None:
    rope = full_rope(config, _THETA)
    return rope.frequency_factors(rope.dimensions())


MAPPING = ModelMapping(
    model_type="olmo3",
    class_name="Olmo3ForCausalLM",
    architecture="olmo2",
    settings=(
        *decoder_settings(hidden_size=4096, mlp_size=11008, num_layers=32, num_heads=32, context=2048, epsilon=1e-5),
        KeyValueHeads(),
        HeadSizes(),
        _Ropes(),
        WindowedLayers(default_window=4096, default_period=4, pattern=Pattern.LIST),
        Only("hidden_act", "silu"),
        Only("attention_bias", False),
    ),
    tensors=(
        *ENDS,
        *PROJECTIONS,
        *HEAD_NORMS,
        TensorRule("model.layers.{layer}.post_attention_layernorm", "blk.{layer}.post_attention_norm"),
        TensorRule("model.layers.{layer}.post_feedforward_layernorm", "blk.{layer}.post_ffw_norm"),
        *GATED_MLP,
    ),
)
