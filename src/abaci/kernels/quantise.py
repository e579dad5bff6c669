"""Float values into the formats of a file: the inverse of `dequantise`, as near as each format allows.

Must not know which tensor gets which format, nor where importance comes from. The search for scales is compiled
(csrc/quantise); it gives the same bytes on any number of threads and any processor.
"""

import importlib
import os
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from abaci.tensor import WeightFormat

Floats = NDArray[np.float32]

SMALLEST_IMPORTANCE: Final = 1e-3
"""Of the mean: an input that the calibration text never excited may still matter elsewhere."""

_NEAREST_EVEN: Final = np.uint32(0x7FFF)
_LARGEST_F16: Final = 65504.0


def quantise(
    values: Floats, weight_format: WeightFormat, importance: Floats | None = None, *, pool: Any = None
) -> NDArray[np.uint8]:
    """Rows of weights in GGUF's layout: (rows, columns) float32 to (rows, bytes of a row).

    importance  (columns,): how much an error of each column counts, such as the mean square of its inputs; any scale.
    pool        a `kernels.native.thread_pool`; None makes one of all cores for this call.

    Scales (and offsets) are chosen by weighted least squares per group, then jointly per block. Float formats are
    rounded to nearest. Raises ValueError for a value that is not finite or that the format cannot hold, for columns
    that are not whole blocks, and for importance that is negative, not finite or of the wrong size.
    """
    if values.ndim != 2 or values.size == 0 or values.shape[1] % weight_format.block_size:
        raise ValueError(f"shape {values.shape} is not rows of whole {weight_format.label} blocks")
    values = np.ascontiguousarray(values, np.float32)
    if not weight_format.is_quantised:
        return _round_floats(values, weight_format)
    weights = None if importance is None else _weights(importance, values.shape[1])
    # Imported here, so that formats and metadata can be read where the extension was not built.
    native = importlib.import_module("abaci.kernels.native")
    if pool is None:
        pool = native.start_pool(len(os.sched_getaffinity(0)))
    extension = importlib.import_module("abaci.kernels._native")
    blocks: NDArray[np.uint8] = extension.quantise_weights(
        pool, native.targets()[0], weight_format.label, values, weights
    )
    return blocks


def _weights(importance: Floats, num_columns: int) -> Floats | None:
    """Importance with a mean of one and nothing near zero; None where it says nothing."""
    if importance.shape != (num_columns,):
        raise ValueError(f"importance of shape {importance.shape} for {num_columns} columns")
    if not np.isfinite(importance).all() or (importance < 0).any():
        raise ValueError("importance is negative or not finite")
    mean = float(importance.mean(dtype=np.float64))
    if mean <= 0:
        return None
    weights: Floats = np.maximum(importance / mean, SMALLEST_IMPORTANCE).astype(np.float32)
    return weights


def _round_floats(values: Floats, weight_format: WeightFormat) -> NDArray[np.uint8]:
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite")
    if weight_format is WeightFormat.F32:
        return values.view(np.uint8)
    if weight_format is WeightFormat.F16:
        if np.abs(values).max() > _LARGEST_F16:
            raise ValueError("a value is too large for F16")
        return values.astype(np.float16).view(np.uint8)
    bits = values.view(np.uint32)
    rounded = (bits + _NEAREST_EVEN + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    halves = rounded.astype(np.uint16)
    if (halves & 0x7F80 == 0x7F80).any():
        raise ValueError("a value is too large for BF16")
    return halves.view(np.uint8)
