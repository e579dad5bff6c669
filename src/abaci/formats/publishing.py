"""The reverse of `arranging`: a checkpoint's settings and tensors as a folder of their published type names them.

Several types may share an architecture (Llama, Mistral, Mixtral): the first whose rules account for every tensor and
give back every setting is taken.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from abaci.errors import FileFormatError, UnsupportedModelError
from abaci.formats.checkpoint import Checkpoint
from abaci.formats.safetensors import NewTensor
from abaci.formats.weight_arrays import Array, as_array, as_bytes, from_float32, to_float32
from abaci.models.gguf_config import is_neutral
from abaci.models.huggingface import mappings_of_architecture
from abaci.models.huggingface.changes import Shape
from abaci.models.huggingface.mapping import ModelMapping, SplitRule, TensorRule
from abaci.models.huggingface.published_config import PublishedConfig
from abaci.tensor import TensorInfo, WeightFormat

Dequantise = Callable[[WeightFormat, tuple[int, ...], memoryview], NDArray[np.float32]]
"""What blocks of a quantised format stand for."""

_HEAD: Final = "output.weight"
_DESCRIPTIVE: Final = frozenset(
    {"vocab_size", "tensor_data_layout", "rope.scaling.finetuned", "nextn_predict_layers", "has_head"}
)
_TYPE_NAMES: Final = {WeightFormat.F32: "float32", WeightFormat.F16: "float16", WeightFormat.BF16: "bfloat16"}
_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.|$)")
_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")
_TOLERANCE: Final = 1e-5
"""Of settings that go through decimals, relative."""


@dataclass(frozen=True, slots=True)
class PublishedFolder:
    """What stands in a folder's `config.json`, and its tensors, made as they are written."""

    config: Mapping[str, Any]
    tensors: tuple[NewTensor, ...]


def publish(checkpoint: Checkpoint, dequantise: Dequantise, wanted: WeightFormat | None = None) -> PublishedFolder:
    """The folder of a checkpoint.

    wanted  the type of all weights; None keeps each value exactly: matrices as they are stored, quantised ones in
            float32, vectors in the type of most matrices where that holds them.

    Raises UnsupportedModelError where no published type describes the model.
    """
    architecture = str(checkpoint.metadata.get("general.architecture"))
    mappings = mappings_of_architecture(architecture)
    if not mappings:
        raise UnsupportedModelError(f"no published type of model is known for the architecture {architecture!r}")
    complaints = []
    for mapping in mappings:
        try:
            return _Publisher(checkpoint, mapping, dequantise, wanted).publish()
        except FileFormatError as error:
            complaints.append(f"{mapping.model_type}: {error.message}")
    raise UnsupportedModelError("no published type of model has these settings and tensors: " + "; ".join(complaints))


class _Settings:
    """`models.huggingface.mapping.Gguf` over a checkpoint."""

    def __init__(self, checkpoint: Checkpoint, mapping: ModelMapping) -> None:
        self._checkpoint = checkpoint
        prefix = f"{mapping.architecture}."
        named = {
            key.removeprefix(prefix): value for key, value in checkpoint.metadata.items() if key.startswith(prefix)
        }
        self.values = mapping.modernise({key: value for key, value in named.items() if not is_neutral(key, value)})
        self._read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """The setting, or the default where there is none."""
        self._read.add(key)
        return self.values.get(key, default)

    def has_tensor(self, name: str) -> bool:
        """Whether there is such a tensor."""
        return name in self._checkpoint.tensors

    def tensor(self, name: str) -> NDArray[np.float32] | None:
        """A small tensor's values, or None where there is no such tensor."""
        info = self._checkpoint.tensors.get(name)
        if info is None or info.format is not WeightFormat.F32:
            return None
        return np.frombuffer(self._checkpoint.data(info), np.float32)

    def unread(self) -> list[str]:
        """Settings that no rule asked for."""
        return sorted(set(self.values) - self._read - _DESCRIPTIVE)


