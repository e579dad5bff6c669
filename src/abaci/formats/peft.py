"""LoRA adapters as PEFT saves them: `adapter_config.json` and `adapter_model.safetensors` in a folder.

Tensors go by the names of the published model, `base_model.model.NAME.lora_A.weight`; the mapping of the model's type
says what GGUF calls the matrix, and how its rows, hence those of B, are arranged there.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any, Final

from abaci.errors import AbaciError, FileFormatError, ModelNotFoundError, UnsupportedModelError
from abaci.formats.adapter import Adapter, AdapterTensor, check_alpha, pair_up
from abaci.formats.checkpoint import Checkpoint
from abaci.formats.json_file import read_object
from abaci.formats.safetensors import SafetensorsFile, StoredTensor
from abaci.formats.weight_arrays import as_array, as_bytes, num_bytes
from abaci.models.huggingface import mappings_of_architecture
from abaci.models.huggingface.changes import Array, Change, Settings, Shape, Split
from abaci.models.huggingface.delta_net import TurnedValueHeads
from abaci.models.huggingface.mapping import ModelMapping, SplitRule, TensorRule
from abaci.tensor import TensorInfo, WeightFormat

_CONFIG: Final = "adapter_config.json"
_WEIGHTS: Final = "adapter_model.safetensors"
_HINT: Final = "Use a plain LoRA adapter, or the merged model."
_FORMATS: Final = {"F32": WeightFormat.F32, "F16": WeightFormat.F16, "BF16": WeightFormat.BF16}
_NAME: Final = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<half>[AB])\.weight")
_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.|$)")
_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")
_PLAIN_NAME: Final = re.compile(r"[\w.]+")
_TEXT_PREFIXES: Final = (("model.language_model.", "model."), ("language_model.", ""))

_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "lora_bias": (False,),
    "use_dora": (False,),
    "use_qalora": (False,),
    "modules_to_save": (None, []),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "alora_invocation_tokens": (None, []),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}
"""Settings that change what is computed, or (the last) the model's own weights, by the values that do not."""

_DESCRIPTIVE: Final = frozenset(
    {
        "alpha_pattern",
        "arrow_config",
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "megatron_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "target_modules",
        "target_parameters",
        "task_type",
        "use_rslora",
    }
)
"""Settings of training, those that the tensors show as well, and those that are read below."""


def read_peft_adapter(folder: Path, base: Checkpoint) -> Adapter:
    """An adapter of the model `base` from a folder.

    Raises ModelNotFoundError, FileFormatError for what is no sound adapter, UnsupportedModelError for a kind that this
    version does not know, or for tensors that models of the base's architecture do not have.
    """
    config = read_object(folder / _CONFIG)
    if config is None:
        raise ModelNotFoundError(f"{folder}: no {_CONFIG}", hint="Give a folder as PEFT saves it, or a .gguf file.")
    if not (folder / _WEIGHTS).exists() and (folder / "adapter_model.bin").exists():
        raise UnsupportedModelError(
            f"{folder}: weights only as adapter_model.bin, a pickle: reading one can run any code, so none is opened",
            hint="Save the adapter as safetensors.",
        )
    file = SafetensorsFile.open(folder / _WEIGHTS)
    try:
        scaling = _Scaling.read(config)
        tensors, modules = _arranged(file, base)
        updates = pair_up(tensors, lambda target, rank: scaling.factor(modules[target], rank))
    except AbaciError as error:
        file.close()
        raise type(error)(f"{folder}: {error.message}", hint=error.hint) from None
    except BaseException:
        file.close()
        raise
    return Adapter(folder, updates, tensors, _notes(folder, config), file.close)


@dataclass(frozen=True, slots=True)
class _Scaling:
    """What `adapter_config.json` says of factors."""

    alpha: float
    alpha_by_module: Mapping[str, float]
    is_rank_stabilised: bool

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "_Scaling":
        """Raises FileFormatError, UnsupportedModelError for settings that change what is computed."""
        for key, neutral in _NEUTRAL.items():
            if key in config and config[key] not in neutral:
                raise UnsupportedModelError(f"{_CONFIG}: {key} = {_shown(config[key])} is not supported", hint=_HINT)
        patterns, stabilised = config.get("alpha_pattern") or {}, config.get("use_rslora", False)
        if not isinstance(patterns, dict):
            raise FileFormatError(f"{_CONFIG}: alpha_pattern is not an object")
        if not isinstance(stabilised, bool):
            raise FileFormatError(f"{_CONFIG}: use_rslora = {_shown(stabilised)} is not true or false")
        if regular := [name for name in patterns if not _PLAIN_NAME.fullmatch(name)]:
            raise UnsupportedModelError(
                f"{_CONFIG}: alpha_pattern has {_shown(regular[0])}; only names of modules are supported", hint=_HINT
            )
        by_module = {name: check_alpha(alpha, f"alpha_pattern of {name}") for name, alpha in patterns.items()}
        return cls(check_alpha(config.get("lora_alpha"), f"{_CONFIG}: lora_alpha"), by_module, stabilised)

    def factor(self, module: str, rank: int) -> float:
        """Alpha over the rank, or over its root (Kalajdzievski 2023). The first name that the module ends in counts."""
        own = (alpha for name, alpha in self.alpha_by_module.items() if f".{module}".endswith(f".{name}"))
        return next(own, self.alpha) / (sqrt(rank) if self.is_rank_stabilised else rank)


