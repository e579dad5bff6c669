"""What a model's work amounts to, so that its speed can be held against the machine's ceilings.

Only matrix products count: operations of norms and attention, and the cache's bytes, come on top.
"""

from dataclasses import dataclass
from pathlib import Path

from abaci.bench.workloads import Workload
from abaci.formats.gguf import GgufCheckpoint
from abaci.kernels.ceilings import Ceilings
from abaci.kernels.footprint import Product, footprint
from abaci.models.families import spec_from_gguf


@dataclass(frozen=True, slots=True)
class ModelCosts:
    """Of one model file."""

    file_bytes: int
    products: tuple[Product, ...]

    def step_bytes(self, num_tokens: int) -> float:
        """Weights that a step of so many tokens reads, each of them once: of experts those that the tokens meet."""
        return sum(product.bytes_met(num_tokens) for product in self.products)

    @property
    def body_operations(self) -> int:
        """Per token; a multiplication and an addition count as two."""
        return sum(product.operations for product in self.products if not product.asked_only)

    @property
    def asked_operations(self) -> int:
        """Per row that is asked for, of a prompt the last one."""
        return sum(product.operations for product in self.products if product.asked_only)

    def read_share(self, workload: Workload, tokens_per_second: float, ceilings: Ceilings) -> float:
        """Weights read per second, as a share of what memory can deliver. Above 1 where caches hold a part of them."""
        num_tokens = workload.num_streams * workload.step_tokens
        return self.step_bytes(num_tokens) * tokens_per_second / num_tokens / ceilings.read_bytes_per_second

    def int8_share(self, workload: Workload, tokens_per_second: float, ceilings: Ceilings) -> float:
        """Operations per second, as a share of what the processor can do in 8 bits."""
        per_token = self.body_operations + self.asked_operations / workload.step_tokens
        return per_token * tokens_per_second / ceilings.int8_operations_per_second


def costs_of_file(path: Path) -> ModelCosts:
    """Read from the file's header. Raises as `GgufCheckpoint.open` does."""
    with GgufCheckpoint.open(path) as checkpoint:
        spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
        formats = {name: tensor.format for name, tensor in checkpoint.tensors.items()}
        return ModelCosts(
            file_bytes=sum(file.stat().st_size for file in checkpoint.paths),
            products=footprint(spec, formats).products,
        )
