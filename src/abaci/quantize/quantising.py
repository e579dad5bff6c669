"""From an open checkpoint to a quantised GGUF file, tensor by tensor; only a few rows at a time are floats.

Must not know what the file will be measured with, nor where progress is shown.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from abaci.engine.quantised import quantised_pieces
from abaci.errors import UsageError
from abaci.formats.checkpoint import Checkpoint, MetadataValue, check_is_model_file
from abaci.formats.gguf import TensorSource, write_gguf
from abaci.models.mixtures import Mixture, ModelFacts, choose_formats, is_quantisable
from abaci.quantize.importance import Importance
from abaci.tensor import TensorInfo, WeightFormat

IMPORTANCE_KEY: Final = "abaci.quantize.importance"
"""Metadata: what the importance of inputs was measured on."""

_QUANTISATION_VERSION: Final = 2
"""`general.quantization_version`: of the block layouts, as of all files since 2023."""

_SPLIT_PREFIX: Final = "split."
_LOW_BITS: Final = 8

Progress = Callable[[int, int], None]
"""Told bytes of the source done, and in all."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What will become of every tensor of a checkpoint."""

    mixture: Mixture
    formats: Mapping[str, WeightFormat]
    metadata: Mapping[str, MetadataValue]
    num_bytes: int
    """Of all tensors, as they will be."""
    without_importance: tuple[str, ...]
    """Names of matrices that importance was given for others but not for these."""


def plan_quantisation(
    checkpoint: Checkpoint,
    mixture: Mixture,
    *,
    importance: Importance | None = None,
    is_pure: bool = False,
    allow_requantize: bool = False,
) -> Plan:
    """Choose all formats.

    Raises UsageError for a source of few bits, UnsupportedModelError for one that is no model, FileFormatError for
    importance of another.
    """
    check_is_model_file(checkpoint)
    tensors = checkpoint.tensors
    if not allow_requantize:
        _refuse_few_bits(checkpoint, mixture)
    formats = choose_formats(
        mixture,
        ModelFacts.of(checkpoint.metadata, tensors),
        tensors.values(),
        has_importance=importance is not None,
        is_pure=is_pure,
    )
    metadata = {key: value for key, value in checkpoint.gguf_metadata().items() if not key.startswith(_SPLIT_PREFIX)}
    metadata = {key: value for key, value in metadata.items() if not key.startswith("abaci.")}
    metadata |= {"general.file_type": mixture.file_type, "general.quantization_version": _QUANTISATION_VERSION}
    missing: tuple[str, ...] = ()
    if importance is not None:
        metadata[IMPORTANCE_KEY] = importance.source
        matrices = [tensor for tensor in tensors.values() if is_quantisable(tensor)]
        missing = tuple(tensor.name for tensor in matrices if importance.of(tensor) is None)
    num_bytes = sum(
        math.prod(tensor.shape) // formats[name].block_size * formats[name].block_bytes
        for name, tensor in tensors.items()
    )
    return Plan(mixture, formats, metadata, num_bytes, missing)


def write_quantised(
    checkpoint: Checkpoint,
    plan: Plan,
    destination: Path,
    *,
    importance: Importance | None = None,
    extra_metadata: Mapping[str, MetadataValue],
    examine: Callable[[Path], Mapping[str, float]] | None = None,
    pool: Any = None,
    progress: Progress = lambda done, total: None,
) -> None:
    """Write the planned file, whole or not at all; `examine` as in `write_gguf`. Raises FileFormatError, UsageError."""
    total_bytes = sum(tensor.num_bytes for tensor in checkpoint.tensors.values())
    done_bytes = 0

    def pieces(tensor: TensorInfo) -> Iterator[bytes | memoryview]:
        nonlocal done_bytes
        weights = None if importance is None else importance.of(tensor)
        yield from quantised_pieces(checkpoint, tensor, plan.formats[tensor.name], weights, pool)
        checkpoint.release(tensor)
        done_bytes += tensor.num_bytes
        progress(done_bytes, total_bytes)

    sources: list[TensorSource] = [
        (name, plan.formats[name], tensor.shape, partial(pieces, tensor)) for name, tensor in checkpoint.tensors.items()
    ]
    write_gguf(destination, {**plan.metadata, **extra_metadata}, sources, examine=examine)


def _refuse_few_bits(checkpoint: Checkpoint, mixture: Mixture) -> None:
    for tensor in checkpoint.tensors.values():
        weight_format = tensor.format
        bits = 8 * weight_format.block_bytes / weight_format.block_size
        if is_quantisable(tensor) and weight_format.is_quantised and bits < _LOW_BITS:
            raise UsageError(
                f"{checkpoint.paths[0].name} is already quantised: tensor {tensor.name} is {weight_format.label}",
                hint=f"Quantise the original to {mixture.name.lower()} instead: errors add up. "
                "If there is none, say --allow-requantize.",
            )
