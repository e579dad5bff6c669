"""A checkpoint with adapters beside it: the model's own tensors as they are, and those of each adapter under new names.

Nothing is merged: what the adapters add is computed beside the model's own products (`models.spec.LowRank`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from abaci.errors import AbaciError
from abaci.formats.adapter import Adapter, AdapterTensor, LoraChoice
from abaci.formats.checkpoint import Checkpoint, MetadataValue
from abaci.formats.opening import open_adapter
from abaci.formats.tokenizer import Tokenizer
from abaci.models.adapters import Update, adapted
from abaci.models.spec import ModelSpec
from abaci.tensor import TensorInfo


class AdaptedCheckpoint:
    """`formats.checkpoint.Checkpoint` over a model's, which is this one's from now on, and open adapters.

    `paths`, `descriptors` and metadata are the model's alone. Adapters' tensors are computed, never "stored": no row of
    them is read from a file later.
    """

    def __init__(self, source: Checkpoint, choices: Sequence[LoraChoice]) -> None:
        """Raises what `formats.opening.open_adapter` raises, UsageError for a scale that is no number."""
        self._source = source
        self._adapters: list[Adapter] = []
        self._choices = tuple(choice.checked() for choice in choices)
        self._own: dict[str, AdapterTensor] = {}
        try:
            for choice in self._choices:
                adapter = open_adapter(choice.path, source)
                self._adapters.append(adapter)
                number = len(self._adapters)
                self._own |= {_name(name, number): tensor for name, tensor in adapter.tensors.items()}
        except BaseException:
            self._close_adapters()
            raise
        infos = {name: replace(tensor.info, name=name) for name, tensor in self._own.items()}
        self._tensors = MappingProxyType({**source.tensors, **infos})

    def adapted(self, spec: ModelSpec) -> ModelSpec:
        """The model's spec with every adapter. Raises UsageError, UnsupportedModelError that name the adapter."""
        for number, (adapter, choice) in enumerate(zip(self._adapters, self._choices, strict=True), 1):
            try:
                spec = adapted(spec, [_numbered(update, number) for update in adapter.updates], choice.scale)
            except AbaciError as error:
                raise type(error)(f"{adapter.path}: {error.message}", hint=error.hint) from None
        return spec

    @property
    def paths(self) -> tuple[Path, ...]:
        """Of the model."""
        return self._source.paths

    @property
    def metadata(self) -> Mapping[str, MetadataValue]:
        """Of the model."""
        return self._source.metadata

    def gguf_metadata(self) -> Mapping[str, MetadataValue]:
        """Of the model."""
        return self._source.gguf_metadata()

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The model's, then the adapters'."""
        return self._tensors

    @property
    def notes(self) -> tuple[str, ...]:
        """Of the model and of each adapter."""
        return self._source.notes + tuple(note for adapter in self._adapters for note in adapter.notes)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Of the model."""
        return self._source.descriptors

    def data(self, tensor: TensorInfo) -> memoryview:
        """The tensor's bytes."""
        own = self._own.get(tensor.name)
        return self._source.data(tensor) if own is None else own.read()

    def is_stored(self, tensor: TensorInfo) -> bool:
        """Whether it is a tensor of the model that stands in its file as it is."""
        return tensor.name not in self._own and self._source.is_stored(tensor)

    def tokenizer(self) -> Tokenizer:
        """Of the model."""
        return self._source.tokenizer()

    def release(self, tensor: TensorInfo) -> None:
        """Drop the tensor's pages."""
        own = self._own.get(tensor.name)
        if own is None:
            self._source.release(tensor)
        else:
            own.release()

    def close(self) -> None:
        """Close the adapters and the model. Idempotent."""
        self._close_adapters()
        self._source.close()

    def _close_adapters(self) -> None:
        for adapter in self._adapters:
            adapter.close()


def _name(name: str, number: int) -> str:
    """Of a tensor of the adapter with that number, which no model's tensor has."""
    return f"adapter {number}: {name}"


def _numbered(update: Update, number: int) -> Update:
    return replace(update, down=_name(update.down, number), up=_name(update.up, number))