class _Publisher:
    """One attempt: a checkpoint as one published type."""

    def __init__(
        self, checkpoint: Checkpoint, mapping: ModelMapping, dequantise: Dequantise, wanted: WeightFormat | None
    ) -> None:
        self._checkpoint = checkpoint
        self._mapping = mapping
        self._dequantise = dequantise
        self._wanted = wanted
        self._settings = _Settings(checkpoint, mapping)
        self._usual = wanted or _usual_format(checkpoint.tensors.values())
        self._rules = _rules_by_gguf_name(mapping)

    def publish(self) -> PublishedFolder:
        """Raises FileFormatError where the type does not describe the model."""
        config = self._config()
        return PublishedFolder(config, tuple(self._tensors()))

    def _config(self) -> dict[str, Any]:
        mapping, settings = self._mapping, self._settings
        config: dict[str, Any] = {"architectures": [mapping.class_name], "model_type": mapping.model_type}
        try:
            for rule in mapping.settings:
                config |= rule.to_published(settings)
        except (TypeError, ArithmeticError):
            raise FileFormatError("a setting is missing or of the wrong kind") from None
        if unread := settings.unread():
            raise UnsupportedModelError(f"config.json has no names for {', '.join(unread)}")
        self._check_settings(config)
        tensors = self._checkpoint.tensors
        config["vocab_size"] = tensors["token_embd.weight"].shape[0]
        config["tie_word_embeddings"] = _HEAD not in tensors and settings.get("has_head", True) is True
        config["dtype"] = _TYPE_NAMES[self._usual]
        return config

    def _check_settings(self, config: Mapping[str, Any]) -> None:
        """Read back, the settings must be those of the file."""
        again: dict[str, Any] = {}
        published = PublishedConfig(config, self._mapping.defaults)
        for rule in self._mapping.settings:
            again |= rule.to_gguf(published)
        for key, value in self._settings.values.items():
            if key not in _DESCRIPTIVE and key in again and not _alike(value, again[key]):
                raise UnsupportedModelError(f"{key} = {value!r} would be read back as {again[key]!r}")

    def _tensors(self) -> Iterator[NewTensor]:
        computed = {rule.gguf for rule in self._mapping.computed}
        splits: dict[str, tuple[SplitRule, dict[int, TensorInfo]]] = {}
        for name, info in self._checkpoint.tensors.items():
            if name in computed:
                continue
            rule, index, values, suffix = self._rule(name)
            if isinstance(rule, SplitRule):
                published = rule.published.format(**values) + suffix
                splits.setdefault(published, (rule, {}))[1][index] = info
            else:
                yield from self._whole(rule, info, values, suffix)
        for published, (split_rule, parts) in splits.items():
            yield self._joined(published, split_rule, parts)

    def _rule(self, name: str) -> tuple[TensorRule | SplitRule, int, dict[str, str], str]:
        numbers = _NUMBER.findall(name)
        template = _NUMBER.sub("#", name)
        module, dot, last = template.rpartition(".")
        found = [
            (self._rules[key], suffix) for key, suffix in ((template, ""), (module, dot + last)) if key in self._rules
        ]
        if not found:
            raise UnsupportedModelError(f"tensor {name} has no place in it")
        (_, rule, index), suffix = min(found, key=lambda candidate: candidate[0][0])
        gguf = rule.gguf[index] if isinstance(rule, SplitRule) else rule.gguf
        return rule, index, dict(zip(_PLACEHOLDER.findall(gguf), numbers, strict=True)), suffix

    def _whole(self, rule: TensorRule, info: TensorInfo, values: dict[str, str], suffix: str) -> Iterator[NewTensor]:
        stack = set(_PLACEHOLDER.findall(rule.published)) - set(values)
        change, settings = rule.change, self._settings.values
        shape = info.shape if change is None else change.published_shape(info.shape, settings)
        weight_format = self._format(info)

        def make(index: int | None) -> Iterable[bytes | memoryview]:
            array = self._array(info, index)
            yield self._bytes(array if change is None else change.undo(array, settings), info, weight_format)
            self._checkpoint.release(info)

        if not stack:
            yield rule.published.format(**values) + suffix, weight_format.label, shape, _Once(make, None)
            return
        counter = stack.pop()
        for index in range(shape[0]):
            name = rule.published.format(**values, **{counter: index}) + suffix
            yield name, weight_format.label, shape[1:], _Once(make, index)

    def _joined(self, name: str, rule: SplitRule, parts: Mapping[int, TensorInfo]) -> NewTensor:
        if len(parts) < len(rule.gguf):
            raise FileFormatError(f"of {name} only {', '.join(part.name for part in parts.values())} is there")
        infos = [parts[index] for index in range(len(rule.gguf))]
        settings = self._settings.values
        shape = rule.split.whole_shape([info.shape for info in infos], settings)
        weight_format = self._format(infos[0])

        def make(index: int | None) -> Iterable[bytes | memoryview]:
            joined = rule.split.join([self._array(info, None) for info in infos], settings)
            yield self._bytes(joined, infos[0], weight_format)

        return name, weight_format.label, shape, _Once(make, None)

    def _format(self, info: TensorInfo) -> WeightFormat:
        """What the tensor is written in."""
        if self._wanted is not None:
            return self._wanted
        if info.format.is_quantised:
            return WeightFormat.F32
        if info.format is WeightFormat.F32 and self._usual is not WeightFormat.F32 and self._holds(info):
            return self._usual
        return info.format

    def _holds(self, info: TensorInfo) -> bool:
        """Whether the usual type has every value of a float32 tensor, as published: GGUF widens what is small."""
        rule, _, _, _ = self._rule(info.name)
        values = self._array(info, None)
        if isinstance(rule, TensorRule) and rule.change is not None:
            values = rule.change.undo(values, self._settings.values)
        narrow = from_float32(self._usual, np.ascontiguousarray(values))
        return bool(np.array_equal(to_float32(self._usual, narrow), values))

    def _array(self, info: TensorInfo, index: int | None) -> Array:
        """A tensor's values as stored, or float32 where they are quantised; of a stack one matrix."""
        data = self._checkpoint.data(info)
        shape: Shape = info.shape
        if index is not None:
            step = info.num_bytes // shape[0]
            data, shape = data[index * step : (index + 1) * step], shape[1:]
        if info.format.is_quantised:
            return self._dequantise(info.format, shape, data)
        return as_array(info.format, shape, data)

    def _bytes(self, array: Array, info: TensorInfo, weight_format: WeightFormat) -> memoryview:
        stored = WeightFormat.F32 if info.format.is_quantised else info.format
        if stored is not weight_format:
            array = from_float32(weight_format, np.ascontiguousarray(to_float32(stored, array)))
        return as_bytes(array)


