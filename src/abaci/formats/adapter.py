"""LoRA adapters (Hu et al. 2021) as files: GGUF as llama.cpp's converter writes them, and folders as PEFT saves them.

An adapter is tensors under the names of the model's, and what to multiply their products with. Must not know what a
model does with them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Self

from abaci.errors import AbaciError, FileFormatError, UnsupportedModelError, UsageError
from abaci.formats.checkpoint import Checkpoint, MetadataValue
from abaci.formats.gguf import GgufCheckpoint
from abaci.models.adapters import Update
from abaci.tensor import TensorInfo

_HALVES: Final = (".lora_a", ".lora_b")
_ALPHA_KEY: Final = "adapter.lora.alpha"
_KNOWN_KEYS: Final = frozenset({"adapter.type", _ALPHA_KEY, "adapter.lora.task_name", "adapter.lora.prompt_prefix"})
_ANOTHER: Final = "Use the adapter with the model that its publisher names."


@dataclass(frozen=True, slots=True)
class LoraChoice:
    """An adapter that a user wants: a file or folder, and how much of it."""

    path: Path
    scale: float = 1.0

    @classmethod
    def from_text(cls, text: str) -> Self:
        """FILE, or FILE=SCALE. Raises UsageError."""
        path, equals, scale = text.rpartition("=")
        if not equals or Path(text).exists():
            return cls(Path(text))
        try:
            return cls(Path(path), float(scale)).checked()
        except ValueError:
            raise UsageError(
                f"the adapter {text!r} has the scale {scale!r}, which is no number", hint="Write FILE or FILE=SCALE."
            ) from None

    def checked(self) -> Self:
        """Itself. Raises UsageError for a scale that is no number."""
        if not math.isfinite(self.scale):
            raise UsageError(f"the adapter {self.path} has the scale {self.scale}", hint="Give a finite number.")
        return self


@dataclass(frozen=True, slots=True)
class AdapterTensor:
    """A matrix of an adapter under GGUF's name, and how to get its bytes."""

    info: TensorInfo
    read: Callable[[], memoryview]
    release: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Adapter:
    """An open adapter; `close` unmaps."""

    path: Path
    updates: tuple[Update, ...]
    tensors: Mapping[str, AdapterTensor]
    """By the names that the updates give."""
    notes: tuple[str, ...]
    close: Callable[[], None]


def read_gguf_adapter(path: Path, base: Checkpoint) -> Adapter:
    """An adapter of the model `base` from a GGUF file.

    Raises what `GgufCheckpoint.open` raises; FileFormatError for a file that is no sound adapter, UnsupportedModelError
    for a kind that this version does not know, UsageError for one of another architecture.
    """
    file = GgufCheckpoint.open(path)
    try:
        _check_kind(file.metadata, base.metadata)
        tensors = {
            name: AdapterTensor(info, partial(file.data, info), partial(file.release, info))
            for name, info in file.tensors.items()
        }
        alpha = _alpha(file.metadata)
        updates = pair_up(tensors, lambda target, rank: 1.0 if alpha is None else alpha / rank)
    except AbaciError as error:
        file.close()
        raise type(error)(f"{path}: {error.message}", hint=error.hint) from None
    except BaseException:
        file.close()
        raise
    return Adapter(path, updates, tensors, _notes(path, file.metadata), file.close)


def _check_kind(metadata: Mapping[str, MetadataValue], base: Mapping[str, MetadataValue]) -> None:
    kind, method = metadata.get("general.type"), metadata.get("adapter.type")
    if kind != "adapter":
        raise FileFormatError(
            f"not an adapter: general.type is {kind!r}", hint="Adapters are made by llama.cpp's convert_lora_to_gguf."
        )
    if method != "lora":
        raise UnsupportedModelError(f"adapter.type is {method!r}; only 'lora' is supported", hint=_ANOTHER_KIND)
    own, wanted = metadata.get("general.architecture"), base.get("general.architecture")
    if own != wanted:
        raise UsageError(f"an adapter for the architecture {own!r}; the model's is {wanted!r}", hint=_ANOTHER)
    unknown = sorted(key for key in metadata if key.startswith("adapter.") and key not in _KNOWN_KEYS)
    if unknown:
        raise UnsupportedModelError(f"an adapter with {', '.join(unknown)} is not supported", hint=_ANOTHER_KIND)


_ANOTHER_KIND: Final = "Use a plain LoRA adapter, or the merged model."


def _notes(path: Path, metadata: Mapping[str, MetadataValue]) -> tuple[str, ...]:
    prefix = metadata.get("adapter.lora.prompt_prefix")
    return (f"{path.name} expects prompts that begin with {prefix!r}; none is added",) if prefix else ()


def _alpha(metadata: Mapping[str, MetadataValue]) -> float | None:
    """None, which is a factor of 1 for any rank, where the file has none or 0: so llama.cpp reads it."""
    alpha = metadata.get(_ALPHA_KEY, 0.0)
    return None if alpha == 0 and alpha is not False else check_alpha(alpha, _ALPHA_KEY)


def check_alpha(alpha: object, key: str) -> float:
    """A positive, finite number. Raises FileFormatError that names the key."""
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha) or alpha <= 0:
        raise FileFormatError(
            f"{key} is {alpha!r}, not a positive number", hint="The adapter was converted wrongly; convert it again."
        )
    return float(alpha)


def pair_up(tensors: Mapping[str, AdapterTensor], factor: Callable[[str, int], float]) -> tuple[Update, ...]:
    """An update of each pair NAME.lora_a, NAME.lora_b; `factor` is of (NAME, rank).

    Raises FileFormatError for a half alone or halves that do not fit, UnsupportedModelError for any other tensor.
    """
    if not tensors:
        raise FileFormatError("the adapter is empty")
    if others := [name for name in tensors if not name.endswith(_HALVES)]:
        raise UnsupportedModelError(
            f"it has tensors that are no low-rank updates: {_listed(others)}", hint=_ANOTHER_KIND
        )
    targets = dict.fromkeys(name.removesuffix(_HALVES[0]).removesuffix(_HALVES[1]) for name in tensors)
    return tuple(_update(target, tensors, factor) for target in targets)


def _update(target: str, tensors: Mapping[str, AdapterTensor], factor: Callable[[str, int], float]) -> Update:
    down, up = (target + half for half in _HALVES)
    for name in (down, up):
        if name not in tensors:
            raise FileFormatError(f"tensor {name} is missing, its other half is there")
        if len(tensors[name].info.shape) != 2:
            raise UnsupportedModelError(
                f"tensor {name} has the shape {tensors[name].info.shape}; only single matrices can be adapted",
                hint=_ANOTHER_KIND,
            )
    rank, in_features = tensors[down].info.shape
    out_features, rank_of_up = tensors[up].info.shape
    if rank != rank_of_up:
        raise FileFormatError(f"{down} has the rank {rank} and {up} the rank {rank_of_up}")
    return Update(target, down, up, rank, in_features, out_features, factor(target, rank))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
