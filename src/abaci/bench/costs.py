"""What a model's work amounts to, so that its speed can be held against the machine's ceilings.

Only matrix products count: operations of norms and attention, and the cache's bytes, come on top.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from abaci.bench.workloads import Workload
from abaci.formats.gguf import GgufCheckpoint
from abaci.kernels.ceilings import Ceilings
from abaci.models.families import spec_from_gguf
from abaci.models.spec import ModelSpec
from abaci.tensor import TensorInfo


@dataclass(frozen=True, slots=True)
class ModelCosts:
    """Of one model file."""

    file_bytes: int
    step_bytes: int
    """Weights that a step reads once, however many tokens it computes: all matrices, the head's included."""
    body_operations: int
    """Per token; a multiplication and an addition count as two."""
    head_operations: int
    """Per row of logits."""

    def read_share(self, workload: Workload, tokens_per_second: float, ceilings: Ceilings) -> float:
        """Weights read per second, as a share of what memory can deliver. Above 1 where caches hold a part of them."""
        steps_per_second = tokens_per_second / (workload.num_streams * workload.step_tokens)
        return self.step_bytes * steps_per_second / ceilings.read_bytes_per_second

    def int8_share(self, workload: Workload, tokens_per_second: float, ceilings: Ceilings) -> float:
        """Operations per second, as a share of what the processor can do in 8 bits."""
        per_token = self.body_operations + self.head_operations / workload.step_tokens
        return per_token * tokens_per_second / ceilings.int8_operations_per_second


def costs_of_file(path: Path) -> ModelCosts:
    """Read from the file's header. Raises as `GgufCheckpoint.open` does."""
    with GgufCheckpoint.open(path) as checkpoint:
        spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
        file_bytes = sum(file.stat().st_size for file in checkpoint.paths)
        return costs_of_model(spec, checkpoint.tensors, file_bytes)


def costs_of_model(spec: ModelSpec, tensors: Mapping[str, TensorInfo], file_bytes: int) -> ModelCosts:
    """Costs of a model whose tensors are stored like this."""
    matrices = {name: shape for name, shape in spec.tensors() if len(shape) == 2}
    others = {spec.head.weight, *(table.weight for table in spec.embeddings())}
    body = [name for name in matrices if name not in others]
    return ModelCosts(
        file_bytes=file_bytes,
        step_bytes=sum(tensors[name].num_bytes for name in (*body, spec.head.weight)),
        body_operations=2 * sum(prod(matrices[name]) for name in body),
        head_operations=2 * prod(matrices[spec.head.weight]),
    )
