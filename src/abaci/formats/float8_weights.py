"""FP8 weights of Hugging Face folders: e4m3 values with a scale for each block, each row, or the whole of a matrix.

How large blocks are is said by `config.json` and is not guessed: 576 rows with five scales may be blocks of 128 or 144.
The product is rounded to bfloat16, as the publishers' own conversions do.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from abaci.errors import FileFormatError, UnsupportedModelError
from abaci.formats.integer_blocks import float8_e4m3
from abaci.formats.weight_arrays import as_bytes, from_float32
from abaci.formats.weight_parts import Naming, PackedWeight, Parts, Remarks, StoredPart, matrix_shape, part_named
from abaci.tensor import WeightFormat

Block = tuple[int, int]
"""Rows and columns that share a scale."""

_DEFAULT_BLOCK: Final = [128, 128]
"""Of `quant_method` fp8 where `weight_block_size` is not named; null says that there are no blocks."""
_BLOCK_TEXT: Final = re.compile(r"([1-9]\d{0,8})x([1-9]\d{0,8})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Float8:
    """FP8 with a scale for each block of a matrix (DeepSeek, Qwen), usually 128 by 128, or for the whole of it."""

    block: Block | None
    naming = Naming(
        frozenset({"weight", "weight_scale_inv", "weight_scale", "input_scale", "activation_scale"}),
        frozenset({"weight_scale_inv", "weight_scale"}),
    )
    note = "FP8 weights are run in bfloat16, each rounded once, as their publishers' own conversions do"

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Float8":
        if config.get("fmt", "e4m3") not in ("e4m3", "float8_e4m3fn"):
            raise UnsupportedModelError(f"FP8 of the format {config.get('fmt')!r} is not supported, only e4m3")
        return cls(block_of("weight_block_size", config.get("weight_block_size", _DEFAULT_BLOCK)))

    def weight(self, parts: Parts, remarks: Remarks) -> PackedWeight:
        scales = parts.get("weight_scale_inv") or part_named(parts, "weight_scale")
        return float8_weight(part_named(parts, "weight"), scales, self.block)


def block_of(key: str, value: object) -> Block | None:
    """A block's size from a `config.json`; None where it names none. Raises FileFormatError."""
    match value:
        case None:
            return None
        case [int(rows), int(columns)] if rows > 0 and columns > 0:
            return rows, columns
        case str() if (sizes := _BLOCK_TEXT.fullmatch(value)) is not None:  # older compressed-tensors
            return int(sizes[1]), int(sizes[2])
    raise FileFormatError(f"quantization_config: {key} = {str(value)[:60]} is not two whole numbers")


def float8_weight(weight: StoredPart, scales: StoredPart, block: Block | None) -> PackedWeight:
    """In bfloat16: value times scale, rounded once. Scales are for blocks of the size given, else for rows, else one.

    Raises FileFormatError for scales of another shape.
    """
    rows, columns = matrix_shape(weight)
    block_rows, block_columns = _fitting_block(rows, columns, scales, block)

    def make() -> memoryview:
        values = float8_e4m3(weight.array("F8_E4M3"))
        factors = scales.floats().astype(np.float32).reshape(-(-rows // block_rows), -(-columns // block_columns))
        spread = np.repeat(np.repeat(factors, block_rows, axis=0)[:rows], block_columns, axis=1)[:, :columns]
        return as_bytes(from_float32(WeightFormat.BF16, values * spread))

    return PackedWeight(WeightFormat.BF16, (rows, columns), make)


def _fitting_block(rows: int, columns: int, scales: StoredPart, block: Block | None) -> Block:
    """At most as large as the matrix."""
    if block is not None:
        block_rows, block_columns = min(block[0], rows), min(block[1], columns)
        if scales.shape == (-(-rows // block_rows), -(-columns // block_columns)):
            return block_rows, block_columns
    if scales.shape in ((rows,), (rows, 1)):
        return 1, columns
    if scales.shape in ((), (1,), (1, 1)):
        return rows, columns
    blocks = "without blocks" if block is None else f"in blocks of {block[0]} by {block[1]}"
    raise FileFormatError(
        f"tensor {scales.stored.name!r} of shape {scales.shape} does not fit a matrix of {rows} by {columns} {blocks}"
    )
