"""Small decoders of published shapes with random float weights, held in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from abaci.kernels.weights import RawTensor
from abaci.models.families import spec_from_gguf
from abaci.models.spec import ModelSpec
from abaci.quantize.shapes import Shape, shape_named
from abaci.tensor import TensorInfo, WeightFormat

VOCAB_SIZE = 96

PLAIN = replace(
    shape_named("qwen2.5", "0.5b"), num_layers=2, hidden_size=128, num_heads=6, head_size=64, mlp_size=64,
    vocab_size=VOCAB_SIZE,
)  # fmt: skip
WINDOWED = replace(
    shape_named("gemma3", "270m"), num_layers=6, hidden_size=64, num_heads=2, head_size=40, mlp_size=64, window=33,
    vocab_size=VOCAB_SIZE,
)  # fmt: skip
"""Heads whose last group is a short one."""
LATENT = replace(
    shape_named("deepseek", "v2-lite"), num_layers=2, hidden_size=64, num_heads=4, mlp_size=64, num_experts=4,
    num_experts_used=2, expert_size=32, key_value_rank=64, rope_head_size=16, plain_head_size=32, value_head_size=32,
    vocab_size=VOCAB_SIZE,
)  # fmt: skip
SHAPES = {"plain": PLAIN, "windowed": WINDOWED, "latent": LATENT}


@dataclass(frozen=True)
class RandomTensors:
    """A source of weights (`kernels.weights.TensorSource`)."""

    arrays: Mapping[str, NDArray[np.float32]]

    def tensor(self, name: str) -> RawTensor:
        array = self.arrays[name]
        return RawTensor(WeightFormat.F32, array.shape, memoryview(array).cast("B"))


def random_model(shape: Shape) -> tuple[ModelSpec, RandomTensors]:
    """A model of the shape: norms near one, matrices that keep activations near their size."""
    rng = np.random.default_rng(4)
    arrays = {}
    for name, sizes in shape.tensors():
        if len(sizes) == 1:
            arrays[name] = (rng.normal(1, 0.2, sizes) if "norm" in name else rng.normal(0, 0.5, sizes)).astype("f4")
        else:
            arrays[name] = (rng.normal(0, 1, sizes) / np.sqrt(sizes[-1])).astype(np.float32)
    infos = {name: TensorInfo(name, WeightFormat.F32, array.shape, 0, array.nbytes) for name, array in arrays.items()}
    return spec_from_gguf(shape.metadata(), infos), RandomTensors(arrays)
