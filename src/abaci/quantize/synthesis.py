"""A checkpoint of a given shape filled with random values: as large and as fast as the real one, and saying nothing.

Blocks are drawn from a supply of a few thousand: normal values, of the size that keeps activations near one, quantised
as any weights are. So logits are finite and differ, and writing is as fast as copying.
"""

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from abaci.errors import UsageError
from abaci.formats.chat_template import CHATML
from abaci.formats.checkpoint import MetadataValue
from abaci.formats.destination import check_room
from abaci.formats.gguf import TensorSource, write_gguf
from abaci.kernels.quantise import quantise
from abaci.models.mixtures import Mixture, ModelFacts, choose_formats
from abaci.quantize.shapes import Shape
from abaci.tensor import TensorInfo, WeightFormat

_SUPPLY_VALUES: Final = 1 << 21
_PIECE_BYTES: Final = 1 << 26
_NUM_BYTES: Final = 256
_SPECIAL_TOKENS: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_NORMAL, _CONTROL = 1, 3

Progress = Callable[[int, int], None]
"""Told bytes written, and in all."""


@dataclass(frozen=True, slots=True)
class Synthesis:
    """What to make."""

    name: str
    shape: Shape
    mixture: Mixture
    seed: int = 0
    is_pure: bool = False

    def with_limits(
        self, num_layers: int | None = None, context_length: int | None = None, num_experts: int | None = None
    ) -> "Synthesis":
        """With fewer layers or experts, or another context. Raises UsageError for what the shape cannot be cut to."""
        shape = self.shape
        if num_layers is not None:
            lowest = shape.num_dense_layers + 1
            shape = replace(shape, num_layers=self._within("layers", num_layers, lowest, shape.num_layers))
        if num_experts is not None:
            groups = max(1, shape.num_expert_groups)
            within = self._within("experts", num_experts, max(1, shape.num_experts_used), shape.num_experts)
            if within % groups:
                raise UsageError(
                    f"{self.name} routes by {groups} groups, which {within} experts do not fill",
                    hint=f"Give a multiple of {groups}.",
                )
            shape = replace(shape, num_experts=within)
        return replace(self, shape=replace(shape, context_length=context_length or shape.context_length))

    def _within(self, what: str, number: int, lowest: int, highest: int) -> int:
        if not lowest <= number <= highest:
            raise UsageError(
                f"{self.name} cannot have {number} {what}",
                hint=f"Choose from {lowest} to {highest}." if lowest <= highest else f"It has no {what}.",
            )
        return number


def synthesise(order: Synthesis, destination: Path, *, pool: Any = None, progress: Progress) -> int:
    """Write the file, whole or not at all; returns the bytes of its tensors. The same order gives the same file.

    Raises ResourceError where the disk has no room for them.
    """
    shape = order.shape
    tensors = {name: TensorInfo(name, WeightFormat.F32, tensor_shape, 0, 0) for name, tensor_shape in shape.tensors()}
    metadata = {**shape.metadata(), **_tokenizer(shape.vocab_size), **_general(order)}
    facts = ModelFacts.of(metadata, tensors)
    formats = choose_formats(order.mixture, facts, tensors.values(), is_pure=order.is_pure)
    sizes = {name: _num_bytes(formats[name], tensor.shape) for name, tensor in tensors.items()}
    total_bytes = sum(sizes.values())
    check_room(destination, total_bytes)
    done_bytes = 0

    @cache
    def supply(weight_format: WeightFormat, num_inputs: int) -> NDArray[np.uint8]:
        return _supply(weight_format, num_inputs, order.seed, pool)

    def pieces(tensor: TensorInfo) -> Iterator[bytes | memoryview]:
        nonlocal done_bytes
        weight_format = formats[tensor.name]
        if _is_norm(tensor.name):
            yield np.ones(tensor.shape, np.float32).data.cast("B")
        else:
            random = np.random.default_rng([order.seed, zlib.crc32(tensor.name.encode())])
            num_blocks = sizes[tensor.name] // weight_format.block_bytes
            yield from _draw(supply(weight_format, tensor.shape[-1]), num_blocks, random)
        done_bytes += sizes[tensor.name]
        progress(done_bytes, total_bytes)

    sources: list[TensorSource] = [
        (name, formats[name], tensor.shape, partial(pieces, tensor)) for name, tensor in tensors.items()
    ]
    write_gguf(destination, metadata, sources)
    return total_bytes


def _num_bytes(weight_format: WeightFormat, shape: tuple[int, ...]) -> int:
    return math.prod(shape) // weight_format.block_size * weight_format.block_bytes


def _is_norm(name: str) -> bool:
    return name.endswith("_norm.weight")


def _supply(weight_format: WeightFormat, num_inputs: int, seed: int, pool: Any) -> NDArray[np.uint8]:
    """Blocks of normal values, with which sums over `num_inputs` are about as large as the inputs: (blocks, bytes)."""
    random = np.random.default_rng([seed, num_inputs])
    values = random.standard_normal((_SUPPLY_VALUES // 256, 256), np.float32) / np.float32(math.sqrt(num_inputs))
    return quantise(values, weight_format, pool=pool).reshape(-1, weight_format.block_bytes)


def _draw(supply: NDArray[np.uint8], num_blocks: int, random: np.random.Generator) -> Iterator[memoryview]:
    blocks_per_piece = max(1, _PIECE_BYTES // supply.shape[1])
    for begin in range(0, num_blocks, blocks_per_piece):
        count = min(blocks_per_piece, num_blocks - begin)
        yield supply[random.integers(len(supply), size=count, dtype=np.int32)].data.cast("B")


def _general(order: Synthesis) -> dict[str, MetadataValue]:
    return {
        "general.name": f"{order.name} with random values",
        "general.file_type": order.mixture.file_type,
        "general.quantization_version": 2,
        "abaci.synth.seed": order.seed,
    }


def _tokenizer(vocab_size: int) -> dict[str, MetadataValue]:
    """Bytes and three special tokens; the rest are words that no text is cut into, so that every id has a text."""
    first_word = _NUM_BYTES + len(_SPECIAL_TOKENS) + 1
    words = [f"w{index}" for index in range(vocab_size - first_word)]
    tokens = [*_byte_tokens(), *_SPECIAL_TOKENS, "ab", *words]
    types = [_NORMAL] * _NUM_BYTES + [_CONTROL] * len(_SPECIAL_TOKENS) + [_NORMAL] * (1 + len(words))
    end = _NUM_BYTES + _SPECIAL_TOKENS.index("<|im_end|>")
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": _NUM_BYTES,
        "tokenizer.ggml.eos_token_id": end,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHATML,
    }


def _byte_tokens() -> list[str]:
    """GPT-2's spelling of the bytes 0 to 255: printable ones as they are, the others from 256 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(_NUM_BYTES)]
