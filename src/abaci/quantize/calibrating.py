"""Measures the importance of every matrix's inputs by running a text: the mean square of each.

An error of a weight costs the square of what it is multiplied by, so these are the weights of the quantiser's least
squares. Experts are measured on the tokens that chose them. Must not know how importance is stored or used.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from abaci.errors import UsageError
from abaci.formats.checkpoint import Checkpoint
from abaci.quantize.importance import Floats, Importance
from abaci.quantize.running import OpenedModel, Progress, run_text

_WINDOW_TOKENS: Final = 512
"""The text is run in pieces of this length, each from an empty context."""
_LEAST_TOKENS: Final = 128


def calibrate(checkpoint: Checkpoint, token_ids: Sequence[int], name: str, pool: Any, progress: Progress) -> Importance:
    """Run the tokens of a text, `name` being its name, through a model.

    Raises UsageError for a text that is too short to say anything, and what loading a model raises.
    """
    if len(token_ids) < _LEAST_TOKENS:
        raise UsageError(
            f"{name} has {len(token_ids)} tokens", hint=f"Give at least {_LEAST_TOKENS}; some ten thousand are good."
        )
    with OpenedModel(checkpoint, _WINDOW_TOKENS, pool, observes=True) as model:
        for begin in range(0, len(token_ids), _WINDOW_TOKENS):
            window = token_ids[begin : begin + _WINDOW_TOKENS]
            for _ in run_text(model.executor, model.spec, window, with_logits=False):
                pass
            progress(begin + len(window), len(token_ids))
        observed = model.executor.observed()
    return Importance({matrix: _mean_squares(*sums_and_counts) for matrix, sums_and_counts in observed.items()}, name)


def _mean_squares(sums: np.ndarray[Any, Any], counts: np.ndarray[Any, Any]) -> Floats:
    """(experts, columns). An expert that no token chose gets what all together have, knowing no better."""
    together = sums.sum(axis=0) / max(1, counts.sum())
    means = np.where(counts[:, np.newaxis] > 0, sums / np.maximum(counts, 1)[:, np.newaxis], together)
    mean_squares: Floats = means.astype(np.float32)
    return mean_squares
