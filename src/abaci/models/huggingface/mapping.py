"""The vocabulary in which a published model type is described: settings and tensors, each with its GGUF twin.

A rule works both ways. Must not know any model type, nor how files are read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from abaci.errors import UnsupportedModelError
from abaci.models.huggingface.changes import Change, Split
from abaci.models.huggingface.published_config import PublishedConfig

Value = Any
"""Of a setting: text, truth value, number, or a list of one of these."""


class Gguf(Protocol):
    """Settings of a GGUF file without the architecture's name, read for the way back. Remembers what was read."""

    def get(self, key: str, default: Value = None) -> Value:
        """The setting, or the default where there is none."""

    def has_tensor(self, name: str) -> bool:
        """Whether there is such a tensor."""

    def tensor(self, name: str) -> NDArray[np.float32] | None:
        """A small tensor's values, or None where there is no such tensor."""


class SettingRule(Protocol):
    """Some keys of `config.json` and what GGUF says instead."""

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        """Keys without the architecture's name. Raises FileFormatError, UnsupportedModelError."""

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        """Keys of `config.json`."""


@runtime_checkable
class DefaultingRule(Protocol):
    """A `SettingRule` some of whose keys `config.json` may leave out, and what they are then for every rule."""

    @property
    def defaults(self) -> Mapping[str, Value]:
        """By published key."""


