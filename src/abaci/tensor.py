"""Names for bytes: the types a checkpoint stores its tensors in. No behaviour beyond sizes."""

from dataclasses import dataclass
from enum import Enum


class WeightFormat(Enum):
    """Storage format of a tensor: (name, values per block, bytes per block), as GGUF defines them."""

    F32 = ("F32", 1, 4)
    F16 = ("F16", 1, 2)
    BF16 = ("BF16", 1, 2)
    Q4_0 = ("Q4_0", 32, 18)
    Q4_1 = ("Q4_1", 32, 20)
    Q5_0 = ("Q5_0", 32, 22)
    Q5_1 = ("Q5_1", 32, 24)
    Q8_0 = ("Q8_0", 32, 34)
    Q4_K = ("Q4_K", 256, 144)
    Q5_K = ("Q5_K", 256, 176)
    Q6_K = ("Q6_K", 256, 210)

    def __init__(self, label: str, block_size: int, block_bytes: int) -> None:
        self.label = label
        self.block_size = block_size
        self.block_bytes = block_bytes

    @property
    def is_quantised(self) -> bool:
        """Whether values come in blocks with scales."""
        return self.block_size > 1


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One stored tensor. A matrix has shape (rows, columns): the last axis is contiguous (GGUF's order reversed)."""

    name: str
    format: WeightFormat
    shape: tuple[int, ...]
    offset: int
    """Absolute offset of the first byte in the file `file_index`."""
    num_bytes: int
    file_index: int = 0
