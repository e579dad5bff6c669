"""A model from one format to another, exactly where the types allow: into a GGUF file or a Hugging Face folder."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from abaci.errors import UnsupportedModelError, UsageError
from abaci.formats.checkpoint import TEMPLATE_KEY, Checkpoint, MetadataValue, check_is_model_file, own_template
from abaci.formats.destination import check_folder_of, check_new_file, check_room
from abaci.formats.generation_config import published_sampling
from abaci.formats.gguf import GGUF_FORMATS, TensorSource, write_gguf
from abaci.formats.huggingface_text import TEMPLATES_KEY
from abaci.formats.integer_blocks import as_gguf_blocks
from abaci.formats.publishing import Dequantise, publish
from abaci.formats.safetensors import TYPE_BYTES, NewTensor, write_safetensors
from abaci.formats.tokenizer_json import tokenizer_files
from abaci.formats.weight_arrays import as_bytes, num_bytes
from abaci.tensor import TensorInfo, WeightFormat

Progress = Callable[[int, int], None]
"""Told bytes done, and in all."""

_SHARD_BYTES: Final = 5_000_000_000
_OWN_FILES: Final = re.compile(
    r"(?:config|generation_config|tokenizer_config|tokenizer|model\.safetensors\.index)\.json"
    r"|chat_template\.jinja|additional_chat_templates|model(?:-\d{5}-of-\d{5})?\.safetensors"
)
"""What `convert_to_folder` writes."""
_NOTHING: Final[Mapping[str, MetadataValue]] = MappingProxyType({})
_FORMAT_VERSION_KEYS: Final = ("split.no", "split.count", "split.tensors.count")

TEMPLATE_ADDED: Final = "the model has no chat template of its own; the catalog's is written with it"
"""To be said where `template_to_add` adds one."""


def template_to_add(metadata: Mapping[str, MetadataValue], supplied: str | None) -> dict[str, MetadataValue]:
    """What to write into a copy of a model so that it answers as the model does with a template from elsewhere."""
    return {} if not supplied or own_template(metadata) else {TEMPLATE_KEY: supplied}


def convert_to_gguf(
    checkpoint: Checkpoint,
    destination: Path,
    *,
    extra_metadata: Mapping[str, MetadataValue] = _NOTHING,
    progress: Progress = lambda done, total: None,
) -> None:
    """Write a model as one GGUF file: whole, or not at all. Integers of other checkpoints become Q4_0 and Q8_0.

    `extra_metadata` goes into the file beside, or in place of, the model's own.
    Raises UnsupportedModelError for weights or a vocabulary that GGUF cannot express; UsageError and ResourceError for
    a place where the file cannot be, or has no room.
    """
    check_is_model_file(checkpoint)
    check_new_file(destination, replace=True)
    total_bytes = sum(tensor.num_bytes for tensor in checkpoint.tensors.values())
    done_bytes = 0

    def pieces(tensor: TensorInfo) -> Iterator[memoryview]:
        nonlocal done_bytes
        data = checkpoint.data(tensor)
        yield data if tensor.format in GGUF_FORMATS else as_bytes(_exact_blocks(tensor, data)[1])
        checkpoint.release(tensor)
        done_bytes += tensor.num_bytes
        progress(done_bytes, total_bytes)

    metadata = {key: value for key, value in checkpoint.gguf_metadata().items() if key not in _FORMAT_VERSION_KEYS}
    sources: list[TensorSource] = [
        (name, _gguf_format(checkpoint, tensor), tensor.shape, partial(pieces, tensor))
        for name, tensor in checkpoint.tensors.items()
    ]
    check_room(destination, sum(num_bytes(weight_format, shape) for _, weight_format, shape, _ in sources))
    write_gguf(destination, {**metadata, **extra_metadata}, sources)


def _gguf_format(checkpoint: Checkpoint, tensor: TensorInfo) -> WeightFormat:
    if tensor.format in GGUF_FORMATS:
        return tensor.format
    weight_format, _ = _exact_blocks(tensor, checkpoint.data(tensor))
    checkpoint.release(tensor)
    return weight_format


def _exact_blocks(tensor: TensorInfo, data: memoryview) -> tuple[WeightFormat, NDArray[np.uint8]]:
    found = as_gguf_blocks(tensor.format, data)
    if found is None:
        raise UnsupportedModelError(
            f"tensor {tensor.name} has zero points or scales that no format of GGUF holds exactly",
            hint="Run the folder as it is, or round once more: abaci quantize SRC DST --type q4_0 --allow-requantize.",
        )
    return found


def convert_to_folder(
    checkpoint: Checkpoint,
    destination: Path,
    dequantise: Dequantise,
    *,
    wanted: WeightFormat | None = None,
    replace: bool = False,
    extra_metadata: Mapping[str, MetadataValue] = _NOTHING,
    progress: Progress = lambda done, total: None,
) -> None:
    """Write a model as a Hugging Face folder: whole, or not at all. `wanted` as in `publish`, `extra_metadata` as in
    `convert_to_gguf`.

    With `replace` it takes the place of a folder of that name, which may hold nothing but what is written here.
    Raises UsageError if the folder is there, or holds more; UnsupportedModelError for a model that no published type
    describes; ResourceError where the disk has no room.
    """
    check_is_model_file(checkpoint)
    if os.path.lexists(destination):
        _check_place(destination, replace)
    check_folder_of(destination)
    metadata = {**checkpoint.gguf_metadata(), **extra_metadata}
    folder = publish(checkpoint, dequantise, wanted)
    text = tokenizer_files(metadata)
    check_room(destination, sum(map(_size, folder.tensors)))
    unfinished = Path(tempfile.mkdtemp(dir=destination.absolute().parent, prefix=f".{destination.name}."))
    try:
        ends = {"eos_token_id": list(text.end_token_ids)} if text.end_token_ids else {}
        _write_json(unfinished / "config.json", folder.config)
        _write_json(unfinished / "generation_config.json", {**ends, **published_sampling(metadata)})
        _write_json(unfinished / "tokenizer_config.json", text.tokenizer_config)
        (unfinished / "tokenizer.json").write_text(text.tokenizer_json, encoding="utf-8")
        _write_templates(unfinished, metadata)
        _write_weights(unfinished, folder.tensors, progress)
        unfinished.chmod(0o755)
        _put(unfinished, destination)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _check_place(destination: Path, replace: bool) -> None:
    """Nothing is deleted that a conversion would not have written."""
    if not replace:
        raise UsageError(f"{destination} is there already", hint="Give the name of a folder that is not.")
    if destination.is_symlink() or not destination.is_dir():
        raise UsageError(f"{destination} is not a folder, and is not written over", hint="Give the name of a folder.")
    others = sorted(path.name for path in destination.iterdir() if _OWN_FILES.fullmatch(path.name) is None)
    if others:
        raise UsageError(
            f"{destination} holds more than a converted model, such as {others[0]}: it is not written over",
            hint="Choose another name, or move what is to be kept.",
        )


def _put(unfinished: Path, destination: Path) -> None:
    """Under its name; what had the name before is deleted once the new folder is there."""
    if not destination.exists():
        unfinished.rename(destination)
        return
    with tempfile.TemporaryDirectory(dir=unfinished.parent, prefix=f".{destination.name}.") as aside:
        former = destination.rename(Path(aside) / "former")
        try:
            unfinished.rename(destination)
        except BaseException:
            former.rename(destination)
            raise


def _write_weights(folder: Path, tensors: tuple[NewTensor, ...], progress: Progress) -> None:
    """One file, or several with an index where they are large."""
    shards = _shards(tensors)
    total_bytes = sum(map(_size, tensors))
    done_bytes = 0
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / name, shard)
        weight_map |= dict.fromkeys((tensor[0] for tensor in shard), name)
        done_bytes += sum(map(_size, shard))
        progress(done_bytes, total_bytes)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
        _write_json(folder / "model.safetensors.index.json", index)


def _shards(tensors: tuple[NewTensor, ...]) -> list[list[NewTensor]]:
    shards: list[list[NewTensor]] = [[]]
    num_bytes = 0
    for tensor in tensors:
        if shards[-1] and num_bytes + _size(tensor) > _SHARD_BYTES:
            shards.append([])
            num_bytes = 0
        shards[-1].append(tensor)
        num_bytes += _size(tensor)
    return shards


def _size(tensor: NewTensor) -> int:
    _, dtype, shape, _ = tensor
    num_bytes = TYPE_BYTES[dtype]
    for size in shape:
        num_bytes *= size
    return num_bytes


def _write_templates(folder: Path, metadata: Mapping[str, MetadataValue]) -> None:
    default = metadata.get(TEMPLATE_KEY)
    if isinstance(default, str):
        (folder / "chat_template.jinja").write_text(default, encoding="utf-8", newline="")
    others = metadata.get(TEMPLATES_KEY)
    for name in others if isinstance(others, list) else []:
        template = metadata.get(f"{TEMPLATE_KEY}.{name}")
        if isinstance(template, str) and isinstance(name, str) and name.isidentifier():
            (folder / "additional_chat_templates").mkdir(exist_ok=True)
            path = folder / "additional_chat_templates" / f"{name}.jinja"
            path.write_text(template, encoding="utf-8", newline="")


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
