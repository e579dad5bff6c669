"""Models in several GGUF files.

File i of n is named stem-0000i-of-0000n.gguf and holds split.no = i - 1, split.count = n and split.tensors.count (in
all files together). The first one has the model's metadata.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from abaci.errors import FileFormatError
from abaci.formats.checkpoint import MetadataValue
from abaci.formats.gguf.header import GgufHeader
from abaci.formats.gguf.types import DAMAGED_HINT, SHARD_COUNT_KEY, SHARD_INDEX_KEY, SHARD_TENSORS_KEY
from abaci.tensor import TensorInfo

_SHARD_NAME: Final = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf")


def join_headers(headers: Sequence[GgufHeader]) -> GgufHeader:
    """The headers of all shards, in order, as one. Raises FileFormatError for shards that do not belong together."""
    if len(headers) == 1 and headers[0].num_shards == 1:
        return headers[0]
    _check_shards(headers)
    return GgufHeader(headers[0].path, _merge_metadata(headers), _merge_tensors(headers))


def shard_paths(shard: GgufHeader) -> list[Path]:
    """All files of the model that `shard` is one of, in order. Raises FileFormatError, also where one is missing."""
    count = shard.num_shards
    name = _SHARD_NAME.fullmatch(shard.path.name)
    if name is None or int(name["count"]) != count:
        raise FileFormatError(
            f"{shard.path}: one of {count} shards, but not named like one",
            hint=f"Restore its published name, <model>-00001-of-{count:05}.gguf, and keep all shards in one folder.",
        )
    paths = [shard.path.with_name(f"{name['stem']}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1)]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise FileFormatError(
            f"{shard.path}: of {count} shards these are missing: {', '.join(missing)}",
            hint="Put all shards into one folder.",
        )
    return paths


def _check_shards(shards: Sequence[GgufHeader]) -> None:
    for i, shard in enumerate(shards):
        for key, expected in ((SHARD_INDEX_KEY, i), (SHARD_COUNT_KEY, len(shards))):
            if shard.metadata.get(key) != expected:
                raise FileFormatError(
                    f"{shard.path}: {key} is {shard.metadata.get(key)!r}, expected {expected}",
                    hint="The file was renamed or belongs to another model.",
                )
    promised = shards[0].metadata.get(SHARD_TENSORS_KEY)
    found = sum(len(shard.tensors) for shard in shards)
    if promised != found:
        raise FileFormatError(
            f"{shards[0].path}: {SHARD_TENSORS_KEY} is {promised!r}, the shards hold {found}", hint=DAMAGED_HINT
        )


def _merge_metadata(shards: Sequence[GgufHeader]) -> dict[str, MetadataValue]:
    merged = dict(shards[0].metadata)
    for shard in shards[1:]:
        for key, value in shard.metadata.items():
            if key != SHARD_INDEX_KEY and merged.setdefault(key, value) != value:
                raise FileFormatError(
                    f"{shard.path}: metadata key {key!r} differs from {shards[0].path.name}",
                    hint="The shards belong to different models.",
                )
    return merged


def _merge_tensors(shards: Sequence[GgufHeader]) -> dict[str, TensorInfo]:
    merged: dict[str, TensorInfo] = {}
    for shard in shards:
        for name, tensor in shard.tensors.items():
            if name in merged:
                raise FileFormatError(
                    f"{shard.path}: tensor {name!r} is in another shard too",
                    hint="The shards belong to different models.",
                )
            merged[name] = tensor
    return merged
