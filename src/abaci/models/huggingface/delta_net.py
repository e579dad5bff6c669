"""Gated delta nets (Qwen3-Next and later): how their heads are grouped as published, and in GGUF.

Several value heads share a key head. Published, those of one key head stand together: v00 v01 v10 v11; GGUF's later
architectures store them in turns: v00 v10 v01 v11. Qwen3-Next publishes queries, keys, values and gates of one key
head together, and GGUF does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from abaci.errors import FileFormatError
from abaci.models.huggingface.changes import Array, Settings, Shape, whole_number


@dataclass(frozen=True, slots=True)
class _Sizes:
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int

    @classmethod
    def of(cls, settings: Settings) -> "_Sizes":
        key_heads, value_heads = whole_number(settings, "ssm.group_count"), whole_number(settings, "ssm.time_step_rank")
        inner = whole_number(settings, "ssm.inner_size")
        if value_heads % key_heads or inner % value_heads:
            raise FileFormatError(f"{value_heads} value heads, {key_heads} key heads and {inner} values do not fit")
        return cls(key_heads, value_heads, whole_number(settings, "ssm.state_size"), inner // value_heads)

    @property
    def ratio(self) -> int:
        return self.value_heads // self.key_heads

    @property
    def query_and_key_rows(self) -> int:
        return 2 * self.key_heads * self.key_dim


@dataclass(frozen=True, slots=True)
class TurnedValueHeads:
    """Value heads in turns, along `axis`; each of `value_dim` entries, or of one with `is_scalar`.

    behind_keys    only what follows the rows of queries and keys.
    """

    axis: int = 0
    is_scalar: bool = False
    behind_keys: bool = False
    needs_floats: bool = False

    @property
    def moves_columns(self) -> bool:
        return self.axis > 0

    def shape(self, shape: Shape, settings: Settings) -> Shape:
        sizes = _Sizes.of(settings)
        expected = self._begin(sizes) + sizes.value_heads * self._width(sizes)
        if len(shape) <= self.axis or shape[self.axis] != expected:
            raise FileFormatError(f"shape {shape} has not {expected} entries along axis {self.axis}")
        return shape

    def published_shape(self, shape: Shape, settings: Settings) -> Shape:
        return shape

    def apply(self, array: Array, settings: Settings) -> Array:
        sizes = _Sizes.of(settings)
        return self._turned(array, sizes, (sizes.key_heads, sizes.ratio))

    def undo(self, array: Array, settings: Settings) -> Array:
        sizes = _Sizes.of(settings)
        return self._turned(array, sizes, (sizes.ratio, sizes.key_heads))

    def _turned(self, array: Array, sizes: _Sizes, grid: tuple[int, int]) -> Array:
        begin = self._begin(sizes)
        entries = array.swapaxes(0, self.axis)
        heads = entries[begin:].reshape(*grid, self._width(sizes), *entries.shape[1:])
        turned = heads.swapaxes(0, 1).reshape(entries[begin:].shape)
        return np.concatenate([entries[:begin], turned]).swapaxes(0, self.axis)

    def _begin(self, sizes: _Sizes) -> int:
        return sizes.query_and_key_rows if self.behind_keys else 0

    def _width(self, sizes: _Sizes) -> int:
        return 1 if self.is_scalar else sizes.value_dim


@dataclass(frozen=True, slots=True)
class Decay:
    """`A_log`: GGUF stores -exp of it; with `is_turned` value heads in turns."""

    is_turned: bool = False
    needs_floats = True
    moves_columns = False

    def shape(self, shape: Shape, settings: Settings) -> Shape:
        return TurnedValueHeads(is_scalar=True).shape(shape, settings)

    def published_shape(self, shape: Shape, settings: Settings) -> Shape:
        return shape

    def apply(self, array: Array, settings: Settings) -> Array:
        values = -np.exp(array)
        return TurnedValueHeads(is_scalar=True).apply(values, settings) if self.is_turned else values

    def undo(self, array: Array, settings: Settings) -> Array:
        values = TurnedValueHeads(is_scalar=True).undo(array, settings) if self.is_turned else array
        logarithms = np.log(-values)
        # Of the numbers that lead here, the one of fewest bits is what was published.
        for kept_bits in (8, 11, 16):
            unit = np.exp2(np.floor(np.log2(np.abs(logarithms) + 1e-30)) - kept_bits + 1)
            short = (np.round(logarithms / unit) * unit).astype(np.float32)
            logarithms = np.where(-np.exp(short) == values, short, logarithms)
        return logarithms


@dataclass(frozen=True, slots=True)
class Convolution:
    """(channels, 1, taps) as (channels, taps), in float32; with `is_turned` value heads in turns."""

    is_turned: bool = False
    needs_floats = True
    moves_columns = False

    def shape(self, shape: Shape, settings: Settings) -> Shape:
        if len(shape) != 3 or shape[1] != 1:
            raise FileFormatError(f"shape {shape} is not that of a convolution per channel")
        flat = (shape[0], shape[2])
        return TurnedValueHeads(behind_keys=True).shape(flat, settings) if self.is_turned else flat

    def published_shape(self, shape: Shape, settings: Settings) -> Shape:
        return shape[0], 1, shape[1]

    def apply(self, array: Array, settings: Settings) -> Array:
        flat = array.reshape(array.shape[0], array.shape[2])
        return TurnedValueHeads(behind_keys=True).apply(flat, settings) if self.is_turned else flat

    def undo(self, array: Array, settings: Settings) -> Array:
        flat = TurnedValueHeads(behind_keys=True).undo(array, settings) if self.is_turned else array
        return flat.reshape(flat.shape[0], 1, flat.shape[1])


@dataclass(frozen=True, slots=True)
class QueriesKeysValuesAndGates:
    """Per key head its query, key, values and gates: all queries, then keys, then values; and the gates apart."""

    needs_floats = False
    moves_columns = False

    def shapes(self, shape: Shape, settings: Settings) -> tuple[Shape, ...]:
        sizes = _Sizes.of(settings)
        inner = sizes.value_heads * sizes.value_dim
        if len(shape) != 2 or shape[0] != sizes.query_and_key_rows + 2 * inner:
            raise FileFormatError(f"shape {shape} does not fit the heads of the delta net")
        return (sizes.query_and_key_rows + inner, shape[1]), (inner, shape[1])

    def part(self, array: Array, index: int, settings: Settings) -> Array:
        sizes = _Sizes.of(settings)
        by_head = array.reshape(sizes.key_heads, -1, array.shape[1])
        parts = np.split(by_head, self._ends(sizes), axis=1)
        chosen = parts[3:] if index else parts[:3]
        return np.concatenate([part.reshape(-1, array.shape[1]) for part in chosen])

    def whole_shape(self, shapes: Sequence[Shape], settings: Settings) -> Shape:
        return shapes[0][0] + shapes[1][0], shapes[0][1]

    def join(self, parts: Sequence[Array], settings: Settings) -> Array:
        sizes = _Sizes.of(settings)
        both, gates = parts
        keys = sizes.key_heads * sizes.key_dim
        rows = [*np.split(both, [keys, 2 * keys]), gates]
        by_head = [part.reshape(sizes.key_heads, -1, both.shape[1]) for part in rows]
        return np.concatenate(by_head, axis=1).reshape(-1, both.shape[1])

    def _ends(self, sizes: _Sizes) -> list[int]:
        values = sizes.ratio * sizes.value_dim
        return [sizes.key_dim, 2 * sizes.key_dim, 2 * sizes.key_dim + values]
