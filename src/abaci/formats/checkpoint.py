"""One interface to any stored model: metadata, tensors, tokenizer. Readers: `gguf` and `huggingface`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from abaci.errors import UnsupportedModelError
from abaci.models.families import check_is_model
from abaci.tensor import TensorInfo

if TYPE_CHECKING:
    from abaci.formats.tokenizer import Tokenizer

MetadataValue = str | bool | int | float | list[str] | list[bool] | list[int] | list[float]

TEMPLATE_KEY: Final = "tokenizer.chat_template"


class Checkpoint(Protocol):
    """A model on disk, opened read-only. A context manager; `close` unmaps."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files it is read from: those with tensors first, in order of `file_index`."""

    @property
    def metadata(self) -> Mapping[str, MetadataValue]:
        """Keys as GGUF names them, e.g. `qwen2.block_count`; the vocabulary may be left out."""

    def gguf_metadata(self) -> Mapping[str, MetadataValue]:
        """All that a GGUF file of this model says before its tensors: `metadata`, with the vocabulary.

        Raises UnsupportedModelError for a vocabulary that GGUF cannot express.
        """

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """By name, in file order; names and arrangement are GGUF's."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of this model: a sentence each."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The same files, open: all of the model's values follow from them."""

    def data(self, tensor: TensorInfo) -> memoryview:
        """The tensor's bytes, read-only, exactly `tensor.num_bytes` long: a view of the file, or computed from it."""

    def tokenizer(self) -> "Tokenizer":
        """Of the model. Raises FileFormatError, UnsupportedModelError for an unknown kind."""

    def is_stored(self, tensor: TensorInfo) -> bool:
        """Whether the tensor's bytes stand in its file, at `tensor.offset`; else they are computed."""

    def release(self, tensor: TensorInfo) -> None:
        """Tell the system that the tensor's pages will not be read again soon, so that they stop counting as ours."""

    def close(self) -> None:
        """Unmap, once no view is held any more."""


def own_template(metadata: Mapping[str, MetadataValue]) -> str | None:
    """The chat template that a model's own files hold."""
    template = metadata.get(TEMPLATE_KEY)
    return template if isinstance(template, str) and template else None


def check_is_model_file(checkpoint: Checkpoint) -> None:
    """Raises UnsupportedModelError, naming the file, for what is an adapter or importance."""
    try:
        check_is_model(checkpoint.metadata)
    except UnsupportedModelError as error:
        raise type(error)(f"{checkpoint.paths[0]}: {error.message}", hint=error.hint) from None
