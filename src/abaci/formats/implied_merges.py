"""The merges that a vocabulary of ranked pieces implies: every way to join two pieces into a third.

A vocabulary of 256 thousand pieces can be cut in more than a million places, so the search runs on hashes, in numpy.
The hash of a text is the sum of its characters, each times a power of a constant by its place, modulo 2^64: prefix sums
give that of any part. Knows nothing of files or scores.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_BASE: Final = 0x9E3779B97F4A7C15
"""Odd, so that it has an inverse; its bits are those of the golden ratio."""
_FILTER_BITS: Final = 22

_Indices = NDArray[np.int64]
_Hashes = NDArray[np.uint64]


def implied_merges(pieces: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs that join to a piece, for the first piece first; of one piece the longest left part first.

    `pieces` are distinct and not empty. Two texts of equal hash would be mistaken for each other: chance does not bring
    that about, and a file made for it only tokenises badly.
    """
    if not pieces:
        return []
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    ends = np.cumsum(lengths)
    begins = ends - lengths
    text = _HashedText("".join(pieces))
    known = _KnownHashes(text.hashes(begins, ends))

    piece = np.repeat(np.arange(len(pieces)), lengths)
    cut = np.arange(len(piece))
    inside = cut > begins[piece]
    piece, cut = piece[inside], cut[inside]
    likely = known.perhaps(text.hashes(begins[piece], cut))
    piece, cut = piece[likely], cut[likely]
    likely = known.perhaps(text.hashes(cut, ends[piece]))
    piece, cut = piece[likely], cut[likely]
    left, is_left = known.find(text.hashes(begins[piece], cut))
    right, is_right = known.find(text.hashes(cut, ends[piece]))

    found = np.flatnonzero(is_left & is_right)
    found = found[np.lexsort((-cut[found], piece[found]))]
    name = pieces.__getitem__
    return list(zip(map(name, left[found].tolist()), map(name, right[found].tolist()), strict=True))


class _HashedText:
    """A text that knows the hash of each of its parts."""

    def __init__(self, text: str) -> None:
        characters = np.frombuffer(text.encode("utf-32-le"), np.uint32) + np.uint32(1)  # U+0000 must count too
        self._sums = np.zeros(len(characters) + 1, np.uint64)
        np.cumsum(characters * _powers(_BASE, len(characters) + 1)[1:], out=self._sums[1:])
        self._unshift = _powers(pow(_BASE, -1, 1 << 64), len(characters) + 1)

    def hashes(self, begins: _Indices, ends: _Indices) -> _Hashes:
        """Hash of each text[begin:end], the same wherever it stands."""
        return (self._sums[ends] - self._sums[begins]) * self._unshift[begins]


class _KnownHashes:
    """Finds hashes among given ones; a bitmap of their upper bits spares most searches for others."""

    def __init__(self, hashes: _Hashes) -> None:
        self._order = np.argsort(hashes)
        self._sorted = hashes[self._order]
        self._upper_bits = np.zeros(1 << _FILTER_BITS, np.bool_)
        self._upper_bits[_upper(hashes)] = True

    def perhaps(self, hashes: _Hashes) -> NDArray[np.bool_]:
        """False where a hash is surely unknown."""
        return self._upper_bits[_upper(hashes)]

    def find(self, hashes: _Hashes) -> tuple[_Indices, NDArray[np.bool_]]:
        """Index of each hash among the given ones, and whether it is there at all."""
        place = np.minimum(np.searchsorted(self._sorted, hashes), len(self._sorted) - 1)
        return self._order[place], self._sorted[place] == hashes


def _powers(base: int, count: int) -> _Hashes:
    """base^0, base^1, ... modulo 2^64."""
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    powers: _Hashes = np.multiply.accumulate(factors)
    return powers


def _upper(hashes: _Hashes) -> _Hashes:
    return hashes >> np.uint64(64 - _FILTER_BITS)
