"""How a published tensor differs from its GGUF twin in arrangement: each change with its inverse.

Arrays hold values (float32, float16, or uint16 for BF16) or, for formats with blocks, whole blocks along the last axis.
So whatever moves rows serves every format alike. `settings` are the model's, under GGUF's names without the
architecture. A change knows shapes and numbers, not names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from abaci.errors import FileFormatError

Array = NDArray[Any]
Settings = Mapping[str, object]
Shape = tuple[int, ...]


class Split(Protocol):
    """A published tensor that GGUF stores in several parts."""

    @property
    def moves_columns(self) -> bool:
        """As of a change."""

    @property
    def needs_floats(self) -> bool:
        """As of a change."""

    def shapes(self, shape: Shape, settings: Settings) -> tuple[Shape, ...]:
        """Of the parts. Raises FileFormatError for a shape that cannot be split."""

    def part(self, array: Array, index: int, settings: Settings) -> Array:
        """One of them."""

    def whole_shape(self, shapes: Sequence[Shape], settings: Settings) -> Shape:
        """Of what the parts come from."""

    def join(self, parts: Sequence[Array], settings: Settings) -> Array:
        """The whole again."""


class Change(Protocol):
    """An invertible rearrangement."""

    @property
    def moves_columns(self) -> bool:
        """Whether it moves values along the last axis, where formats with blocks cannot be cut."""

    @property
    def needs_floats(self) -> bool:
        """Whether it computes with values, which then come and go as float32."""

    def shape(self, shape: Shape, settings: Settings) -> Shape:
        """What becomes of a published shape. Raises FileFormatError for one that cannot be."""

    def published_shape(self, shape: Shape, settings: Settings) -> Shape:
        """What a shape in GGUF comes from."""

    def apply(self, array: Array, settings: Settings) -> Array:
        """From the published arrangement to GGUF's."""

    def undo(self, array: Array, settings: Settings) -> Array:
        """From GGUF's arrangement to the published one."""


@dataclass(frozen=True, slots=True)
class PairRows:
    """Rows of each head reordered so that the two that rotate together, i and i + dim/2, become neighbours.

    `heads` is the setting that says how many heads the rows belong to.
    """

    heads: str
    moves_columns = False
    needs_floats = False

    def shape(self, shape: Shape, settings: Settings) -> Shape:
        num_heads = whole_number(settings, self.heads)
        if shape[0] % (2 * num_heads):
            raise FileFormatError(f"{shape[0]} rows are not {num_heads} heads of an even size")
        return shape

    def published_shape(self, shape: Shape, settings: Settings) -> Shape:
        return shape

    def apply(self, array: Array, settings: Settings) -> Array:
        halves = array.reshape(whole_number(settings, self.heads), 2, -1, *array.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)

    def undo(self, array: Array, settings: Settings) -> Array:
        pairs = array.reshape(whole_number(settings, self.heads), -1, 2, *array.shape[1:])
        return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(array.shape)


@dataclass(frozen=True, slots=True)
class AddOne:
    """A norm's weight, published as its difference from one."""

    moves_columns = False
    needs_floats = True

    def shape(self, shape: Shape, settings: Settings) -> Shape:
        return shape

    def published_shape(self, shape: Shape, settings: Settings) -> Shape:
        return shape

    def apply(self, array: Array, settings: Settings) -> Array:
        return array + np.float32(1)

    def undo(self, array: Array, settings: Settings) -> Array:
        return array - np.float32(1)


@dataclass(frozen=True, slots=True)
class AsFloats:
    """As it is, but in float32: small tensors that GGUF never stores in less."""

    moves_columns = False
    needs_floats = True

    def shape(self, shape: Shape, settings: Settings) -> Shape:
        return shape

    def published_shape(self, shape: Shape, settings: Settings) -> Shape:
        return shape

    def apply(self, array: Array, settings: Settings) -> Array:
        return array

    def undo(self, array: Array, settings: Settings) -> Array:
        return array


@dataclass(frozen=True, slots=True)
class Transpose:
    """Matrices published as (inputs, outputs), perhaps a stack of them."""

    moves_columns = True
    needs_floats = False

    def shape(self, shape: Shape, settings: Settings) -> Shape:
        if len(shape) < 2:
            raise FileFormatError(f"shape {shape} is not that of a matrix")
        return (*shape[:-2], shape[-1], shape[-2])

    def published_shape(self, shape: Shape, settings: Settings) -> Shape:
        return self.shape(shape, settings)

    def apply(self, array: Array, settings: Settings) -> Array:
        return array.swapaxes(-1, -2)

    def undo(self, array: Array, settings: Settings) -> Array:
        return array.swapaxes(-1, -2)


@dataclass(frozen=True, slots=True)
class Halves:
    """The upper and the lower half of each matrix's rows; with `is_interleaved` every other row of it.

    With `is_transposed` the matrices are published as (inputs, outputs); with `is_vector` they are rows of biases.
    """

    is_interleaved: bool = False
    is_transposed: bool = False
    is_vector: bool = False

    @property
    def moves_columns(self) -> bool:
        return self.is_transposed

    @property
    def needs_floats(self) -> bool:
        return self.is_vector

    def shapes(self, shape: Shape, settings: Settings) -> tuple[Shape, ...]:
        if len(shape) < (1 if self.is_vector else 2):
            raise FileFormatError(f"shape {shape} is not that of a matrix")
        if self.is_vector:
            whole: Shape = shape
            axis = -1
        else:
            whole = (*shape[:-2], shape[-1], shape[-2]) if self.is_transposed else shape
            axis = -2
        if whole[axis] % 2:
            raise FileFormatError(f"shape {shape} has an odd number of outputs to halve")
        half = list(whole)
        half[axis] //= 2
        return (tuple(half),) * 2

    def part(self, array: Array, index: int, settings: Settings) -> Array:
        rows = self._rows_last(array)
        half = rows.shape[-1] // 2
        chosen = rows[..., index::2] if self.is_interleaved else rows[..., index * half : (index + 1) * half]
        return chosen if self.is_vector else chosen.swapaxes(-1, -2)

    def whole_shape(self, shapes: Sequence[Shape], settings: Settings) -> Shape:
        shape = shapes[0]
        if self.is_vector:
            return (*shape[:-1], 2 * shape[-1])
        rows, columns = 2 * shape[-2], shape[-1]
        return (*shape[:-2], columns, rows) if self.is_transposed else (*shape[:-2], rows, columns)

    def join(self, parts: Sequence[Array], settings: Settings) -> Array:
        rows = [part if self.is_vector else part.swapaxes(-1, -2) for part in parts]
        if self.is_interleaved:
            joined = np.stack(rows, axis=-1).reshape(*rows[0].shape[:-1], -1)
        else:
            joined = np.concatenate(rows, axis=-1)
        return joined if self.is_vector or self.is_transposed else joined.swapaxes(-1, -2)

    def _rows_last(self, array: Array) -> Array:
        return array if self.is_vector or self.is_transposed else array.swapaxes(-1, -2)


def whole_number(settings: Settings, key: str) -> int:
    """The positive whole number among the settings. Raises FileFormatError if it is none."""
    value = settings.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise FileFormatError(f"the setting {key} = {value!r} is not a positive whole number")
    return value
