"""A folder's tensors put under GGUF's names and into its arrangement, as a model's mapping says.

What is stored as it is needed stays a view of the file; what is not (rows to reorder, experts to stack) is computed
when it is asked for, and kept by nobody.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from abaci.errors import FileFormatError, UnsupportedModelError
from abaci.formats.huggingface_files import PublishedTensor
from abaci.formats.published_model import PublishedModel
from abaci.formats.weight_arrays import Array, as_array, as_bytes, num_bytes, to_float32
from abaci.models.huggingface.changes import Change, Split
from abaci.models.huggingface.mapping import SplitRule, TensorRule
from abaci.tensor import TensorInfo, WeightFormat


@dataclass(frozen=True, slots=True)
class ArrangedTensor:
    """A tensor as GGUF has it, and how to make it."""

    info: TensorInfo
    sources: tuple[PublishedTensor, ...]
    compute: Callable[[], memoryview] | None
    """None where the bytes stand in the file as they are."""


def arrange(
    model: PublishedModel, published: Mapping[str, PublishedTensor], *, sorts_columns: bool = False
) -> dict[str, ArrangedTensor]:
    """All tensors the model needs, by GGUF's names. With `sorts_columns` quantised ones whose groups are scattered have
    their columns sorted, and beside them a tensor NAME.order (`models.spec.Linear.order`); else they are float32.

    Raises FileFormatError, UnsupportedModelError.
    """
    return _Arranger(model, published, sorts_columns).arrange()


_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.|$)")
_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")
_LAYER: Final = re.compile(r"model\.layers\.(\d+)\.")
_HEAD: Final = "output.weight"
_EMBEDDING: Final = "token_embd.weight"
_COMPARED_BYTES: Final = 1 << 22
"""At a time."""


@dataclass(frozen=True, slots=True)
class _Use:
    """What becomes of one published tensor: the whole of a GGUF tensor, a part of a split, or one of a stack."""

    gguf: str
    rule: TensorRule | SplitRule
    index: int
    """Of the part, or in the stack; 0 where there is none."""


@dataclass(frozen=True, slots=True)
class _Group:
    rule: TensorRule | SplitRule
    members: dict[int, PublishedTensor]


class _Arranger:
    """Applies a mapping's tensor rules to the tensors of a folder."""

    def __init__(self, model: PublishedModel, published: Mapping[str, PublishedTensor], sorts_columns: bool) -> None:
        self._model = model
        self._published = published
        self._sorts_columns = sorts_columns
        self._rules = {_PLACEHOLDER.sub("#", rule.published): rule for rule in model.mapping.tensors}

    def arrange(self) -> dict[str, ArrangedTensor]:
        """All tensors the model needs, by GGUF's names."""
        groups: dict[str, _Group] = {}
        for name, tensor in self._published.items():
            if self._is_needed(name):
                for use in self._uses(name):
                    members = groups.setdefault(use.gguf, _Group(use.rule, {})).members
                    if use.index in members or groups[use.gguf].rule is not use.rule:
                        raise FileFormatError(f"tensor {name!r} is a part of the model that another tensor is too")
                    members[use.index] = tensor
        self._settle_head(groups)
        arranged: dict[str, ArrangedTensor] = {}
        num_scattered = 0
        for name, group in groups.items():
            if sorted_ones := self._sorted(name, group):
                arranged |= sorted_ones
            else:
                arranged[name] = self._arranged(name, group)
                num_scattered += sum(source.sorted is not None for source in group.members.values())
        if num_scattered:
            self._model.note(
                f"{num_scattered} weights have groups out of order (act-order) and are kept as float32, "
                "which takes 4 bytes a value"
            )
        return arranged | self._computed()

    def _settle_head(self, groups: dict[str, _Group]) -> None:
        """Of a tied model's head only one that is not the embedding stays, as fine-tuning may leave it."""
        if _HEAD not in groups:
            if not self._model.is_tied:
                self._model.note("the folder has no lm_head.weight: it makes embeddings and cannot generate")
        elif self._model.is_tied:
            if _EMBEDDING in groups and _are_same(groups[_HEAD].members[0], groups[_EMBEDDING].members[0]):
                del groups[_HEAD]
            else:
                self._model.note(
                    "config.json says that the embedding is the head too, but lm_head.weight differs and is used"
                )

    def _is_needed(self, name: str) -> bool:
        """Not what follows from the settings, nor layers for guessing ahead."""
        if name.endswith(".rotary_emb.inv_freq"):
            return False
        if name.startswith(self._model.mapping.guess_prefixes) or self._is_after_the_last_layer(name):
            self._model.note("layers for guessing several tokens at once are left out")
            return False
        return True

    def _is_after_the_last_layer(self, name: str) -> bool:
        """Raises FileFormatError where the type has no such layers, or the settings no such number of them."""
        layer, num_layers = _LAYER.match(name), self._model.settings["block_count"]
        if layer is None or int(layer[1]) < num_layers:
            return False
        key = self._model.mapping.guess_layers_key
        num_guess_layers = 0 if key is None else self._model.config.integer(key, 1)
        if int(layer[1]) >= num_layers + num_guess_layers:
            raise FileFormatError(
                f"the folder has the tensor {name!r}, but by config.json the model has only {num_layers} layers",
                hint="The file config.json belongs to another model, or was changed.",
            )
        return True

    def _uses(self, name: str) -> list[_Use]:
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
        if isinstance(rule, SplitRule):
            return [_Use(gguf.format(**values) + suffix, rule, index) for index, gguf in enumerate(rule.gguf)]
        stacked = _stacked(rule)
        return [_Use(rule.gguf.format(**values) + suffix, rule, values[stacked] if stacked else 0)]

    def _sorted(self, name: str, group: _Group) -> dict[str, ArrangedTensor]:
        """A weight with its columns sorted, and their order; none where it has no need of that, or columns move."""
        rule, source = group.rule, next(iter(group.members.values()))
        weight, settings = source.sorted, self._model.settings
        if weight is None or not self._sorts_columns or not isinstance(rule, TensorRule):
            return {}
        change = rule.change
        moves_columns = change is not None and (change.moves_columns or change.needs_floats)
        if moves_columns or _stacked(rule) is not None or not name.startswith("blk."):
            return {}
        shape = source.shape if change is None else change.shape(source.shape, settings)

        def make() -> Array:
            array = as_array(weight.format, source.shape, weight.read())
            return array if change is None else change.apply(array, settings)

        order_name = f"{name.removesuffix('.weight')}.order"
        order = weight.order.astype(np.float32)
        return {
            name: _computed(name, weight.format, shape, (source,), make),
            order_name: _computed(order_name, WeightFormat.F32, order.shape, (), lambda: order),
        }

    def _arranged(self, name: str, group: _Group) -> ArrangedTensor:
        rule = group.rule
        if isinstance(rule, SplitRule):
            ((index, source),) = group.members.items()
            return self._part(name, rule, index, source)
        sources = _in_order(name, group.members)
        first = sources[0]
        stacked, change, settings = _stacked(rule) is not None, rule.change, self._model.settings
        shape = (len(sources), *first.shape) if stacked else first.shape
        if change is not None:
            shape = change.shape(shape, settings)
        weight_format = _format(first, change)

        def make() -> Array:
            parts = [_read(source, weight_format) for source in sources]
            array = np.stack(parts) if stacked else parts[0]
            return array if change is None else change.apply(array, settings)

        if change is None and not stacked and weight_format is first.format and first.place is not None:
            file_index, offset = first.place
            info = TensorInfo(name, weight_format, shape, offset, num_bytes(weight_format, shape), file_index)
            return ArrangedTensor(info, sources, None)
        return _computed(name, weight_format, shape, sources, make)

    def _part(self, name: str, rule: SplitRule, index: int, source: PublishedTensor) -> ArrangedTensor:
        settings = self._model.settings
        shape = rule.split.shapes(source.shape, settings)[index]
        weight_format = _format(source, rule.split)
        make = lambda: rule.split.part(_read(source, weight_format), index, settings)  # noqa: E731
        return _computed(name, weight_format, shape, (source,), make)

    def _computed(self) -> dict[str, ArrangedTensor]:
        tensors = {}
        for rule in self._model.mapping.computed:
            values = rule.compute(self._model.config)
            if values is not None:
                make = partial(np.asarray, values)
                tensors[rule.gguf] = _computed(rule.gguf, WeightFormat.F32, values.shape, (), make)
        return tensors


