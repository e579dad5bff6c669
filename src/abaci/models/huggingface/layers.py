"""Which layers attend to a window and which to everything: what published configurations say, and GGUF."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from abaci.models.gguf_config import MAX_LAYERS
from abaci.models.huggingface.mapping import Gguf, Value, default_of
from abaci.models.huggingface.published_config import PublishedConfig

FULL = "full_attention"
SLIDING = "sliding_attention"


def layer_count(config: PublishedConfig) -> int:
    """How many layers there are, for lists of what each is. Raises FileFormatError."""
    num_layers = config.integer("num_hidden_layers")
    if not 1 <= num_layers <= MAX_LAYERS:
        raise config.invalid("num_hidden_layers", f"is not between 1 and {MAX_LAYERS}")
    return num_layers


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
        elif first_layer >= config.integer("num_hidden_layers"):
            uses_window = False
        if uses_window:
            raise config.unsupported("use_sliding_window", "asks for a sliding window, which this type has nowhere")
        return {}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        return {"use_sliding_window": False, "sliding_window": None}


@dataclass(frozen=True, slots=True)
class Window:
    """One window in all layers, or none: null, or left out where `default` is None. `none` is GGUF's way to say so."""

    default: int | None
    none: int | None = None

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        if config.has("layer_types") and set(config.items("layer_types")) > {FULL}:
            raise config.unsupported("layer_types", "gives layers of this type different windows")
        if config.value("sliding_window") is not None:
            return {"attention.sliding_window": config.integer("sliding_window")}
        return {} if self.none is None else {"attention.sliding_window": self.none}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        return {"sliding_window": settings.get("attention.sliding_window") or None}

    @property
    def defaults(self) -> Mapping[str, Value]:
        return default_of("sliding_window", self.default)


class Pattern(Enum):
    """How GGUF says which layers have a window, where these are all but every n-th; else it lists them."""

    PERIOD = "period"
    LIST = "list"
    IMPLIED = "implied"


@dataclass(frozen=True, slots=True)
class WindowedLayers:
    """A window in some layers, mostly all but every n-th; published as the type of each layer, or as the period.

    GGUF names the window, and the layers that have one as `pattern` says.
    """

    default_window: int
    default_period: int
    pattern: Pattern

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        window = {"attention.sliding_window": config.integer("sliding_window")}
        types, period = self._types(config)
        is_periodic = types == _types(len(types), period)
        if self.pattern is Pattern.IMPLIED and is_periodic and period == self.default_period:
            return window
        in_brief = self.pattern is Pattern.PERIOD and is_periodic
        named = period if in_brief else [kind == SLIDING for kind in types]
        return {**window, "attention.sliding_window_pattern": named}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        named = settings.get("attention.sliding_window_pattern", self.default_period)
        num_layers = settings.get("block_count")
        types = _types(num_layers, named) if isinstance(named, int) else [SLIDING if has else FULL for has in named]
        return {"sliding_window": settings.get("attention.sliding_window"), "layer_types": types}

    @property
    def defaults(self) -> Mapping[str, Value]:
        return {"sliding_window": self.default_window}

    def _types(self, config: PublishedConfig) -> tuple[list[object], int]:
        """Of every layer, and the period if they have one."""
        period = self.default_period
        for key in ("sliding_window_pattern", "_sliding_window_pattern"):
            period = config.integer(key, period)
            if period < 1:
                raise config.invalid(key, "is no period of layers")
        num_layers = layer_count(config)
        types = config.items("layer_types", _types(num_layers, period))
        if len(types) != num_layers or any(kind not in (FULL, SLIDING) for kind in types):
            raise config.unsupported("layer_types", f"is not {FULL} or {SLIDING} for each layer")
        return types, types.index(FULL) + 1 if FULL in types else num_layers + 1


def _types(num_layers: int, period: int) -> list[object]:
    return [FULL if (layer + 1) % period == 0 else SLIDING for layer in range(num_layers)]
