"""float32 arithmetic with every rounding known: denormals are zero, a fused multiply-add rounds once.

Computed in float64, where a product of two float32 is exact.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]

_LEAST_NORMAL = 2.0**-126
_ROUNDS_TO_LEAST_NORMAL = _LEAST_NORMAL * (1 - 2.0**-25)
"""The least number that 24 bits round up to a normal float."""


def flushed(x: Floats) -> Floats:
    """Denormals become zero, as the kernels read them."""
    return np.where(np.abs(x) < _LEAST_NORMAL, np.float32(0), x)


def rounded(x: NDArray[np.float64]) -> Floats:
    """To float32, to nearest even; results below the normal numbers become zero."""
    return np.where(np.abs(x) < _ROUNDS_TO_LEAST_NORMAL, 0.0, x).astype(np.float32)


def product(a: ArrayLike, b: ArrayLike) -> Floats:
    """a * b of float32 values, rounded once."""
    return rounded(np.asarray(a, np.float64) * np.asarray(b, np.float64))


def fused_multiply_add(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Floats:
    """a * b + c of float32 values, rounded once.

    The sum in float64 is rounded to odd, which makes its second rounding harmless (Boldo & Melquiond 2008).
    """
    exact_product = np.asarray(a, np.float64) * np.asarray(b, np.float64)
    addend = np.asarray(c, np.float64)
    total = exact_product + addend
    virtual = total - exact_product
    error = (exact_product - (total - virtual)) + (addend - virtual)
    is_even = (total.view(np.int64) & 1) == 0
    towards_error = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return rounded(np.where((error != 0) & is_even, towards_error, total))
