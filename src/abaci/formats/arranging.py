"""A folder's tensors put under GGUF's names and into its arrangement, as a model's mapping says.

What is stored as it is needed stays a view of the file; what is not (rows to reorder, experts to stack) is computed
when it is asked for, and kept by nobody.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from abaci.errors import FileFormatError, UnsupportedModelError
from abaci.formats.huggingface_files import PublishedTensor
from abaci.formats.published_model import PublishedModel
from abaci.formats.weight_arrays import Array, as_array, as_bytes, num_bytes, to_float32
from abaci.models.huggingface.mapping import TensorRule
from abaci.tensor import TensorInfo, WeightFormat


@dataclass(frozen=True, slots=True)
class ArrangedTensor:
    """A tensor as GGUF has it, and how to make it."""

    info: TensorInfo
    sources: tuple[PublishedTensor, ...]
    compute: Callable[[], memoryview] | None
    """None where the bytes stand in the file as they are."""


def arrange(model: PublishedModel, published: Mapping[str, PublishedTensor]) -> dict[str, ArrangedTensor]:
    """All tensors the model needs, by GGUF's names. Raises FileFormatError, UnsupportedModelError."""
    return _Arranger(model, published).arrange()


_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.|$)")
_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")


class _Arranger:
    """Applies a mapping's tensor rules to the tensors of a folder."""

    def __init__(self, model: PublishedModel, published: Mapping[str, PublishedTensor]) -> None:
        self._model = model
        self._published = published
        self._rules = {_PLACEHOLDER.sub("#", rule.published): rule for rule in model.mapping.tensors}

    def arrange(self) -> dict[str, ArrangedTensor]:
        """All tensors the model needs, by GGUF's names."""
        groups: dict[str, dict[int, PublishedTensor]] = {}
        rules: dict[str, TensorRule] = {}
        ignored = [re.compile(pattern) for pattern in (*_ALWAYS_IGNORED, *self._model.mapping.ignored_tensors)]
        for name, tensor in self._published.items():
            if any(pattern.fullmatch(name) for pattern in ignored) or self._is_second_embedding(name):
                continue
            gguf_name, place, rule = self._target(name)
            members = groups.setdefault(gguf_name, {})
            if place in members:
                raise FileFormatError(f"tensors {members[place].name!r} and {name!r} are the same part of the model")
            members[place] = tensor
            rules[gguf_name] = rule
        if not self._model.is_tied and "output.weight" not in groups:
            raise FileFormatError("tensor lm_head.weight is missing", hint="The folder is incomplete; fetch it again.")
        arranged = {name: self._arranged(name, rules[name], members) for name, members in groups.items()}
        return arranged | self._computed()

    def _is_second_embedding(self, name: str) -> bool:
        """A tied head that is stored all the same: the model reads the embedding instead."""
        return self._model.is_tied and name.startswith("lm_head.")

    def _target(self, name: str) -> tuple[str, int, TensorRule]:
        """GGUF's name, the place in a stack (0 where there is none) and the rule."""
        numbers = [int(number) for number in _NUMBER.findall(name)]
        template = _NUMBER.sub("#", name)
        rule, suffix = self._rules.get(template), ""
        if rule is None:
            module, dot, last = template.rpartition(".")
            rule, suffix = self._rules.get(module), dot + last
        if rule is None or suffix not in ("", ".weight", ".bias"):
            raise UnsupportedModelError(
                f"the folder has the tensor {name!r}, which models of the type "
                f"{self._model.mapping.model_type!r} do not use here",
                hint="It is a variant this version does not know; running without it would give wrong output.",
            )
        values = dict(zip(_PLACEHOLDER.findall(rule.published), numbers, strict=True))
        stacked = set(values) - set(_PLACEHOLDER.findall(rule.gguf))
        return rule.gguf.format(**values) + suffix, values[stacked.pop()] if stacked else 0, rule

    def _arranged(self, name: str, rule: TensorRule, members: Mapping[int, PublishedTensor]) -> ArrangedTensor:
        is_stack = len(_PLACEHOLDER.findall(rule.published)) > len(_PLACEHOLDER.findall(rule.gguf))
        if sorted(members) != list(range(len(members))):
            raise FileFormatError(f"{name}: of {max(members) + 1} tensors to stack {len(members)} are there")
        sources = tuple(members[place] for place in range(len(members)))
        first = sources[0]
        if any((source.shape, source.format) != (first.shape, first.format) for source in sources):
            raise FileFormatError(f"{name}: the tensors to stack differ in shape or type")
        if not first.shape or 0 in first.shape:
            raise FileFormatError(f"tensor {first.name!r} has the shape {first.shape}")
        shape = (len(sources), *first.shape) if is_stack else first.shape
        settings = self._model.settings
        if rule.change is not None:
            shape = rule.change.shape(shape, settings)
        as_floats = len(first.shape) == 1 or (rule.change is not None and rule.change.needs_floats)
        weight_format = WeightFormat.F32 if as_floats else first.format
        is_stored = rule.change is None and not is_stack and weight_format is first.format

        def compute() -> memoryview:
            parts = [as_array(source.format, source.shape, source.read()) for source in sources]
            array: Array = np.stack(parts) if is_stack else parts[0]
            if as_floats:
                array = to_float32(first.format, array)
            return as_bytes(array if rule.change is None else rule.change.apply(array, settings))

        file_index, offset = first.place if is_stored and first.place is not None else (0, 0)
        info = TensorInfo(name, weight_format, shape, offset, num_bytes(weight_format, shape), file_index)
        return ArrangedTensor(info, sources, None if is_stored and first.place is not None else compute)

    def _computed(self) -> dict[str, ArrangedTensor]:
        tensors = {}
        for rule in self._model.mapping.computed:
            values = rule.compute(self._model.config)
            if values is not None:
                info = TensorInfo(rule.gguf, WeightFormat.F32, values.shape, 0, values.nbytes)
                tensors[rule.gguf] = ArrangedTensor(info, (), lambda values=values: as_bytes(values))  # type: ignore[misc]
        return tensors


_ALWAYS_IGNORED: Final = (r".*\.rotary_emb\.inv_freq",)
"""Old files store what follows from the settings."""
