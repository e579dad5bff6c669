"""Random LoRA adapters for any model, as GGUF files, and the model that they would be merged into."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from abaci.engine.adapted import AdaptedCheckpoint
from abaci.formats.adapter import LoraChoice
from abaci.formats.gguf import write_gguf
from abaci.formats.opening import open_checkpoint
from abaci.formats.weight_arrays import as_bytes, from_float32, to_float32
from abaci.kernels.dequantise import dequantise
from abaci.kernels.weights import RawTensor, TensorSource
from abaci.models.families import spec_from_gguf
from abaci.models.spec import ModelSpec
from abaci.tensor import WeightFormat

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class RandomAdapter:
    """Matrices A and B by the tensor they change, as stored in `weight_format`."""

    architecture: str
    alpha: float
    weight_format: WeightFormat
    pairs: Mapping[str, tuple[Matrix, Matrix]]

    def write(self, path: Path, **metadata: object) -> Path:
        """As a GGUF file, `metadata` over the usual keys; None leaves a key out."""
        keys = {
            "general.architecture": self.architecture,
            "general.type": "adapter",
            "adapter.type": "lora",
            "adapter.lora.alpha": self.alpha,
        } | metadata
        tensors = [
            (
                f"{target}.lora_{half}",
                self.weight_format,
                values.shape,
                as_bytes(from_float32(self.weight_format, values)),
            )
            for target, pair in self.pairs.items()
            for half, values in zip("ab", pair, strict=True)
        ]
        write_gguf(path, {key: value for key, value in keys.items() if value is not None}, tensors)
        return path

    def delta(self, target: str, scale: float) -> NDArray[np.float64]:
        """What it adds to a tensor."""
        down, up = self.pairs[target]
        return scale * self.alpha / len(down) * (up.astype(np.float64) @ down.astype(np.float64))


def random_adapter(
    path: Path,
    rank: int = 4,
    alpha: float = 6.0,
    seed: int = 0,
    weight_format: WeightFormat = WeightFormat.F32,
    up_size: float = 0.05,
    parts: Sequence[str] = (),
) -> RandomAdapter:
    """For every matrix of the layers of the model at `path`, or those whose names have one of `parts` in them."""
    random = np.random.default_rng(seed)

    def values(rows: int, columns: int, size: float = 1.0) -> Matrix:
        drawn = random.standard_normal((rows, columns), np.float32) * np.float32(size)
        return to_float32(weight_format, from_float32(weight_format, drawn))

    checkpoint = open_checkpoint(path)
    spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
    checkpoint.close()
    linears = {linear.weight: linear for linear in spec.linears() if linear.weight.startswith("blk.")}
    pairs = {
        name: (values(rank, linear.in_features), values(linear.stored_rows, rank, up_size))
        for name, linear in linears.items()
        if not parts or any(part in name for part in parts)
    }
    return RandomAdapter(spec.architecture, alpha, weight_format, pairs)


@dataclass(frozen=True)
class MergedTensors:
    """A model's tensors with what adapters add, in float32."""

    base: TensorSource
    adapters: Sequence[tuple[RandomAdapter, float]]

    def tensor(self, name: str) -> RawTensor:
        raw = self.base.tensor(name)
        deltas = [adapter.delta(name, scale) for adapter, scale in self.adapters if name in adapter.pairs]
        if not deltas:
            return raw
        values = dequantise(raw.format, raw.shape, raw.data) + sum(deltas)
        return RawTensor(WeightFormat.F32, raw.shape, as_bytes(values.astype(np.float32)))


def opened_with(path: Path, choices: Sequence[LoraChoice]) -> tuple[ModelSpec, AdaptedCheckpoint]:
    """Spec and checkpoint of a model with adapters."""
    base = open_checkpoint(path)
    try:
        spec = spec_from_gguf(base.metadata, base.tensors)
        checkpoint = AdaptedCheckpoint(base, choices)
        return checkpoint.adapted(spec), checkpoint
    except BaseException:
        base.close()
        raise
