"""SmolLM3: Llama whose every fourth layer does not rotate."""

from collections.abc import Mapping

from abaci.models.huggingface.dense import ENDS, GATED_MLP, NORMS, PAIRED_PROJECTIONS, decoder_settings
from abaci.models.huggingface.layers import FullAttentionOnly, layer_count
from abaci.models.huggingface.mapping import Gguf, HeadSizes, KeyValueHeads, ModelMapping, Only, Present, Value
from abaci.models.huggingface.published_config import PublishedConfig
from abaci.models.huggingface.rope import Rope

_PERIOD = 4


class _UnrotatedLayers:
    """GGUF takes every fourth for granted."""

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        usual = self._usual(layer_count(config))
        period = config.integer("no_rope_layer_interval", _PERIOD)
        if config.items("no_rope_layers", usual) != usual or (period != _PERIOD and not config.has("no_rope_layers")):
            raise config.unsupported("no_rope_layers", "is not every fourth layer, which GGUF takes for granted")
        return {}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        return {"no_rope_layer_interval": _PERIOD, "no_rope_layers": self._usual(settings.get("block_count"))}

    def _usual(self, num_layers: int) -> list[object]:
        """One for each layer that rotates."""
        return [int((layer + 1) % _PERIOD != 0) for layer in range(num_layers)]


MAPPING = ModelMapping(
    model_type="smollm3",
    class_name="SmolLM3ForCausalLM",
    architecture="smollm3",
    settings=(
        *decoder_settings(hidden_size=2048, mlp_size=11008, num_layers=36, num_heads=16, context=32768),
        KeyValueHeads(4),
        HeadSizes(),
        Rope(theta=2000000.0),
        _UnrotatedLayers(),
        FullAttentionOnly(),
        Only("hidden_act", "silu"),
        Present("attention_bias", "blk.0.attn_q.bias"),
        Present("mlp_bias", "blk.0.ffn_gate.bias"),
    ),
    tensors=(*ENDS, *PAIRED_PROJECTIONS, *NORMS, *GATED_MLP),
    is_tied_by_default=True,
)
