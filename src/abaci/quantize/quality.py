"""What a file says of its own loss: how far its predictions are from those of the model it was made from.

Must not know how that is measured.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from abaci.errors import FileFormatError
from abaci.formats.checkpoint import MetadataValue

_PREFIX: Final = "abaci.quality."


@dataclass(frozen=True, slots=True)
class Quality:
    """A model beside its source, over the positions of one text. Divergences in nats."""

    mean_kl: float
    """Mean of KL(source || model) over positions."""
    p99_kl: float
    """Its 99th percentile."""
    top_agreement: float
    """Share of positions at which both think the same token likeliest."""
    perplexity: float
    source_perplexity: float

    def as_metadata(self) -> dict[str, float]:
        """By their keys in a file."""
        return {_PREFIX + name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def empty_metadata(cls) -> dict[str, MetadataValue]:
        """The same keys, for values that are still to be measured."""
        return {_PREFIX + name: math.nan for name in cls.__slots__}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object]) -> "Quality | None":
        """What a file says of itself, or None. Raises FileFormatError for numbers that cannot be."""
        values = {name: metadata.get(_PREFIX + name) for name in cls.__slots__}
        if all(value is None for value in values.values()):
            return None
        numbers = {name: value for name, value in values.items() if isinstance(value, float) and math.isfinite(value)}
        if len(numbers) != len(values):
            raise FileFormatError(f"{_PREFIX}*: not all are finite numbers", hint="Measure the file again.")
        return cls(**numbers)


@dataclass(frozen=True, slots=True)
class MeasuredText:
    """What quality was measured on, as the file says it."""

    name: str
    num_tokens: int
    source: str
    """The formats of the source's bytes, such as BF16."""

    def as_metadata(self) -> dict[str, MetadataValue]:
        """By their keys in a file."""
        return {
            f"{_PREFIX}text": self.name,
            f"{_PREFIX}num_tokens": self.num_tokens,
            f"{_PREFIX}source_format": self.source,
        }
