"""The weights of a model folder: safetensors files, one or several with an index, as tensors by name.

Nothing in a folder is run: pickled files are refused. Knows no type of model.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from abaci.errors import FileFormatError, UnsupportedModelError
from abaci.formats.json_file import read_object
from abaci.formats.published_model import PublishedModel
from abaci.formats.safetensors import SafetensorsFile
from abaci.formats.weight_parts import Remarks, Scheme, SortedWeight, StoredPart
from abaci.tensor import WeightFormat

_WEIGHTS: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_MAX_SHARDS: Final = 1 << 12
_FLOAT_FORMATS: Final = {"F32": WeightFormat.F32, "F16": WeightFormat.F16, "BF16": WeightFormat.BF16}


@dataclass(frozen=True, slots=True)
class PublishedTensor:
    """A tensor under its published name: bytes of a format, wherever they come from."""

    name: str
    format: WeightFormat
    shape: tuple[int, ...]
    read: Callable[[], memoryview]
    release: Callable[[], None]
    place: tuple[int, int] | None
    """Index of the file and offset in it, where the bytes stand as they are."""
    floats: Callable[[], NDArray[np.float32]] | None = None
    """The values, of a format with blocks."""
    sorted: SortedWeight | None = None
    """The same with its columns in another order."""


_CACHE_SCALE: Final = re.compile(
    r"\.self_attn\.(?:(?:attn\.|[kv]_proj\.)?[qkv]_(?:scale|zero_point)|[kv]_proj\.output_(?:scale|zero_point))\Z"
)
"""Of a model that was quantised together with its cache: they scale what the original keeps, not what it computes."""


def open_files(folder: Path, opened: ExitStack) -> list[SafetensorsFile]:
    """The one file, or the shards that the index names, in order of name."""
    index = read_object(folder / _INDEX)
    names = [_WEIGHTS] if index is None else _shard_names(index)
    if index is None and not (folder / _WEIGHTS).exists():
        raise _no_weights(folder)
    files = []
    for name in names:
        file = SafetensorsFile.open(folder / name)
        opened.callback(file.close)
        files.append(file)
    if index is not None:
        _check_index(index["weight_map"], dict(zip(names, files, strict=True)))
    return files


def _no_weights(folder: Path) -> FileFormatError:
    pickled = [path.name for path in sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt*"))]
    if pickled:
        return UnsupportedModelError(
            f"{folder}: weights only as {pickled[0]}, a pickle: reading one can run any code, so none is opened",
            hint="Use the model's safetensors files; most publishers have them in the same place.",
        )
    return FileFormatError(f"{folder}: no {_WEIGHTS} and no {_INDEX}")


def _shard_names(index: Mapping[str, Any]) -> list[str]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise FileFormatError(f"{_INDEX}: weight_map is not an object of file names")
    names = sorted(set(weight_map.values()))
    if not 0 < len(names) <= _MAX_SHARDS:
        raise FileFormatError(f"{_INDEX}: names {len(names)} files")
    for name in names:
        if Path(name).name != name or "\0" in name or not name.endswith(".safetensors"):
            raise FileFormatError(f"{_INDEX}: {name[:80]!r} is not the name of a safetensors file beside it")
    return names


def _check_index(weight_map: Mapping[str, str], files: Mapping[str, SafetensorsFile]) -> None:
    for tensor, name in weight_map.items():
        if tensor not in files[name].tensors:
            raise FileFormatError(
                f"{_INDEX} says that {name} has the tensor {tensor!r}; it has not",
                hint="The shards belong to different models, or the index does: fetch them again.",
            )


def published_tensors(files: Sequence[SafetensorsFile], model: PublishedModel) -> dict[str, PublishedTensor]:
    """All tensors of the text model, by their names in a model that has no other parts; quantised ones put together."""
    stored: dict[str, tuple[int, StoredPart]] = {}
    others: set[str] = set()
    for index, file in enumerate(files):
        for tensor in file.tensors.values():
            name = _text_name(tensor.name) if model.has_other_parts else tensor.name
            if name is None:
                others.add(tensor.name.removeprefix("model.").partition(".")[0])
                continue
            if name in stored:
                raise FileFormatError(f"{file.path}: tensor {tensor.name!r} is in another file too")
            stored[name] = (index, StoredPart(file, tensor))
    if others:
        model.note(f"only the text model is used; parts left out: {', '.join(sorted(others))}")
    if "embed_tokens.weight" in stored:  # saved without the head, as embedding models are
        stored = {name if name.startswith("lm_head.") else f"model.{name}": part for name, part in stored.items()}
    published = {} if model.scheme is None else _put_together(stored, model, model.scheme)
    for name, (index, part) in stored.items():
        published[name] = _published(name, index, part)
    return published


def _put_together(
    stored: dict[str, tuple[int, StoredPart]], model: PublishedModel, scheme: Scheme
) -> dict[str, PublishedTensor]:
    """Weights that come in several parts, which are taken out of `stored`."""
    naming = scheme.naming
    for name in [name for name in stored if _CACHE_SCALE.search(name) is not None]:
        model.note("scales of the original's 8-bit cache are left out: the cache here has its own (--kv-type int8)")
        del stored[name]
    modules: dict[str, dict[str, StoredPart]] = {}
    for name, (_, part) in stored.items():
        module, _, last = name.rpartition(naming.joint)
        if last in naming.parts:
            modules.setdefault(module, {})[last] = part
    published = {}
    remarks = Remarks()
    for module, parts in modules.items():
        if naming.marks.isdisjoint(parts):
            continue
        weight = scheme.weight(parts, remarks)
        name = module + naming.joint + naming.whole
        release = partial(_release, tuple(parts.values()))
        published[name] = PublishedTensor(
            name, weight.format, weight.shape, weight.read, release, None, weight.floats, weight.sorted
        )
        for last in parts:
            del stored[module + naming.joint + last]
    for sentence in (*remarks.sentences(), *([] if scheme.note is None else [scheme.note])):
        model.note(sentence)
    return published


def _release(parts: Iterable[StoredPart]) -> None:
    for part in parts:
        part.file.release(part.stored)


_TEXT_PREFIXES: Final = (("language_model.", ""), ("model.language_model.", "model."))


def _text_name(name: str) -> str | None:
    """The name inside the text model, or None for a tensor of another part."""
    for prefix, own in _TEXT_PREFIXES:
        if name.startswith(prefix):
            return own + name.removeprefix(prefix)
    return name if name.startswith("lm_head.") else None


def _published(name: str, index: int, part: StoredPart) -> PublishedTensor:
    file, stored = part.file, part.stored
    weight_format = _FLOAT_FORMATS.get(stored.dtype)
    if weight_format is None:
        raise UnsupportedModelError(f"{file.path}: tensor {stored.name!r} of the type {stored.dtype} is not supported")
    place = (index, stored.offset)
    return PublishedTensor(
        name, weight_format, stored.shape, partial(file.data, stored), partial(file.release, stored), place
    )
