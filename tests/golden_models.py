"""The committed tiny models (made by scripts/make_golden.py): their files, tensors and the original's logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from abaci.formats.checkpoint import Checkpoint
from abaci.formats.gguf import GgufCheckpoint
from abaci.kernels.weights import RawTensor
from abaci.models.families import spec_from_gguf
from abaci.models.spec import ModelSpec

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_NAMES = ("llama-float", "llama", "qwen2", "gemma3")


def golden_path(name: str) -> Path:
    return GOLDEN / f"{name}.gguf"


@dataclass(frozen=True)
class GoldenSequence:
    """Token ids and the original's logits after each of them, (tokens, vocab) float32."""

    token_ids: NDArray[np.int32]
    logits: NDArray[np.float32]


def golden_sequences(name: str) -> list[GoldenSequence]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return [GoldenSequence(arrays[f"tokens_{i}"], arrays[f"logits_{i}"]) for i in range(len(arrays.files) // 2)]


@dataclass(frozen=True)
class CheckpointTensors:
    """A checkpoint as an executor's source of weights. Copies, so that the file can be closed while they live."""

    checkpoint: Checkpoint

    def tensor(self, name: str) -> RawTensor:
        info = self.checkpoint.tensors[name]
        with self.checkpoint.data(info) as data:
            return RawTensor(info.format, info.shape, memoryview(data.tobytes()))


@contextmanager
def opened_model(path: Path) -> Iterator[tuple[ModelSpec, CheckpointTensors]]:
    """Spec and tensors of a GGUF file."""
    with GgufCheckpoint.open(path) as checkpoint:
        yield spec_from_gguf(checkpoint.metadata, checkpoint.tensors), CheckpointTensors(checkpoint)
