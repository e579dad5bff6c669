"""Which format each tensor of a model gets under a named mixture such as Q4_K_M.

The choices are those of llama.cpp, so that a name means the same everywhere: what hurts most when it is rounded (value
and down projections of the first and last layers, the output) gets more bits. Where its versions differ, at what stands
in for Q2_K and Q3_K, it is the better of the two. Tables and rules only: must not read or write any file.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

from abaci.errors import UsageError
from abaci.tensor import TensorInfo, WeightFormat


@dataclass(frozen=True, slots=True)
class Mixture:
    """A named way to quantise a model."""

    name: str
    file_type: int
    """Its number in `general.file_type` of GGUF."""
    base: WeightFormat
    """What a tensor gets that no rule speaks of."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the rules ask of a model."""

    num_layers: int
    queries_per_key: int
    num_experts: int
    is_tied: bool
    """Whether the embedding is the output as well."""

    @classmethod
    def of(cls, metadata: Mapping[str, object], tensors: Mapping[str, TensorInfo]) -> "ModelFacts":
        """From a file's metadata and tensors, missing keys being what most models have."""
        architecture = metadata.get("general.architecture")

        def integer(key: str, default: int) -> int:
            value = metadata.get(f"{architecture}.{key}", default)
            if isinstance(value, list):  # a number for each layer, which the rules take the largest of
                value = max((item for item in value if isinstance(item, int)), default=default)
            return value if isinstance(value, int) and value > 0 else default

        num_heads = integer("attention.head_count", 1)
        return cls(
            num_layers=integer("block_count", 1),
            queries_per_key=num_heads // integer("attention.head_count_kv", num_heads),
            num_experts=integer("expert_count", 0),
            is_tied="output.weight" not in tensors,
        )


class _Role(Enum):
    """Kinds of matrices that rules tell apart."""

    OUTPUT = "output"
    EMBEDDING = "token_embd"
    VALUE = "attn_v"
    KEY = "attn_k"
    ATTENTION_OUTPUT = "attn_output"
    FUSED_ATTENTION = "attn_qkv"
    DOWN = "ffn_down"
    OTHER = ""


_F = WeightFormat
_ALL: Final = (
    Mixture("F32", 0, _F.F32),
    Mixture("F16", 1, _F.F16),
    Mixture("BF16", 32, _F.BF16),
    Mixture("Q8_0", 7, _F.Q8_0),
    Mixture("Q6_K", 18, _F.Q6_K),
    Mixture("Q5_K_M", 17, _F.Q5_K),
    Mixture("Q5_K_S", 16, _F.Q5_K),
    Mixture("Q5_1", 9, _F.Q5_1),
    Mixture("Q5_0", 8, _F.Q5_0),
    Mixture("Q4_K_M", 15, _F.Q4_K),
    Mixture("Q4_K_S", 14, _F.Q4_K),
    Mixture("Q4_1", 3, _F.Q4_1),
    Mixture("Q4_0", 2, _F.Q4_0),
    Mixture("MXFP4", 38, _F.MXFP4),
    Mixture("IQ4_NL", 25, _F.IQ4_NL),
    Mixture("IQ4_XS", 30, _F.IQ4_XS),
    Mixture("Q3_K_L", 13, _F.Q3_K),
    Mixture("Q3_K_M", 12, _F.Q3_K),
    Mixture("Q3_K_S", 11, _F.Q3_K),
    Mixture("Q2_K", 10, _F.Q2_K),
)
MIXTURES: Final[Mapping[str, Mixture]] = MappingProxyType({mixture.name: mixture for mixture in _ALL})
"""By name, most bits first."""

_FALLBACKS: Final = MappingProxyType(
    {
        _F.Q2_K: _F.IQ4_NL,
        _F.Q3_K: _F.IQ4_NL,
        _F.IQ4_XS: _F.IQ4_NL,
        _F.Q4_K: _F.Q5_0,
        _F.Q5_K: _F.Q5_1,
        _F.Q6_K: _F.Q8_0,
    }
)
"""For rows that are not whole blocks of 256; what then is not whole blocks of 32 either becomes F16.

For Q2_K and Q3_K newer versions of llama.cpp take Q4_0, earlier ones IQ4_NL, which is as large and loses less.
"""

