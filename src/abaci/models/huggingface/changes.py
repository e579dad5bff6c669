"""How a published tensor differs from its GGUF twin in arrangement: each change with its inverse.

Arrays hold values (float32, float16, or uint16 for BF16) or, for formats with blocks, whole blocks along the last axis.
So whatever moves rows serves every format alike. `settings` are the model's, under GGUF's names without the
architecture. A change knows shapes and numbers, not names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from abaci.errors import FileFormatError

Array = NDArray[Any]
Settings = Mapping[str, object]
Shape = tuple[int, ...]


class Change(Protocol):
    """An invertible rearrangement."""

    @property
    def needs_floats(self) -> bool:
        """Whether it computes with values, which then come and go as float32."""

    def shape(self, shape: Shape, settings: Settings) -> Shape:
        """What becomes of a published shape. Raises FileFormatError for one that cannot be."""

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
    needs_floats = False

    def shape(self, shape: Shape, settings: Settings) -> Shape:
        num_heads = whole_number(settings, self.heads)
        if shape[0] % (2 * num_heads):
            raise FileFormatError(f"{shape[0]} rows are not {num_heads} heads of an even size")
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

    needs_floats = True

    def shape(self, shape: Shape, settings: Settings) -> Shape:
        return shape

    def apply(self, array: Array, settings: Settings) -> Array:
        return array + np.float32(1)

    def undo(self, array: Array, settings: Settings) -> Array:
        return array - np.float32(1)


def whole_number(settings: Settings, key: str) -> int:
    """The positive whole number among the settings. Raises FileFormatError if it is none."""
    value = settings.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise FileFormatError(f"the setting {key} = {value!r} is not a positive whole number")
    return value
