"""Hidden states of a prompt's tokens become one vector, with the same bytes in however many chunks they come.

A mean adds the tokens in order, in float64, so it needs the state of every one of them; what the prefix tree holds has
none.
"""

import numpy as np
from numpy.typing import NDArray

from abaci.generation import Pooling


class Pool:
    """The states of one prompt so far."""

    __slots__ = ("_num_added", "_pooling", "_sum")

    def __init__(self, pooling: Pooling) -> None:
        self._pooling = pooling
        self._sum: NDArray[np.float64] | None = None
        self._num_added = 0

    def begin(self, start: int, end: int, num_prompt: int) -> range:
        """Of the next chunk, from position `start` to `end`, those positions whose states are wanted.

        A chunk that starts at 0 starts anew, as after a preemption.
        """
        if start == 0:
            self._sum = None
            self._num_added = 0
        if self._pooling is Pooling.MEAN:
            return range(start, end)
        return range(max(start, num_prompt - 1), end)

    def add(self, hidden: NDArray[np.float32]) -> None:
        """Take the wanted states of a chunk: (positions, hidden size)."""
        for state in hidden:
            self._sum = state.astype(np.float64) if self._sum is None else self._sum + state
        self._num_added += len(hidden)

    def vector(self) -> tuple[float, ...]:
        """The pooled state, once the prompt is computed."""
        assert self._sum is not None
        return tuple((self._sum / self._num_added).tolist())
