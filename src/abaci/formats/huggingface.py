"""A Hugging Face folder as a checkpoint: its settings and tensors under the names and in the arrangement of GGUF."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Final, Self

from abaci.errors import FileFormatError, ModelNotFoundError
from abaci.formats.arranging import ArrangedTensor, arrange
from abaci.formats.checkpoint import MetadataValue
from abaci.formats.huggingface_files import open_files, published_tensors
from abaci.formats.huggingface_text import TextFiles, pooling_metadata
from abaci.formats.json_file import read_object
from abaci.formats.published_model import PublishedModel
from abaci.formats.safetensors import SafetensorsFile
from abaci.formats.tokenizer import Tokenizer
from abaci.tensor import TensorInfo, WeightFormat

_CONFIG: Final = "config.json"
_EMBEDDING: Final = "token_embd.weight"
_HEAD: Final = "output.weight"
_FILE_TYPES: Final = {WeightFormat.F32: 0, WeightFormat.F16: 1, WeightFormat.BF16: 32}


@dataclass(frozen=True, slots=True)
class _Contents:
    """All that an open folder is made of."""

    config: BinaryIO
    files: tuple[SafetensorsFile, ...]
    metadata: Mapping[str, MetadataValue]
    arranged: Mapping[str, ArrangedTensor]
    text: TextFiles
    notes: tuple[str, ...]


class HuggingFaceCheckpoint:
    """A model folder, opened read-only. A context manager; if nobody holds it, it closes."""

    __slots__ = ("__weakref__", "_contents", "_tensors")

    def __init__(self, contents: _Contents) -> None:
        self._contents = contents
        self._tensors = MappingProxyType({name: tensor.info for name, tensor in contents.arranged.items()})

    @classmethod
    def open(cls, folder: Path | str, *, sorts_columns: bool = False) -> Self:
        """Open and check a folder; `sorts_columns` as in `arranging.arrange`.

        Raises ModelNotFoundError, FileFormatError (file and key in the message), and UnsupportedModelError for a sound
        folder of a type, setting or format that this version does not know.
        """
        folder = Path(folder)
        values = read_object(folder / _CONFIG)
        if values is None:
            raise ModelNotFoundError(f"{folder}: no {_CONFIG}", hint="Give a folder as published on Hugging Face.")
        with ExitStack() as opened:
            config = opened.enter_context((folder / _CONFIG).open("rb"))
            try:
                model = PublishedModel.read(values)
                files = open_files(folder, opened)
                arranged = arrange(model, published_tensors(files, model), sorts_columns=sorts_columns)
            except FileFormatError as error:
                raise type(error)(_in_folder(folder, error.message), hint=error.hint) from error
            text = TextFiles.read(folder, {**model.values, **values})
            metadata = _metadata(folder, model, arranged) | text.metadata()
            metadata |= pooling_metadata(folder, model.mapping.architecture)
            notes = (*model.notes, *text.notes())
            opened.pop_all()
        return cls(_Contents(config, tuple(files), MappingProxyType(metadata), arranged, text, notes))

    @property
    def paths(self) -> tuple[Path, ...]:
        """The safetensors files in order, and the settings."""
        return (*(file.path for file in self._contents.files), Path(self._contents.config.name))

    @property
    def metadata(self) -> Mapping[str, MetadataValue]:
        """As a GGUF file of this model would have it."""
        return self._contents.metadata

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """By GGUF's names."""
        return self._tensors

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know."""
        return self._contents.notes

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Of the same files."""
        return (*(file.descriptor for file in self._contents.files), self._contents.config.fileno())

    def gguf_metadata(self) -> Mapping[str, MetadataValue]:
        """The metadata and the vocabulary. Raises FileFormatError, UnsupportedModelError."""
        return {**self.metadata, **self._contents.text.tokenizer_keys(self._tensors[_EMBEDDING].shape[0])}

    def tokenizer(self) -> Tokenizer:
        """As `tokenizer.json` and its neighbours describe it. Raises FileFormatError, UnsupportedModelError."""
        return self._contents.text.tokenizer(self._tensors[_EMBEDDING].shape[0])

    def data(self, tensor: TensorInfo) -> memoryview:
        """The tensor's bytes: a view of the file, or made now and the caller's alone."""
        arranged = self._contents.arranged[tensor.name]
        return arranged.sources[0].read() if arranged.compute is None else arranged.compute()

    def is_stored(self, tensor: TensorInfo) -> bool:
        """Whether the bytes stand in a file as they are."""
        return self._contents.arranged[tensor.name].compute is None

    def release(self, tensor: TensorInfo) -> None:
        """Drop the pages of what the tensor comes from."""
        for source in self._contents.arranged[tensor.name].sources:
            source.release()

    def close(self) -> None:
        """Unmap. Idempotent."""
        for file in self._contents.files:
            file.close()
        self._contents.config.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _in_folder(folder: Path, message: str) -> str:
    return message if message.startswith(str(folder)) else f"{folder}: {message}"


def _metadata(folder: Path, model: PublishedModel, arranged: Mapping[str, ArrangedTensor]) -> dict[str, MetadataValue]:
    architecture = model.mapping.architecture
    bytes_by_format: dict[WeightFormat, int] = {}
    for tensor in arranged.values():
        info = tensor.info
        bytes_by_format[info.format] = bytes_by_format.get(info.format, 0) + info.num_bytes
    metadata: dict[str, MetadataValue] = {
        "general.architecture": architecture,
        "general.type": "model",
        "general.name": folder.resolve().name,
    }
    most = max(bytes_by_format, key=lambda weight_format: bytes_by_format[weight_format], default=None)
    if most in _FILE_TYPES:
        metadata["general.file_type"] = _FILE_TYPES[most]
    if _HEAD not in arranged and not model.is_tied:
        metadata[f"{architecture}.has_head"] = False
    return metadata | {f"{architecture}.{key}": value for key, value in model.settings.items()}