def _are_same(first: PublishedTensor, second: PublishedTensor) -> bool:
    """Whether both are stored as the same bytes; those that differ mostly do so at once."""
    if (first.format, first.shape) != (second.format, second.shape) or first.place is None or second.place is None:
        return False
    ours, others = (np.frombuffer(tensor.read(), np.uint8) for tensor in (first, second))
    starts = range(0, ours.size, _COMPARED_BYTES)
    same = all(
        np.array_equal(ours[start : start + _COMPARED_BYTES], others[start : start + _COMPARED_BYTES])
        for start in starts
    )
    for tensor in (first, second):
        tensor.release()
    return same


def _stacked(rule: TensorRule) -> str | None:
    """The number that counts the tensors of a stack."""
    return next(iter(set(_PLACEHOLDER.findall(rule.published)) - set(_PLACEHOLDER.findall(rule.gguf))), None)


def _in_order(name: str, members: Mapping[int, PublishedTensor]) -> tuple[PublishedTensor, ...]:
    """The tensors of a stack, which must all be there and alike."""
    if sorted(members) != list(range(len(members))):
        raise FileFormatError(f"{name}: of {max(members) + 1} tensors to stack {len(members)} are there")
    sources = tuple(members[index] for index in range(len(members)))
    first = sources[0]
    if any((source.shape, source.format) != (first.shape, first.format) for source in sources):
        raise FileFormatError(f"{name}: the tensors to stack differ in shape or type")
    if not first.shape or 0 in first.shape:
        raise FileFormatError(f"tensor {first.name!r} has the shape {first.shape}")
    return sources


def _format(source: PublishedTensor, change: Change | Split | None) -> WeightFormat:
    """As stored, but vectors are float32 in GGUF, and blocks cannot be cut into columns."""
    if len(source.shape) == 1 or (change is not None and change.needs_floats):
        return WeightFormat.F32
    if source.format.is_quantised and change is not None and change.moves_columns:
        return WeightFormat.F32
    return source.format


def _read(source: PublishedTensor, weight_format: WeightFormat) -> Array:
    if weight_format is source.format or not source.format.is_quantised:
        array = as_array(source.format, source.shape, source.read())
        return array if weight_format is source.format else to_float32(source.format, array)
    if source.floats is None:
        raise UnsupportedModelError(f"tensor {source.name!r} cannot be rearranged in {source.format.label}")
    return source.floats()


def _computed(
    name: str,
    weight_format: WeightFormat,
    shape: tuple[int, ...],
    sources: tuple[PublishedTensor, ...],
    make: Callable[[], Array],
) -> ArrangedTensor:
    info = TensorInfo(name, weight_format, shape, 0, num_bytes(weight_format, shape))
    return ArrangedTensor(info, sources, lambda: as_bytes(make()))
