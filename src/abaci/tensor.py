"""Names for bytes: the types a checkpoint stores its tensors in. No behaviour beyond sizes."""

from dataclasses import dataclass
from enum import Enum, StrEnum


class WeightFormat(Enum):
    """Storage format of a tensor: (name, values per block, bytes per block), as GGUF defines them.

    The last three are none of GGUF's: weights of integer checkpoints are brought into them as they are loaded.

    INT4      float16 scale, uint8 zero point 0 to 16, 16 bytes of nibbles: values 0 to 15 in the low halves
    INT4_128  float16 scale, uint8 zero point 0 to 16, then four times 16 bytes of nibbles, each as above
    INT8      float32 scale, 32 int8

    value = scale * (code - zero point)
    """

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
    Q2_K = ("Q2_K", 256, 84)
    Q3_K = ("Q3_K", 256, 110)
    IQ4_NL = ("IQ4_NL", 32, 18)
    IQ4_XS = ("IQ4_XS", 256, 136)
    IQ3_S = ("IQ3_S", 256, 110)
    IQ3_XXS = ("IQ3_XXS", 256, 98)
    IQ2_S = ("IQ2_S", 256, 82)
    IQ2_XS = ("IQ2_XS", 256, 74)
    IQ2_XXS = ("IQ2_XXS", 256, 66)
    MXFP4 = ("MXFP4", 32, 17)
    INT4 = ("INT4", 32, 19)
    INT4_128 = ("INT4_128", 128, 67)
    INT8 = ("INT8", 32, 36)

    def __init__(self, label: str, block_size: int, block_bytes: int) -> None:
        self.label = label
        self.block_size = block_size
        self.block_bytes = block_bytes

    @property
    def is_quantised(self) -> bool:
        """Whether values come in blocks with scales."""
        return self.block_size > 1


class CacheType(StrEnum):
    """What pages of the KV cache keep keys and values as, in the order of `csrc/kernel_table.h`.

    F16 and BF16 take two bytes a value: F16 is the finer, BF16 holds what is beyond 65,504, which F16 cuts off. INT8
    quantises every head of every token by itself, in groups of CACHE_GROUP values along the head (the last may be
    shorter), each with a float16 scale: value = scale * code, codes from -127 to 127.
    """

    F16 = "f16"
    BF16 = "bf16"
    INT8 = "int8"

    def head_bytes(self, head_dim: int) -> int:
        """Bytes of one head's key, or value, of one token."""
        if self is not CacheType.INT8:
            return 2 * head_dim
        return head_dim + 2 * -(-head_dim // CACHE_GROUP)


CACHE_GROUP = 32
"""Values of a head that share a scale in an int8 cache."""


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