_KEPT: Final = (
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_inp_shexp.weight",
    "ssm_conv1d.weight",
    "shortconv.conv.weight",
    "attn_rel_b.weight",
    "position_embd.weight",
    "token_types.weight",
    "per_layer_model_proj.weight",
    "rope_freqs.weight",
)
"""Ends of names of matrices that are tiny and steer much: routers, convolutions, norms."""

_LAYER: Final = re.compile(r"blk\.(\d+)\.")


def mixture_named(name: str) -> Mixture:
    """By its name in any case. Raises UsageError."""
    mixture = MIXTURES.get(name.upper())
    if mixture is None:
        raise UsageError(f"type {name!r} is not known", hint=f"Choose one of: {', '.join(MIXTURES).lower()}.")
    return mixture


def choose_formats(
    mixture: Mixture,
    facts: ModelFacts,
    tensors: Iterable[TensorInfo],
    *,
    has_importance: bool = False,
    is_pure: bool = False,
) -> dict[str, WeightFormat]:
    """The format of every tensor, by name. `is_pure` gives every matrix the mixture's base format, rules aside."""
    tensors = list(tensors)
    chosen: dict[str, WeightFormat] = {}
    value_ranks = _ranks(tensor.name for tensor in tensors if _role(tensor.name, facts) is _Role.VALUE)
    for tensor in tensors:
        if not is_quantisable(tensor):
            chosen[tensor.name] = _F.F32
            continue
        wanted = mixture.base
        if not is_pure and wanted.is_quantised:
            role = _role(tensor.name, facts)
            if role is _Role.VALUE:
                place = _Place(value_ranks[tensor.name], len(value_ranks), facts, has_importance)
            else:
                place = _Place(_layer(tensor.name), facts.num_layers, facts, has_importance)
            wanted = _format_of(mixture, role, place, tensor.shape)
        chosen[tensor.name] = _fitting(wanted, tensor.shape[-1])
    return chosen


def is_quantisable(tensor: TensorInfo) -> bool:
    """Whether a tensor is a matrix whose rounding the model bears."""
    name = tensor.name
    return len(tensor.shape) >= 2 and name.endswith("weight") and not name.endswith(_KEPT)


def _fitting(wanted: WeightFormat, num_columns: int) -> WeightFormat:
    if num_columns % wanted.block_size:
        wanted = _FALLBACKS.get(wanted, wanted)
    return _F.F16 if num_columns % wanted.block_size else wanted


def _ranks(names: Iterable[str]) -> dict[str, int]:
    """Place of each tensor among its kind, in order of layers."""
    return {name: rank for rank, name in enumerate(sorted(names, key=_layer))}


def _layer(name: str) -> int:
    match = _LAYER.match(name)
    return int(match[1]) if match else 0


def _role(name: str, facts: ModelFacts) -> _Role:
    if name == "output.weight" or (facts.is_tied and name == "token_embd.weight"):
        return _Role.OUTPUT
    part = name.rpartition("blk.")[2].partition(".")[2] if name.startswith("blk.") else name
    for role in (_Role.EMBEDDING, _Role.VALUE, _Role.KEY, _Role.ATTENTION_OUTPUT, _Role.FUSED_ATTENTION):
        if part == f"{role.value}.weight":
            return role
    return _Role.DOWN if part.startswith(_Role.DOWN.value) else _Role.OTHER


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a matrix stands: the how manieth of its kind, of how many."""

    number: int
    count: int
    facts: ModelFacts
    has_importance: bool

    def always(self) -> bool:
        return True

    def is_first_two(self) -> bool:
        return self.number < 2

    def is_first_four(self) -> bool:
        return self.number < 4

    def is_in_first_sixteenth(self) -> bool:
        return self.number < self.count // 16

    def is_in_first_eighth(self) -> bool:
        return self.number < self.count // 8

    def is_early_and_informed(self) -> bool:
        return self.is_in_first_eighth() and self.has_importance

    def is_early_and_uninformed(self) -> bool:
        return self.is_in_first_eighth() and not self.has_importance

    def deserves_more(self) -> bool:
        """The first and last eighth, and every third between them."""
        first, last = self.count // 8, 7 * self.count // 8
        return self.number < first or self.number >= last or (self.number - first) % 3 == 2

    def is_shared(self) -> bool:
        """Whether four or more queries share a key and a value, so that these matrices are small."""
        return self.facts.queries_per_key >= 4


_Rules = tuple[tuple[Callable[[_Place], bool], WeightFormat], ...]
"""The first whose condition holds decides; where none does, the mixture's base."""

