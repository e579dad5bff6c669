"""Quantised weights of Hugging Face folders: AWQ, GPTQ, compressed-tensors, FP8 and MXFP4, told by `config.json`.

A weight comes in several tensors, of which one is made whose values are exactly the file's where a block format holds
them; else they are float32, and the user is told. Only FP8 is rounded, to bfloat16, as its publishers' own conversions
do. Knows the names of the parts, not of the model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from abaci.errors import FileFormatError, UnsupportedModelError
from abaci.formats.float8_weights import Block, Float8, block_of, float8_weight
from abaci.formats.integer_blocks import (
    Codes,
    Scales,
    int4_blocks,
    int4_format,
    int8_blocks,
    is_half,
    mxfp4_blocks,
    unpack_awq_words,
    unpack_words,
)
from abaci.formats.quantization_settings import quantization_config, refuse_what_changes_weights, weight_settings
from abaci.formats.weight_arrays import as_bytes
from abaci.formats.weight_parts import (
    Naming,
    PackedWeight,
    Parts,
    Remarks,
    Scheme,
    SortedWeight,
    StoredPart,
    expect_shape,
    matrix_shape,
    part_named,
)
from abaci.tensor import WeightFormat

_BLOCK: Final = 32


def scheme_of(values: Mapping[str, Any]) -> Scheme | None:
    """What `quantization_config` in a `config.json` says. Raises UnsupportedModelError for what is not known."""
    config = quantization_config(values)
    if config is None:
        return None
    method = config.get("quant_method")
    if isinstance(method, str) and method in _SCHEMES:
        return _SCHEMES[method](config)
    is_unnamed = method is None and (config.get("load_in_4bit") is True or config.get("load_in_8bit") is True)
    if method == "bitsandbytes" or is_unnamed:  # of old the only method, which had no name
        raise UnsupportedModelError(
            "the weights are quantised by bitsandbytes, which is not supported",
            hint="Use the original weights with --quantize, or a GGUF, AWQ or GPTQ file of the model.",
        )
    raise UnsupportedModelError(
        f"weights quantised by {str(method)[:60]!r} are not supported; supported are {', '.join(sorted(_SCHEMES))}",
        hint="Use the original weights with --quantize, or a GGUF file of the model.",
    )


@dataclass(frozen=True, slots=True)
class _Integers:
    """A weight of small integers: (rows, columns) codes and per group of columns a scale and a zero point."""

    rows: int
    columns: int
    groups: int
    bits: int
    scales: Callable[[], Scales]
    """(rows, groups)"""
    codes: Callable[[], Codes]
    zeros: Callable[[], Codes]
    group_of_column: NDArray[np.int32] | None = None
    """Where groups are not runs of columns."""

    def packed(self, remarks: Remarks) -> PackedWeight:
        if self.group_of_column is not None:
            return replace(self._floats(), sorted=self._sorted(self.group_of_column, remarks))
        group_size = self.columns // self.groups
        weight_format = int4_format(self.columns, group_size) if self.bits == 4 else None
        if self.bits == 8 and group_size % _BLOCK == 0 and self._zeros_are_in_the_middle():
            weight_format = WeightFormat.INT8
        if weight_format is None or (self.bits == 4 and not is_half(self.scales())):
            remarks.add("have scales or groups that no block format holds and are kept as float32")
            return self._floats()
        make = self._int4 if self.bits == 4 else self._int8
        read = partial(self._read, make, weight_format)
        return PackedWeight(weight_format, (self.rows, self.columns), read, self._values)

    def _sorted(self, group_of_column: NDArray[np.int32], remarks: Remarks) -> SortedWeight | None:
        """None where groups differ in size, or no block format holds them."""
        sizes = np.bincount(group_of_column, minlength=self.groups)
        if (sizes != self.columns // self.groups).any():
            remarks.add("have groups of different sizes and are kept as float32")
            return None
        order = np.argsort(group_of_column, kind="stable")
        codes = lambda: np.ascontiguousarray(self.codes()[:, order])  # noqa: E731
        packed = replace(self, codes=codes, group_of_column=None).packed(remarks)
        return SortedWeight(packed.format, packed.read, order) if packed.format.is_quantised else None

    def _read(self, make: Callable[[WeightFormat], NDArray[np.uint8]], weight_format: WeightFormat) -> memoryview:
        return as_bytes(make(weight_format))

    def _zeros_are_in_the_middle(self) -> bool:
        return bool((self.zeros() == 128).all())

    def _int4(self, weight_format: WeightFormat) -> NDArray[np.uint8]:
        return int4_blocks(weight_format, self.codes(), self.scales(), self.zeros())

    def _int8(self, weight_format: WeightFormat) -> NDArray[np.uint8]:
        return int8_blocks((self.codes() ^ np.uint8(128)).view(np.int8), self.scales())

    def _floats(self) -> PackedWeight:
        return PackedWeight(WeightFormat.F32, (self.rows, self.columns), lambda: as_bytes(self._values()))

    def _values(self) -> NDArray[np.float32]:
        run = self.columns // self.groups
        group = np.arange(self.columns) // run if self.group_of_column is None else self.group_of_column
        scales, zeros = self.scales().astype(np.float32), self.zeros().astype(np.float32)
        return (self.codes().astype(np.float32) - zeros[:, group]) * scales[:, group]


@dataclass(frozen=True, slots=True)
class Awq:
    """AWQ of version `gemm`: words along the outputs, eight columns each in an order of their own."""

    naming = Naming(frozenset({"qweight", "qzeros", "scales"}), frozenset({"qweight"}))
    note = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Awq":
        bits, version = config.get("bits", config.get("w_bit", 4)), config.get("version", "gemm")
        if bits != 4 or str(version).lower() != "gemm":
            raise UnsupportedModelError(f"AWQ of {bits} bits and version {version!r} is not supported, only 4 and gemm")
        return cls()

    def weight(self, parts: Parts, remarks: Remarks) -> PackedWeight:
        words, scales = part_named(parts, "qweight"), part_named(parts, "scales")
        zeros = part_named(parts, "qzeros")
        columns, groups, rows = _first(words), _first(scales), scales.shape[-1]
        expect_shape(words, (columns, rows // 8))
        expect_shape(scales, (groups, rows))
        expect_shape(zeros, (groups, rows // 8))
        _divides(groups, columns, scales)
        return _Integers(
            rows,
            columns,
            groups,
            4,
            scales=lambda: scales.floats().T,
            codes=lambda: np.ascontiguousarray(unpack_awq_words(words.array("I32")).T),
            zeros=lambda: unpack_awq_words(zeros.array("I32")).T,
        ).packed(remarks)


@dataclass(frozen=True, slots=True)
class Gptq:
    """GPTQ: words along the inputs; zero points one less than they are, but for `gptq_v2`."""

    bits: int
    zero_offset: int
    naming = Naming(frozenset({"qweight", "qzeros", "scales", "g_idx"}), frozenset({"qweight"}))
    note = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Gptq":
        bits = config.get("bits")
        layout = config.get("checkpoint_format", "gptq")
        if bits not in (4, 8) or layout not in ("gptq", "gptq_v2"):
            raise UnsupportedModelError(f"GPTQ of {bits} bits and format {layout!r} is not supported, only 4 and 8")
        return cls(bits, 1 if layout == "gptq" else 0)

    def weight(self, parts: Parts, remarks: Remarks) -> PackedWeight:
        words, scales = part_named(parts, "qweight"), part_named(parts, "scales")
        packed_zeros = part_named(parts, "qzeros")
        per_word = 32 // self.bits
        columns, groups, rows = _first(words) * per_word, _first(scales), scales.shape[-1]
        expect_shape(words, (columns // per_word, rows))
        expect_shape(scales, (groups, rows))
        expect_shape(packed_zeros, (groups, rows // per_word))
        _divides(groups, columns, scales)

        def zeros() -> Codes:
            stored = unpack_words(packed_zeros.array("I32"), self.bits, -1).T
            return stored + np.uint8(self.zero_offset) & np.uint8((1 << self.bits) - 1)

        return _Integers(
            rows,
            columns,
            groups,
            self.bits,
            scales=lambda: scales.floats().T,
            codes=lambda: np.ascontiguousarray(unpack_words(words.array("I32"), self.bits, 0).T),
            zeros=zeros,
            group_of_column=_group_of_column(parts.get("g_idx"), columns, groups),
        ).packed(remarks)


@dataclass(frozen=True, slots=True)
class CompressedTensors:
    """compressed-tensors: integers of 4 or 8 bits packed along the inputs (W4A16), int8 (W8A8), or FP8."""

    bits: int
    block: Block | None
    """Of FP8."""
    naming = Naming(
        frozenset(
            {
                "weight",
                "weight_packed",
                "weight_scale",
                "weight_shape",
                "weight_zero_point",
                "weight_g_idx",
                "input_scale",
            }
        ),
        frozenset({"weight_packed", "weight_scale"}),
    )
    note = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "CompressedTensors":
        layout = config.get("format")
        refuse_what_changes_weights(config)
        weights = weight_settings(config)
        bits: set[Any] = {scheme.get("num_bits") for scheme in weights}
        known = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")
        if layout not in known or len(bits) != 1 or not bits <= {4, 8}:
            raise UnsupportedModelError(
                f"compressed-tensors of the format {layout!r} with {sorted(map(str, bits))} bits are not supported",
                hint=f"Supported are 4 and 8 bits of {', '.join(known)}.",
            )
        blocks = {block_of("block_structure", weight.get("block_structure")) for weight in weights} - {None}
        if len(blocks) > 1:
            raise UnsupportedModelError("compressed-tensors with FP8 blocks of several sizes are not supported")
        return cls(bits.pop(), blocks.pop() if blocks else None)

    def weight(self, parts: Parts, remarks: Remarks) -> PackedWeight:
        scales = part_named(parts, "weight_scale")
        if "weight_packed" in parts:
            return self._packed(parts, scales, remarks)
        stored = part_named(parts, "weight")
        if stored.stored.dtype == "F8_E4M3":
            return float8_weight(stored, scales, self.block)
        rows, columns = matrix_shape(stored)
        if "weight_zero_point" in parts:
            raise UnsupportedModelError(f"tensor {stored.stored.name!r}: 8 bits with zero points are not supported")
        groups = _scale_groups(scales, rows, columns)
        return _Integers(
            rows,
            columns,
            groups,
            8,
            scales=lambda: np.broadcast_to(scales.floats().reshape(-1, groups), (rows, groups)),
            codes=lambda: stored.array("I8").view(np.uint8) ^ np.uint8(128),
            zeros=lambda: np.full((rows, groups), 128, np.uint8),
        ).packed(remarks)

    def _packed(self, parts: Parts, scales: StoredPart, remarks: Remarks) -> PackedWeight:
        words = part_named(parts, "weight_packed")
        per_word = 32 // self.bits
        rows, num_words = matrix_shape(words)
        columns = num_words * per_word
        if "weight_shape" in parts and parts["weight_shape"].array("I64", "I32").tolist() != [rows, columns]:
            raise UnsupportedModelError(f"tensor {words.stored.name!r} has rows that are not whole words")
        groups = _scale_groups(scales, rows, columns)
        middle = 1 << (self.bits - 1)
        packed_zeros = parts.get("weight_zero_point")
        if packed_zeros is not None:
            expect_shape(packed_zeros, (rows // per_word, groups))

        def zeros() -> Codes:
            if packed_zeros is None:
                return np.full((rows, groups), middle, np.uint8)
            return unpack_words(packed_zeros.array("I32"), self.bits, 0)

        return _Integers(
            rows,
            columns,
            groups,
            self.bits,
            scales=lambda: np.broadcast_to(scales.floats().reshape(-1, groups), (rows, groups)),
            codes=lambda: unpack_words(words.array("I32"), self.bits, 1),
            zeros=zeros,
            group_of_column=_group_of_column(parts.get("weight_g_idx"), columns, groups),
        ).packed(remarks)


@dataclass(frozen=True, slots=True)
class Mxfp4:
    """MXFP4 as gpt-oss has it: 4-bit floats in blocks of 32 beside a power of two each, stacked by expert."""

    naming = Naming(frozenset({"blocks", "scales"}), frozenset({"blocks"}), joint="_", whole="blocks")
    note = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Mxfp4":
        return cls()

    def weight(self, parts: Parts, remarks: Remarks) -> PackedWeight:
        nibbles, exponents = part_named(parts, "blocks"), part_named(parts, "scales")
        if len(nibbles.shape) != 4 or nibbles.shape[3] != 16 or exponents.shape != nibbles.shape[:3]:
            raise FileFormatError(f"tensor {nibbles.stored.name!r} is not made of blocks of 16 bytes with a scale each")
        experts, rows, blocks, _ = nibbles.shape
        return PackedWeight(
            WeightFormat.MXFP4,
            (experts, rows, 32 * blocks),
            lambda: as_bytes(mxfp4_blocks(nibbles.array("U8"), exponents.array("U8"))),
        )


_SCHEMES: Final[Mapping[str, Callable[[Mapping[str, Any]], Scheme]]] = {
    "awq": Awq.of,
    "gptq": Gptq.of,
    "compressed-tensors": CompressedTensors.of,
    "fp8": Float8.of,
    "mxfp4": Mxfp4.of,
}


def _group_of_column(part: StoredPart | None, columns: int, groups: int) -> NDArray[np.int32] | None:
    """None where groups are runs of columns, as without act-order."""
    if part is None or part.shape in ((0,), (1,)):
        return None
    expect_shape(part, (columns,))
    given: NDArray[np.int32] = part.array("I32", "I64").astype(np.int32)
    if given.min() < 0 or given.max() >= groups:
        raise FileFormatError(f"tensor {part.stored.name!r} names groups that are not among the {groups}")
    return None if np.array_equal(given, np.arange(columns) // (columns // groups)) else given


def _scale_groups(scales: StoredPart, rows: int, columns: int) -> int:
    """Groups of columns that scales of shape (rows, groups), (rows, 1), (rows,) or one for all have."""
    shape = scales.shape
    if shape in ((), (1,), (rows,)):
        return 1
    expect_shape(scales, (rows, shape[-1]))
    _divides(shape[1], columns, scales)
    return shape[1]


def _first(part: StoredPart) -> int:
    return matrix_shape(part)[0]


def _divides(groups: int, columns: int, part: StoredPart) -> None:
    if groups < 1 or columns % groups:
        raise FileFormatError(f"tensor {part.stored.name!r}: {columns} inputs are not {groups} groups")
