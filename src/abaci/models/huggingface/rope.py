"""Rotary position settings: what published configurations call them, old and new, and what GGUF does.

Older files have `rope_theta` and `rope_scaling`, newer ones `rope_parameters` that holds both. Scaling of the type
`llama3` (Llama 3.1) has no settings in GGUF: its effect is a table of factors by which each pair turns more slowly.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from abaci.errors import UnsupportedModelError
from abaci.models.huggingface.mapping import Gguf, Value, rounded, shortest
from abaci.models.huggingface.published_config import PublishedConfig

FREQUENCY_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True, slots=True)
class Rope:
    """One rope for all layers. `theta` is the base where the file gives none."""

    theta: float = 10000.0

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        rope = RopeReader(config, self.theta)
        return {"rope.freq_base": rounded(rope.theta), **rope.dimensions(), **rope.scaling()}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        parameters = {"rope_theta": shortest(settings.get("rope.freq_base", self.theta))}
        return {"rope_parameters": parameters | _dimensions(settings) | _scaling(settings)}


class RopeReader:
    """The rope part of a `config.json`; every key inside is read or refused."""

    def __init__(self, config: PublishedConfig, default_theta: float, within: str | None = None) -> None:
        """`within` is the object that holds the parameters, where layers of different kinds have their own."""
        self._config = config
        self._place = within or ("rope_parameters" if config.has("rope_parameters") else "rope_scaling")
        self._known = {"rope_theta", "rope_type", "type", "partial_rotary_factor"}
        config.keys(self._place)
        self.theta = config.number(f"{self._place}.rope_theta", config.number("rope_theta", default_theta))
        self.kind = config.text(f"{self._place}.rope_type", config.text(f"{self._place}.type", "default"))

    def number(self, key: str, default: float | None = None) -> float:
        """A number inside."""
        self._known.add(key)
        return self._config.number(f"{self._place}.{key}", default)

    def has(self, key: str) -> bool:
        return self._config.has(f"{self._place}.{key}")

    def dimensions(self) -> Mapping[str, Value]:
        """How much of each head turns."""
        factor = self.number("partial_rotary_factor", self._config.number("partial_rotary_factor", 1.0))
        head_dim = self._config.value("head_dim")
        if not isinstance(head_dim, int):
            head_dim = self._config.integer("hidden_size") // max(1, self._config.integer("num_attention_heads"))
        return {"rope.dimension_count": int(head_dim * factor)}

    def scaling(self) -> Mapping[str, Value]:
        """`rope.scaling.*`; Llama 3's comes as a tensor instead. Raises UnsupportedModelError for an unknown type."""
        read = {"default": _nothing, "dynamic": self._dynamic, "linear": self._linear, "yarn": self._yarn}
        if self.kind == "llama3":
            self.frequency_factors(2)
            settings: Mapping[str, Value] = {}
        elif self.kind in read:
            settings = read[self.kind]()
        else:
            raise UnsupportedModelError(f"{self._place} of the type {self.kind!r} is not supported")
        if unknown := sorted(self._config.keys(self._place) - self._known):
            raise UnsupportedModelError(f"{self._place} has the unknown keys {', '.join(unknown)}")
        return settings

    def _dynamic(self) -> Mapping[str, Value]:
        # Stretches only texts longer than max_position_embeddings, beyond which no context goes here.
        self.number("factor", 1.0)
        return {}

    def _linear(self) -> Mapping[str, Value]:
        return {"rope.scaling.type": "linear", "rope.scaling.factor": rounded(self.number("factor"))}

    def _yarn(self) -> Mapping[str, Value]:
        self._known.update({"max_position_embeddings", "finetuned"})
        context = self._config.integer("max_position_embeddings")
        settings: dict[str, Value] = {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": rounded(self.number("factor")),
            "rope.scaling.original_context_length": int(self.number("original_max_position_embeddings", context)),
        }
        for published, gguf in _YARN_NUMBERS.items():
            if self.has(published):
                settings[f"rope.scaling.{gguf}"] = rounded(self.number(published))
        return settings

    def frequency_factors(self, dim: int) -> NDArray[np.float32] | None:
        """For `llama3`: how much slower than plain rope each of the dim/2 pairs turns."""
        if self.kind != "llama3":
            return None
        stretch = Llama3Stretch(
            factor=self.number("factor"),
            low=self.number("low_freq_factor"),
            high=self.number("high_freq_factor"),
            context=self.number("original_max_position_embeddings"),
        )
        if not (stretch.factor > 0 and stretch.context > 0 and stretch.high > stretch.low):
            raise self._config.invalid(self._place, "makes no sense")
        return stretch.factors(self.theta, dim)


_YARN_NUMBERS = {
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
    "attention_factor": "attn_factor",
}


def _nothing() -> Mapping[str, Value]:
    return {}


@dataclass(frozen=True, slots=True)
class Llama3Stretch:
    """Llama 3.1's scaling: long waves are stretched by `factor`, short ones left, those between blended.

    A wave is long beyond context/low tokens and short below context/high.
    """

    factor: float
    low: float
    high: float
    context: float

    def factors(self, theta: float, dim: int) -> NDArray[np.float32]:
        """(dim/2,) divisors of the frequencies, computed in float64."""
        frequencies = theta ** -(np.arange(0, dim, 2) / dim)
        waves_in_context = self.context * frequencies / (2 * math.pi)
        share = np.clip((waves_in_context - self.low) / (self.high - self.low), 0.0, 1.0)
        return (1 / ((1 - share) / self.factor + share)).astype(np.float32)


def frequency_factors(config: PublishedConfig) -> NDArray[np.float32] | None:
    """The table of `rope_freqs.weight`, for models whose rope is `Rope`."""
    rope = RopeReader(config, 10000.0)
    return rope.frequency_factors(rope.dimensions()["rope.dimension_count"])


def _dimensions(settings: Gguf) -> dict[str, Value]:
    dim = settings.get("rope.dimension_count")
    head_dim = settings.get(
        "attention.key_length", settings.get("embedding_length") // settings.get("attention.head_count")
    )
    return {} if dim in (None, head_dim) else {"partial_rotary_factor": dim / head_dim}


def _scaling(settings: Gguf) -> dict[str, Value]:
    kind = settings.get("rope.scaling.type", "none")
    if kind == "none":
        return {"rope_type": "default"}
    parameters = {"rope_type": kind, "factor": shortest(settings.get("rope.scaling.factor"))}
    if kind == "yarn":
        original = settings.get("rope.scaling.original_context_length")
        parameters |= {} if original is None else {"original_max_position_embeddings": original}
        for published, gguf in _YARN_NUMBERS.items():
            value = settings.get(f"rope.scaling.{gguf}")
            parameters |= {} if value is None else {published: shortest(value)}
    return parameters
