"""Rotary position settings: what published configurations call them, old and new, and what GGUF does.

Older files have `rope_theta` and `rope_scaling`, newer ones `rope_parameters` that holds both. Scaling of the type
`llama3` (Llama 3.1) has no settings in GGUF: its effect is a table of factors by which each pair turns more slowly.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from abaci.errors import UnsupportedModelError
from abaci.models.huggingface.layers import FULL
from abaci.models.huggingface.llama3_stretch import FREQUENCY_FACTORS, Llama3Stretch
from abaci.models.huggingface.mapping import ComputedTensor, Gguf, Value, head_dim_of, rounded, shortest
from abaci.models.huggingface.published_config import PublishedConfig

_PARAMETERS = "rope_parameters"
_OLDER = "rope_scaling"
_CONTEXT = "max_position_embeddings"
_SHARE = "partial_rotary_factor"
_TRUNCATE = "rope.scaling.yarn_truncate"
_LARGEST = 1e12
"""No base or factor comes near it."""
MAX_HEAD_DIM = 1 << 16
"""Beyond it no table of factors is made."""
_YARN_NUMBERS = {"beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"}
_HARMLESS = frozenset({"max_position_embeddings", "finetuned", "mrope_section", "mrope_interleaved"})
"""Inside the parameters: repeated from elsewhere, or without effect on text."""


@dataclass(frozen=True, slots=True)
class Rope:
    """One rope for all layers.

    theta                    the base where the file gives none.
    partial                  of each head, what turns where the file does not say; None where heads of the type turn
                             whole, whatever the file says.
    log_multiplier           of YaRN's `mscale_all_dim`, to make GGUF's `yarn_log_multiplier`; 0 where the scores of
                             the type do not grow by it.
    truncates                whether YaRN rounds the ends of its ramp to whole dimensions in GGUF's architecture.
    default                  the parameters where the file has none at all.
    """

    theta: float = 10000.0
    partial: float | None = None
    log_multiplier: float = 0.0
    truncates: bool = True
    default: Mapping[str, Value] = field(default_factory=dict)

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        rope = RopeReader(config, self.theta)
        return {"rope.dimension_count": rope.dimensions(self.partial), **rope.turning(self)}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        return {_PARAMETERS: self.parameters(settings) | self._share(settings)}

    def parameters(self, settings: Gguf) -> dict[str, Value]:
        """What stands inside of `rope_parameters`, without how much of a head turns."""
        theta = shortest(settings.get("rope.freq_base", self.theta))
        factors = settings.tensor(FREQUENCY_FACTORS)
        scaling = self._scaling(settings) if factors is None else Llama3Stretch.of(factors, theta).to_published()
        return {"rope_theta": theta} | scaling

    @property
    def defaults(self) -> Mapping[str, Value]:
        return {_PARAMETERS: self.default}

    @property
    def computed(self) -> tuple[ComputedTensor, ...]:
        """The table of `llama3`."""

        def factors(config: PublishedConfig) -> NDArray[np.float32] | None:
            rope = RopeReader(config, self.theta)
            return rope.frequency_factors(rope.dimensions(self.partial))

        return (ComputedTensor(FREQUENCY_FACTORS, factors),)

    def _share(self, settings: Gguf) -> dict[str, Value]:
        dim = settings.get("rope.dimension_count")
        plain = settings.get("embedding_length") // settings.get("attention.head_count")
        head_dim = settings.get("attention.key_length", plain)
        if dim in (None, head_dim):
            return {}
        if self.partial is None:
            raise UnsupportedModelError(f"rope.dimension_count = {dim} has no name where whole heads turn")
        return {_SHARE: dim / head_dim}

    def _scaling(self, settings: Gguf) -> dict[str, Value]:
        kind = settings.get("rope.scaling.type", "linear")
        factor = shortest(settings.get("rope.scaling.factor", settings.get("rope.scale_linear", 1.0)))
        if kind == "none" or (kind == "linear" and factor == 1):
            return {"rope_type": "default"}
        if kind == "yarn":
            return {"rope_type": kind, "factor": factor} | self._yarn(settings, factor)
        if kind == "linear":
            return {"rope_type": kind, "factor": factor}
        raise UnsupportedModelError(f"rope.scaling.type {kind!r} has no name in config.json")

    def _yarn(self, settings: Gguf, factor: float) -> dict[str, Value]:
        parameters: dict[str, Value] = {}
        original = settings.get("rope.scaling.original_context_length")
        parameters |= {} if original is None else {"original_max_position_embeddings": original}
        for published, gguf in _YARN_NUMBERS.items():
            value = settings.get(f"rope.scaling.{gguf}")
            parameters |= {} if value is None else {published: shortest(value)}
        if not settings.get(_TRUNCATE, self.truncates):
            parameters["truncate"] = False
        multiplier = settings.get("rope.scaling.yarn_log_multiplier", 0.0)
        usual = _growth(factor)
        if multiplier and self.log_multiplier:
            all_dim = shortest(multiplier / self.log_multiplier)
            parameters |= {"mscale": all_dim, "mscale_all_dim": all_dim}
            usual = 1.0
        magnitude = usual * settings.get("rope.scaling.attn_factor", 1.0)
        magnitude = settings.get("rope.scaling.yarn_attn_factor", magnitude)
        return parameters if magnitude == usual else parameters | {"attention_factor": shortest(magnitude)}


class RopeReader:
    """The rope part of a `config.json`; every key inside is read or refused."""

    def __init__(self, config: PublishedConfig, default_theta: float, within: str | None = None) -> None:
        """`within` is the object that holds the parameters, where layers of different kinds have their own."""
        self._config = config
        has_older = config.has(_OLDER) and not config.has(_PARAMETERS)
        self._place = within or (_OLDER if has_older else _PARAMETERS)
        if not config.has(_OLDER):
            config.keys(_OLDER)
        self._known = {"rope_theta", "rope_type", "type", _SHARE, *_HARMLESS}
        config.keys(self._place)
        self.theta = config.number(f"{self._place}.rope_theta", config.number("rope_theta", default_theta))
        self.kind = config.text(f"{self._place}.rope_type", config.text(f"{self._place}.type", "default"))

    def number(self, key: str, default: float | None = None) -> float:
        """A number inside."""
        self._known.add(key)
        return self._config.number(f"{self._place}.{key}", default)

    def numbers(self, key: str) -> list[float]:
        """A list of finite numbers inside."""
        self._known.add(key)
        return self._config.numbers(f"{self._place}.{key}")

    def has(self, key: str) -> bool:
        return self._config.value(f"{self._place}.{key}") is not None

    def dimensions(self, partial: float | None = None) -> int:
        """How many values of each head turn: `partial` of them where the file does not say; None is as in `Rope`."""
        head_dim = head_dim_of(self._config)
        if partial is None:
            self._check_whole()
            return head_dim
        share = self.number(_SHARE, self._config.number(_SHARE, partial))
        if not 0 <= share <= 1:
            raise self._config.invalid(f"{self._place}.{_SHARE}" if self.has(_SHARE) else _SHARE, "is not a share")
        return int(head_dim * share)

    def _check_whole(self) -> None:
        """Heads turn whole: the original does so whatever the file says, and fails only where it stretches as well."""
        for key in (f"{self._place}.{_SHARE}", _SHARE):
            if self._config.number(key, 1.0) != 1:
                if self.kind != "default":
                    raise self._config.unsupported(key, "is not what this type of model does, whose heads turn whole")
                self._config.pass_over(key)

    def turning(self, rule: Rope | None = None) -> Mapping[str, Value]:
        """The base and `rope.scaling.*`."""
        return {"rope.freq_base": rounded(self.theta), **self.scaling(rule)}

    def is_plain(self) -> bool:
        """Whether nothing is stretched. Raises UnsupportedModelError as `scaling`."""
        return not self.scaling() and self.kind != "llama3"

    def scaling(self, rule: Rope | None = None) -> Mapping[str, Value]:
        """`rope.scaling.*`; Llama 3's comes as a tensor instead. Raises UnsupportedModelError for an unknown type."""
        if self.kind == "default":
            settings: Mapping[str, Value] = {}
        elif self.kind == "dynamic":
            # Stretches only texts longer than max_position_embeddings, beyond which no context goes here.
            self.number("factor", 1.0)
            settings = {}
        elif self.kind == "llama3":
            self.frequency_factors(2)
            settings = {}
        elif self.kind == "linear":
            settings = {"rope.scaling.type": "linear", "rope.scaling.factor": rounded(self.number("factor"))}
        elif self.kind == "yarn":
            settings = self._yarn(rule or Rope())
        else:
            raise UnsupportedModelError(f"{self._place} of the type {self.kind!r} is not supported")
        self.refuse_unknown()
        return settings

    def refuse_unknown(self) -> None:
        """Raise UnsupportedModelError for a key inside that was not read."""
        if unknown := sorted(self._config.keys(self._place) - self._known):
            raise UnsupportedModelError(f"{self._place} has the unknown keys {', '.join(unknown)}")

    def _yarn(self, rule: Rope) -> Mapping[str, Value]:
        self._known |= {"truncate", "llama_4_scaling_beta", "original_max_position_embeddings"}
        truncates = self._config.flag(f"{self._place}.truncate", True)
        factor = self.number("factor")
        original = self._config.integer("original_max_position_embeddings", self._config.integer(_CONTEXT))
        settings: dict[str, Value] = {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": rounded(factor),
            "rope.scaling.original_context_length": self._config.integer(
                f"{self._place}.original_max_position_embeddings", original
            ),
        }
        for published, gguf in _YARN_NUMBERS.items():
            if self.has(published):
                settings[f"rope.scaling.{gguf}"] = rounded(self.number(published))
        if truncates != rule.truncates:
            settings[_TRUNCATE] = truncates
        return {**settings, **self._magnitude(rule, factor)}

    def _magnitude(self, rule: Rope, factor: float) -> Mapping[str, Value]:
        """What the rotation is multiplied with; by default it grows with the logarithm of the factor."""
        mscale, all_dim = self.number("mscale", 0.0), self.number("mscale_all_dim", 0.0)
        if min(mscale, all_dim) < 0:
            raise self._config.invalid(self._place, "makes no sense")
        usual = _growth(factor)
        magnitude = _growth(factor, mscale) / _growth(factor, all_dim) if mscale and all_dim else usual
        magnitude = self.number("attention_factor", magnitude)
        settings: dict[str, Value] = {}
        if all_dim and rule.log_multiplier:
            settings["rope.scaling.yarn_log_multiplier"] = rounded(all_dim * rule.log_multiplier)
            usual = 1.0
        if rounded(magnitude / usual) != 1:
            settings["rope.scaling.attn_factor"] = rounded(magnitude / usual)
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
        makes_sense = (
            1 / _LARGEST < stretch.factor < _LARGEST and stretch.context > 0 and 0 <= stretch.low < stretch.high
        )
        if not (makes_sense and 0 < self.theta < _LARGEST and dim <= MAX_HEAD_DIM):
            raise self._config.invalid(self._place, "makes no sense")
        return stretch.factors(self.theta, dim)


def full_rope(config: PublishedConfig, default_theta: float) -> RopeReader:
    """Of the layers that attend in full: their own where layers of different kinds have theirs, else the one of all."""
    within = f"{_PARAMETERS}.{FULL}"
    return RopeReader(config, default_theta, within if config.has(within) else None)


def _growth(factor: float, multiplier: float = 1.0) -> float:
    """YaRN's growth of the rotation with the stretch."""
    return 1 + 0.1 * multiplier * math.log(factor) if factor > 1 else 1.0