_RULES: Final[Mapping[tuple[_Role, str], _Rules]] = MappingProxyType(
    {
        (_Role.VALUE, "Q2_K"): ((_Place.is_shared, _F.Q4_K), (_Place.always, _F.Q3_K)),
        (_Role.VALUE, "Q3_K_M"): ((_Place.is_first_two, _F.Q5_K), (_Place.always, _F.Q4_K)),
        (_Role.VALUE, "Q3_K_L"): ((_Place.always, _F.Q5_K),),
        (_Role.VALUE, "IQ4_NL"): ((_Place.is_shared, _F.Q5_K),),
        (_Role.VALUE, "IQ4_XS"): ((_Place.is_shared, _F.Q5_K),),
        (_Role.VALUE, "Q4_K_S"): ((_Place.is_first_four, _F.Q5_K),),
        (_Role.VALUE, "Q4_K_M"): ((_Place.deserves_more, _F.Q6_K),),
        (_Role.VALUE, "Q5_K_M"): ((_Place.deserves_more, _F.Q6_K),),
        (_Role.DOWN, "Q2_K"): ((_Place.always, _F.Q3_K),),
        (_Role.DOWN, "Q3_K_M"): ((_Place.is_in_first_sixteenth, _F.Q5_K), (_Place.always, _F.Q4_K)),
        (_Role.DOWN, "Q3_K_L"): ((_Place.always, _F.Q5_K),),
        (_Role.DOWN, "IQ4_NL"): ((_Place.is_early_and_uninformed, _F.Q5_K),),
        (_Role.DOWN, "IQ4_XS"): ((_Place.is_early_and_uninformed, _F.Q5_K),),
        (_Role.DOWN, "Q4_0"): ((_Place.is_early_and_informed, _F.Q4_1),),
        (_Role.DOWN, "Q5_0"): ((_Place.is_early_and_informed, _F.Q5_1),),
        (_Role.DOWN, "Q4_K_S"): ((_Place.is_in_first_eighth, _F.Q5_K),),
        (_Role.DOWN, "Q4_K_M"): ((_Place.deserves_more, _F.Q6_K),),
        (_Role.DOWN, "Q5_K_M"): ((_Place.deserves_more, _F.Q6_K),),
        (_Role.ATTENTION_OUTPUT, "Q2_K"): ((_Place.always, _F.Q3_K),),
        (_Role.ATTENTION_OUTPUT, "Q3_K_M"): ((_Place.always, _F.Q4_K),),
        (_Role.ATTENTION_OUTPUT, "Q3_K_L"): ((_Place.always, _F.Q5_K),),
        (_Role.FUSED_ATTENTION, "Q3_K_M"): ((_Place.always, _F.Q4_K),),
        (_Role.FUSED_ATTENTION, "Q3_K_L"): ((_Place.always, _F.Q4_K),),
        (_Role.FUSED_ATTENTION, "Q4_K_M"): ((_Place.always, _F.Q5_K),),
        (_Role.FUSED_ATTENTION, "Q5_K_M"): ((_Place.always, _F.Q6_K),),
    }
)

_BELOW_FIVE_BITS: Final = frozenset({"Q2_K", "Q3_K_S", "Q3_K_M", "IQ4_NL", "IQ4_XS", "Q4_K_S", "Q4_K_M"})


def _format_of(mixture: Mixture, role: _Role, place: _Place, shape: tuple[int, ...]) -> WeightFormat:
    """What the rules want for a matrix, whether or not its rows are whole blocks."""
    base = mixture.base
    if base is _F.MXFP4:  # for experts only, as it is published
        return base if len(shape) == 3 else _F.Q8_0
    if role is _Role.OUTPUT:
        return _F.Q8_0 if base is _F.Q8_0 or shape[-1] % base.block_size else _F.Q6_K
    if place.facts.num_experts == 8:  # attention is small beside eight experts
        if role in (_Role.VALUE, _Role.KEY):
            return _F.Q8_0
        if role is _Role.ATTENTION_OUTPUT:
            return _F.Q5_K if mixture.name in _BELOW_FIVE_BITS else base
    rules = _RULES.get((role, mixture.name), ())
    wanted = next((wanted for holds, wanted in rules if holds(place)), base)
    is_large = place.facts.num_layers == 80 and place.facts.queries_per_key == 8
    if role is _Role.VALUE and is_large and wanted in (_F.Q3_K, _F.Q4_K):
        return _F.Q5_K
    return wanted
