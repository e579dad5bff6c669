"""Arrays of strings in GGUF, taken apart all at once: a vocabulary and its merges are hundreds of thousands of them."""

import mmap
from typing import Final

import numpy as np
from numpy.typing import NDArray

_LENGTH_BYTES: Final = 8
_USUAL_BYTES: Final = 32
"""That a string takes at most on average, its length included."""


def split_strings(data: mmap.mmap | bytes, position: int, count: int) -> tuple[list[str], int] | None:
    """`count` strings from `position`, each a 64-bit length and UTF-8, and where they end.

    None where that is not so, a string holds a NUL, or they are longer than usual: who reads one after the other finds
    out. The time does not depend on what the bytes say, beyond a factor of a few.
    """
    room = min(len(data) - position, count * _USUAL_BYTES)
    if count == 0 or room < _LENGTH_BYTES:
        return None
    found = _starts(np.frombuffer(data, np.uint8, room, position), count)
    if found is None:
        return None
    starts, end = found
    text = np.frombuffer(data, np.uint8, end, position).copy()
    text[starts] = 0  # of a length one byte stays, to split at
    is_text = np.ones(end, np.bool_)
    for byte in range(1, _LENGTH_BYTES):
        is_text[starts + byte] = False
    try:
        values = text[is_text].tobytes().decode().split("\0")[1:]
    except UnicodeDecodeError:
        return None
    return (values, position + end) if len(values) == count else None


def _starts(data: NDArray[np.uint8], count: int) -> tuple[NDArray[np.int64], int] | None:
    """Where each string's length stands, and where the last string ends.

    What one byte says and seven zeros follow is likely to be a length, and is if one leads to the next.
    """
    lengths: NDArray[np.uint64] = np.ndarray((len(data) - _LENGTH_BYTES + 1,), "<u8", data, 0, (1,))  # at every byte
    is_zero = data == 0
    is_likely = np.ones(len(lengths), np.bool_)
    for byte in range(1, _LENGTH_BYTES):
        is_likely &= is_zero[byte : byte + len(lengths)]
    likely = np.flatnonzero(is_likely)
    ends = likely + _LENGTH_BYTES + data[likely]
    leads_astray = np.flatnonzero(likely[1:] != ends[:-1])
    runs: list[NDArray[np.int64]] = []
    found, at = 0, 0
    while found < count:
        if at >= len(lengths):
            return None
        first = int(np.searchsorted(likely, at))
        if first < len(likely) and likely[first] == at:
            astray = int(np.searchsorted(leads_astray, first))
            last = int(leads_astray[astray]) if astray < len(leads_astray) else len(likely) - 1
            runs.append(likely[first : min(last + 1, first + count - found)])
        else:
            runs.append(np.array([at]))
        found += len(runs[-1])
        at = int(runs[-1][-1])
        at += _LENGTH_BYTES + int(lengths[at])
    return (np.concatenate(runs), at) if at <= len(data) else None
