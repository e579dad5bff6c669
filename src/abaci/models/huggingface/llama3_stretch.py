"""Llama 3.1's way to stretch a rope, as published (four numbers) and as GGUF has it (a table).

Knows no `config.json`: it is given checked numbers.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from abaci.errors import UnsupportedModelError
from abaci.models.huggingface.mapping import Value

FREQUENCY_FACTORS = "rope_freqs.weight"

_USUAL_SPAN = 3.0
"""From `low_freq_factor` to `high_freq_factor`, as in every published model."""


@dataclass(frozen=True, slots=True)
class Llama3Stretch:
    """Llama 3.1's scaling: long waves are stretched by `factor`, short ones left, those between blended.

    A wave is long beyond context/low tokens and short below context/high.
    """

    factor: float
    low: float
    high: float
    context: float

    def factors(self, theta: float, dim: int) -> NDArray[np.float32]:
        """(dim/2,) divisors of the frequencies, computed in float64."""
        frequencies = theta ** -(np.arange(0, dim, 2) / dim)
        waves_in_context = self.context * frequencies / (2 * math.pi)
        share = np.clip((waves_in_context - self.low) / (self.high - self.low), 0.0, 1.0)
        return (1 / ((1 - share) / self.factor + share)).astype(np.float32)

    @classmethod
    def of(cls, factors: NDArray[np.float32], theta: float) -> Self:
        """The stretch that gives these factors.

        They determine low, high and context up to a common multiple; low is taken to be one, as in every published
        model. Raises UnsupportedModelError for factors that no such stretch gives.
        """
        largest = float(factors.max())
        waves = theta ** -(np.arange(len(factors)) / len(factors)) / (2 * math.pi)
        blended = np.flatnonzero((factors > 1.0001) & (factors < largest * 0.9999))
        if not len(blended):
            raise UnsupportedModelError(f"{FREQUENCY_FACTORS} does not tell how the context was stretched")
        # share = (context * waves - low) / (high - low) is a line over the waves.
        shares = (1 / factors[blended].astype(np.float64) - 1 / largest) / (1 - 1 / largest)
        if len(blended) > 1:
            slope, begin = np.polyfit(waves[blended], shares, 1)
            span = -1 / begin
        else:
            span = _USUAL_SPAN
            slope = float((shares[0] * span + 1) / waves[blended[0]] / span)
        found = cls(factor=round(largest, 4), low=1.0, high=round(1 + span, 4), context=round(slope * span))
        if not np.allclose(found.factors(theta, 2 * len(factors)), factors, rtol=1e-5):
            raise UnsupportedModelError(f"{FREQUENCY_FACTORS} is not a stretch of the kind `llama3`")
        return found

    def to_published(self) -> dict[str, Value]:
        """As inside of `rope_parameters`."""
        return {
            "rope_type": "llama3",
            "factor": self.factor,
            "low_freq_factor": self.low,
            "high_freq_factor": self.high,
            "original_max_position_embeddings": int(self.context),
        }