class _Once:
    """Bytes of one tensor, made when they are asked for."""

    def __init__(self, make: Callable[[int | None], Iterable[bytes | memoryview]], index: int | None) -> None:
        self._make = make
        self._index = index

    def __iter__(self) -> Iterator[bytes | memoryview]:
        return iter(self._make(self._index))


def _rules_by_gguf_name(mapping: ModelMapping) -> dict[str, tuple[int, TensorRule | SplitRule, int]]:
    """Place in the list, rule, and which of its tensors. Earlier rules are how the type is usually published."""
    rules: dict[str, tuple[int, TensorRule | SplitRule, int]] = {}
    for place, rule in enumerate(mapping.tensors):
        for index, name in enumerate(rule.gguf if isinstance(rule, SplitRule) else (rule.gguf,)):
            rules.setdefault(_PLACEHOLDER.sub("#", name), (place, rule, index))
    return rules


def _usual_format(tensors: Iterable[TensorInfo]) -> WeightFormat:
    """Of most bytes of float matrices; float32 where there are none, or quantised ones beside them."""
    num_bytes = dict.fromkeys(_TYPE_NAMES, 0)
    for tensor in tensors:
        if tensor.format.is_quantised:
            return WeightFormat.F32
        if len(tensor.shape) > 1:
            num_bytes[tensor.format] += tensor.num_bytes
    return max(num_bytes, key=lambda weight_format: num_bytes[weight_format])


def _alike(first: object, second: object) -> bool:
    if isinstance(first, float) and isinstance(second, int | float):
        return abs(first - second) <= _TOLERANCE * abs(first)
    return first == second
