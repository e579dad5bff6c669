"""Which layers attend to a window and which to everything: what published configurations say, and GGUF."""

from collections.abc import Mapping
from dataclasses import dataclass

from abaci.models.huggingface.mapping import Gguf, Value
from abaci.models.huggingface.published_config import PublishedConfig

FULL = "full_attention"
SLIDING = "sliding_attention"


@dataclass(frozen=True, slots=True)
class FullAttentionOnly:
    """Models that could have a window in some layers, and are published without."""

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        uses_window = config.flag("use_sliding_window", False)
        first_layer = config.integer("max_window_layers", 0)
        for key in ("sliding_window", "layer_types"):
            config.value(key)
        if config.has("layer_types"):
            uses_window = set(config.items("layer_types")) != {FULL}
        elif first_layer >= config.integer("num_hidden_layers", 0):
            uses_window = False
        if uses_window:
            raise config.unsupported("use_sliding_window", "asks for a sliding window, which this type has nowhere")
        return {}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        return {"use_sliding_window": False, "sliding_window": None}


@dataclass(frozen=True, slots=True)
class WindowPattern:
    """A window in all layers but every n-th. GGUF is given the period where it has a name for it."""

    default_window: int
    default_period: int
    published_period: tuple[str, ...] = ("sliding_window_pattern", "_sliding_window_pattern")

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        window = config.integer("sliding_window", self.default_window)
        return {"attention.sliding_window": window, "attention.sliding_window_pattern": self._period(config)}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        period = settings.get("attention.sliding_window_pattern", self.default_period)
        num_layers = settings.get("block_count")
        return {
            "sliding_window": settings.get("attention.sliding_window"),
            "layer_types": _types(num_layers, period),
        }

    def _period(self, config: PublishedConfig) -> int:
        period = self.default_period
        for key in self.published_period:
            period = config.integer(key, period)
        if not config.has("layer_types"):
            return period
        types = config.items("layer_types")
        period = types.index(FULL) + 1 if FULL in types else len(types) + 1
        if types != _types(len(types), period):
            raise config.unsupported("layer_types", "is not a window in all layers but every n-th")
        return period


def _types(num_layers: int, period: int) -> list[str]:
    return [FULL if (layer + 1) % period == 0 else SLIDING for layer in range(num_layers)]
