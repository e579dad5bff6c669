"""Strings taken apart all at once are those that are read one after the other, or none."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abaci.formats.string_arrays import split_strings

TEXTS = st.one_of(st.text(max_size=12), st.text("aé\n", min_size=250, max_size=262))


def packed(texts: list[bytes]) -> bytes:
    return b"".join(struct.pack("<Q", len(text)) + text for text in texts)


@given(st.lists(TEXTS, min_size=1, max_size=40), st.binary(max_size=9), st.binary(max_size=300))
def test_strings_are_those_that_were_written(texts, before, after):
    whole = packed([text.encode() for text in texts])
    split = split_strings(before + whole + after, len(before), len(texts))
    usual = not any("\0" in text for text in texts) and len(whole) <= 32 * len(texts)
    assert split == ((texts, len(before) + len(whole)) if usual else None)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=20), st.integers(0, 400))
def test_no_bytes_are_read_as_strings_they_are_not(texts, cut):
    data = packed(texts)[:cut]
    split = split_strings(data, 0, len(texts))
    if split is not None:
        assert packed([text.encode() for text in split[0]]) == packed(texts)


@given(st.binary(min_size=1, max_size=200), st.integers(1, 50))
def test_any_bytes_are_taken_or_left(data, count):
    split = split_strings(data, 0, count)
    if split is not None:
        values, end = split
        assert len(values) == count
        assert packed([value.encode() for value in values]) == data[:end]


@pytest.mark.parametrize("length", [0, 1, 255, 256, 257, 70_000])
def test_lengths_of_every_size(length):
    texts = ["x"] * 4000 + ["y" * length] + ["z"] * 4000
    assert split_strings(packed([text.encode() for text in texts]), 0, len(texts)) == ((texts, 9 * 8000 + 8 + length))


def test_nothing_is_no_array():
    assert split_strings(b"", 0, 0) is None
    assert split_strings(b"\0" * 7, 0, 1) is None
