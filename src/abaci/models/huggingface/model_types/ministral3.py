"""Ministral 3 and what is built alike: Mistral with YaRN and queries that grow with their position."""

from collections.abc import Mapping

from abaci.models.huggingface.dense import ENDS, GATED_MLP, NORMS, PAIRED_PROJECTIONS, decoder_settings
from abaci.models.huggingface.layers import Window
from abaci.models.huggingface.mapping import (
    Gguf,
    HeadSizes,
    KeyValueHeads,
    ModelMapping,
    Only,
    Value,
    rounded,
    shortest,
)
from abaci.models.huggingface.published_config import PublishedConfig
from abaci.models.huggingface.rope import Rope, RopeReader

_STRETCHED = {
    "rope_type": "yarn",
    "rope_theta": 1000000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}


class _GrowingRope:
    """YaRN, beside `llama_4_scaling_beta`: by how much queries grow."""

    rope = Rope(theta=1000000.0, log_multiplier=1.0, default=_STRETCHED)
    computed = rope.computed
    defaults = rope.defaults

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        beta = RopeReader(config, self.rope.theta).number("llama_4_scaling_beta", 0.0)
        return {**self.rope.to_gguf(config), "attention.temperature_scale": rounded(beta)}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        parameters = self.rope.to_published(settings)["rope_parameters"]
        beta = shortest(settings.get("attention.temperature_scale", 0.0))
        return {"rope_parameters": {**parameters, "llama_4_scaling_beta": beta}}


MAPPING = ModelMapping(
    model_type="ministral3",
    class_name="Ministral3ForCausalLM",
    architecture="mistral3",
    settings=(
        *decoder_settings(hidden_size=4096, mlp_size=14336, num_layers=34, num_heads=32, context=262144, epsilon=1e-5),
        KeyValueHeads(8),
        HeadSizes(128),
        _GrowingRope(),
        Window(None),
        Only("hidden_act", "silu"),
    ),
    tensors=(*ENDS, *PAIRED_PROJECTIONS, *NORMS, *GATED_MLP),
)
