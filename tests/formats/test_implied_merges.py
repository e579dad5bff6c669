"""Merges implied by a vocabulary: the fast search finds what the plain one does."""

from hypothesis import given
from hypothesis import strategies as st

from abaci.formats.implied_merges import implied_merges


def plain_search(pieces):
    known = set(pieces)
    return [
        (piece[:length], piece[length:])
        for piece in pieces
        for length in range(len(piece) - 1, 0, -1)
        if piece[:length] in known and piece[length:] in known
    ]


def test_a_piece_with_several_cuts():
    assert implied_merges(["abc", "a", "ab", "b", "c", "bc"]) == [("ab", "c"), ("a", "bc"), ("a", "b"), ("b", "c")]


def test_nothing_to_merge():
    assert implied_merges([]) == []
    assert implied_merges(["a", "b", "xyz"]) == []


@given(st.lists(st.text("ab\0é\U0001f600▁", min_size=1, max_size=6), unique=True, max_size=60))
def test_it_finds_what_the_plain_search_finds(pieces):
    assert implied_merges(pieces) == plain_search(pieces)