def _notes(folder: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    unknown = sorted(set(config) - set(_NEUTRAL) - _DESCRIPTIVE)
    if not unknown:
        return ()
    names = ", ".join(name[:40] for name in unknown[:8])
    return (f"{folder.name}: {_CONFIG} has settings that this version does not know and does not follow: {names}",)


def _shown(value: object) -> str:
    return repr(value)[:80]


@dataclass(frozen=True, slots=True)
class _Twin:
    """A GGUF tensor that a published matrix becomes, or is split into."""

    name: str
    rule: TensorRule | SplitRule
    index: int


def _arranged(file: SafetensorsFile, base: Checkpoint) -> tuple[dict[str, AdapterTensor], dict[str, str]]:
    """Halves under GGUF's names, and the module that each of GGUF's matrices comes from."""
    architecture = str(base.metadata.get("general.architecture"))
    prefix = f"{architecture}."
    settings = {key.removeprefix(prefix): value for key, value in base.metadata.items() if key.startswith(prefix)}
    halves = {name: _half(name) for name in file.tensors}
    twins = _twins_of_all({module for module, _ in halves.values()}, architecture)
    tensors: dict[str, AdapterTensor] = {}
    modules: dict[str, str] = {}
    for name, (module, is_up) in halves.items():
        for twin in twins[module]:
            half = f"{twin.name}.lora_{'b' if is_up else 'a'}"
            if half in tensors:
                raise FileFormatError(f"tensor {name!r} is a part of {twin.name} that another tensor is too")
            tensors[half] = _tensor(file, file.tensors[name], half, _change(twin, is_up), settings)
            modules[twin.name] = module
    return tensors, modules


def _half(name: str) -> tuple[str, bool]:
    """The module whose half a tensor is, and whether it is B."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise UnsupportedModelError(f"it has the tensor {name!r}, which is no low-rank update", hint=_HINT)
    return match["module"], match["half"] == "B"


def _twins_of_all(modules: set[str], architecture: str) -> dict[str, list[_Twin]]:
    """By the first published type of the architecture that has all of the modules."""
    missing = ""
    for mapping in mappings_of_architecture(architecture):
        found = {module: _twins(module, mapping) for module in modules}
        if all(found.values()):
            return found
        missing = min(module for module, twins in found.items() if not twins)
    raise UnsupportedModelError(
        f"it changes {missing or min(modules)!r}, which models of the architecture {architecture!r} do not have",
        hint="Use the adapter with the model that its publisher names.",
    )


def _twins(module: str, mapping: ModelMapping) -> list[_Twin]:
    for prefix, own in _TEXT_PREFIXES:
        if module.startswith(prefix):
            module = own + module.removeprefix(prefix)
    template = _NUMBER.sub("#", module)
    for rule in mapping.tensors:
        published = _PLACEHOLDER.sub("#", rule.published)
        if published in (template, f"{template}.weight"):
            suffix = ".weight" if published == template else ""
            values = dict(zip(_PLACEHOLDER.findall(rule.published), _NUMBER.findall(module), strict=True))
            names = rule.gguf if isinstance(rule, SplitRule) else (rule.gguf,)
            if len(values) > len(_PLACEHOLDER.findall(names[0])):
                raise UnsupportedModelError(f"it changes {module!r}; experts cannot be adapted", hint=_HINT)
            return [_Twin(name.format(**values) + suffix, rule, index) for index, name in enumerate(names)]
    return []


def _tensor(
    file: SafetensorsFile, stored: StoredTensor, name: str, change: "Change | _Part | None", settings: Settings
) -> AdapterTensor:
    """A half under GGUF's name and in its arrangement."""
    weight_format = _FORMATS.get(stored.dtype)
    if weight_format is None:
        raise UnsupportedModelError(f"tensor {stored.name!r} of the type {stored.dtype} is not supported", hint=_HINT)
    if len(stored.shape) != 2 or 0 in stored.shape:
        raise FileFormatError(f"tensor {stored.name!r} has the shape {stored.shape}, which is no matrix")
    read = partial(file.data, stored)
    if change is None:
        return AdapterTensor(_info(name, weight_format, stored.shape), read, partial(file.release, stored))

    def make() -> memoryview:
        return as_bytes(change.apply(as_array(weight_format, stored.shape, read()), settings))

    info = _info(name, weight_format, change.shape(stored.shape, settings))
    return AdapterTensor(info, make, partial(file.release, stored))


def _info(name: str, weight_format: WeightFormat, shape: Shape) -> TensorInfo:
    return TensorInfo(name, weight_format, shape, 0, num_bytes(weight_format, shape))


@dataclass(frozen=True, slots=True)
class _Part:
    """One part of a split, as a change of the rows."""

    split: Split
    index: int

    @property
    def moves_columns(self) -> bool:
        return self.split.moves_columns

    def shape(self, shape: Shape, settings: Settings) -> Shape:
        return self.split.shapes(shape, settings)[self.index]

    def apply(self, array: Array, settings: Settings) -> Array:
        return self.split.part(array, self.index, settings)


def _change(twin: _Twin, is_up: bool) -> Change | _Part | None:
    """What becomes of a half: rows of the matrix are rows of B, its columns are columns of A.

    Raises UnsupportedModelError for a matrix that is published as its transpose.
    """
    change = _Part(twin.rule.split, twin.index) if isinstance(twin.rule, SplitRule) else twin.rule.change
    if change is None or change.moves_columns is not is_up:
        if change is not None and change.moves_columns and not isinstance(change, TurnedValueHeads):
            raise UnsupportedModelError(f"it changes {twin.name}, which is stored as its transpose", hint=_HINT)
        return change
    return None