def default_of(key: str, default: Value) -> Mapping[str, Value]:
    """As `DefaultingRule` has it; None for no default."""
    return {} if default is None else {key: default}


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number under both names; without a default it must be there. `older` is another published name."""

    published: str
    gguf: str
    default: int | None = None
    older: str | None = None

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        is_older = self.older is not None and config.has(self.older) and not config.has(self.published)
        return {self.gguf: config.integer(self.older if self.older and is_older else self.published)}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        return {self.published: settings.get(self.gguf)}

    @property
    def defaults(self) -> Mapping[str, Value]:
        return default_of(self.published, self.default)


@dataclass(frozen=True, slots=True)
class Copied:
    """A whole number that GGUF has under a second name; the other rule restores it, and has its default."""

    published: str
    gguf: str

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        return {self.gguf: config.integer(self.published)}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        settings.get(self.gguf)
        return {}


@dataclass(frozen=True, slots=True)
class Number:
    """A number under both names; GGUF holds it as float32."""

    published: str
    gguf: str
    default: float | None = None

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        return {self.gguf: rounded(config.number(self.published))}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        return {self.published: shortest(settings.get(self.gguf))}

    @property
    def defaults(self) -> Mapping[str, Value]:
        return default_of(self.published, self.default)


@dataclass(frozen=True, slots=True)
class Flag:
    """A truth value under both names."""

    published: str
    gguf: str
    default: bool | None = None

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        return {self.gguf: config.flag(self.published)}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        return {self.published: settings.get(self.gguf)}

    @property
    def defaults(self) -> Mapping[str, Value]:
        return default_of(self.published, self.default)


@dataclass(frozen=True, slots=True)
class Only:
    """A key that GGUF has no name for, as the architecture implies its value: any other is refused."""

    published: str
    value: Value
    others: tuple[Value, ...] = ()
    """That mean the same."""

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        found = config.value(self.published, self.value)
        if found != self.value and found not in self.others:
            raise config.unsupported(self.published, f"is not supported for this type of model, only {self.value!r}")
        return {}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        return {} if self.value is None else {self.published: self.value}


@dataclass(frozen=True, slots=True)
class Implied:
    """A setting of GGUF that `config.json` has no name for, as the type of model implies its value."""

    gguf: str
    value: Value

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        return {self.gguf: self.value}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        if settings.get(self.gguf, self.value) != self.value:
            raise UnsupportedModelError(f"{self.gguf} is not {self.value!r}, which this type of config.json implies")
        return {}


@dataclass(frozen=True, slots=True)
class Unused:
    """Keys that say how a model is trained or evaluated, not what it computes."""

    published: tuple[str, ...]

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        for key in self.published:
            config.value(key)
        return {}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        return {}


@dataclass(frozen=True, slots=True)
class Idle:
    """A key of the published files that says nothing with this value, and that nothing follows with another."""

    published: str
    value: Value

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        if config.value(self.published, self.value) != self.value:
            config.pass_over(self.published)
        return {}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        return {}


@dataclass(frozen=True, slots=True)
class Present:
    """A flag that says whether some tensor is there, which in GGUF the tensor itself does."""

    published: str
    tensor: str

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        config.flag(self.published, False)
        return {}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        return {self.published: settings.has_tensor(self.tensor)}


@dataclass(frozen=True, slots=True)
class HeadSizes:
    """`head_dim`, by default the hidden size over the heads unless `default` says otherwise; keys and values alike."""

    default: int | None = None

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        head_dim = head_dim_of(config)
        return {"attention.key_length": head_dim, "attention.value_length": head_dim}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        key = settings.get("attention.key_length")
        if key is None:
            key = settings.get("embedding_length") // settings.get("attention.head_count")
        if settings.get("attention.value_length", key) != key:
            raise UnsupportedModelError("keys and values of different sizes have no name in this type of config.json")
        return {"head_dim": key}

    @property
    def defaults(self) -> Mapping[str, Value]:
        return default_of("head_dim", self.default)


@dataclass(frozen=True, slots=True)
class KeyValueHeads:
    """`num_key_value_heads`, by default as many as there are heads unless `default` says otherwise."""

    default: int | None = None

    def to_gguf(self, config: PublishedConfig) -> Mapping[str, Value]:
        heads = config.integer("num_attention_heads")
        return {"attention.head_count_kv": config.integer("num_key_value_heads", heads)}

    def to_published(self, settings: Gguf) -> Mapping[str, Value]:
        heads = settings.get("attention.head_count")
        return {"num_key_value_heads": settings.get("attention.head_count_kv", heads)}

    @property
    def defaults(self) -> Mapping[str, Value]:
        return default_of("num_key_value_heads", self.default)


@dataclass(frozen=True, slots=True)
class TensorRule:
    """A published tensor, or a module with its `.weight` and `.bias`, and its GGUF twin.

    `{layer}` and the like stand for numbers. A number that only the published name has, `{expert}`, counts tensors that
    GGUF stacks along a new first axis.
    """

    published: str
    gguf: str
    change: Change | None = None


@dataclass(frozen=True, slots=True)
class SplitRule:
    """A published tensor, or a module with its `.weight` and `.bias`, that is several tensors in GGUF."""

    published: str
    gguf: tuple[str, ...]
    split: Split


@dataclass(frozen=True, slots=True)
class ComputedTensor:
    """A tensor that GGUF has beside the settings it follows from; None where the model needs none."""

    gguf: str
    compute: Callable[[PublishedConfig], NDArray[np.float32] | None]


@runtime_checkable
class ComputingRule(Protocol):
    """A `SettingRule` some of whose settings are tensors in GGUF."""

    @property
    def computed(self) -> tuple[ComputedTensor, ...]:
        """Those tensors."""


@dataclass(frozen=True, slots=True)
class ModelMapping:
    """One published `model_type` and the GGUF architecture that describes the same mathematics."""

    model_type: str
    class_name: str
    """As `architectures` in `config.json` names it."""
    architecture: str
    settings: tuple[SettingRule, ...]
    tensors: tuple[TensorRule | SplitRule, ...]
    is_tied_by_default: bool = False
    modernise: Callable[[Mapping[str, Value]], Mapping[str, Value]] = dict
    """Settings of a GGUF file in the words that the rules use: older conversions have others."""
    guess_prefixes: tuple[str, ...] = ()
    """Of published names that belong to layers for guessing several tokens at once, which are not used."""
    guess_layers_key: str | None = None
    """Of `config.json`, where such layers are counted on after the last: how many, 1 where it is not there."""

    @property
    def defaults(self) -> Mapping[str, Value]:
        """What keys that `config.json` leaves out are in this type of model."""
        rules = (rule for rule in self.settings if isinstance(rule, DefaultingRule))
        return {key: value for rule in rules for key, value in rule.defaults.items()}

    @property
    def computed(self) -> tuple[ComputedTensor, ...]:
        """Tensors that GGUF has beside the settings they follow from."""
        return tuple(tensor for rule in self.settings if isinstance(rule, ComputingRule) for tensor in rule.computed)


def head_dim_of(config: PublishedConfig) -> int:
    """The values of one head."""
    if config.value("head_dim") is None:
        return config.integer("hidden_size") // max(1, config.integer("num_attention_heads"))
    return config.integer("head_dim")


def rounded(value: float) -> float:
    """To float32, as GGUF stores it."""
    return float(np.float32(value))


def shortest(value: float) -> float:
    """The number of fewest digits that rounds to the same float32: 1e-06 rather than 9.999999974752427e-07."""
    return float(str(np.float32(value)))
