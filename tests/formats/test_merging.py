"""Partial tables of merges: the same ids as the whole one, made only while that pays."""

from collections.abc import Callable, Sequence

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models

from abaci.errors import FileFormatError
from abaci.formats import merging
from abaci.formats.merging import ImpliedMerges, ListedMerges, Merger

LETTERS = "abcd"
pieces = st.lists(st.text(LETTERS, min_size=2, max_size=5), unique=True, max_size=30)
texts = st.lists(st.text(LETTERS + "x", max_size=12), max_size=4)


def listed(made: Sequence[str]) -> list[str]:
    """One way to make each piece of two that are there before it, or none."""
    known = set(LETTERS)
    merges = []
    for piece in made:
        ways = [cut for cut in range(1, len(piece)) if {piece[:cut], piece[cut:]} <= known]
        if ways:
            merges.append(f"{piece[: ways[0]]} {piece[ways[0] :]}")
            known.add(piece)
    return merges


def ids_of(names: Sequence[str]) -> dict[str, int]:
    return {name: index for index, name in enumerate(names)}


def listed_merger(made: Sequence[str]) -> Merger:
    merges = listed(made)
    vocabulary = ids_of([*LETTERS, *(merge.replace(" ", "") for merge in merges)])
    return Merger(ListedMerges(vocabulary, merges), vocabulary, splitter=tokenizers.Tokenizer(models.BPE()))


def implied_merger(made: Sequence[str]) -> Merger:
    ranked = [*made, *LETTERS]
    vocabulary = ids_of([*ranked, "<unk>"])
    return Merger(
        ImpliedMerges(ids_of(ranked), ranked),
        vocabulary,
        always={"<unk>": vocabulary["<unk>"]},
        splitter=tokenizers.Tokenizer(models.BPE()),
        unk_token="<unk>",
        fuse_unk=True,
    )


@pytest.mark.parametrize("make", [listed_merger, implied_merger])
@given(made=pieces, given_texts=texts)
def test_partial_tables_give_the_ids_of_the_whole(
    make: Callable[[Sequence[str]], Merger], made: list[str], given_texts: list[str]
) -> None:
    partial, whole = make(made), make(made)
    whole.prepare()
    assert [partial.encode(text) for text in given_texts] == [whole.encode(text) for text in given_texts]


def test_the_whole_table_is_made_once_and_only_after_much_text(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    everything = ListedMerges.all

    def count(self: ListedMerges) -> list[merging.Merge]:
        made.append(self)
        return everything(self)

    monkeypatch.setattr(ListedMerges, "all", count)
    merger = listed_merger(["ab", "abab"])
    short = merger.encode("ababc")
    assert made == []
    assert merger.encode("ab" * 5000) == merger.encode("abab") * 2500
    assert merger.encode("ababc") == short
    assert len(made) == 1


def test_merges_that_do_not_fit_are_refused_where_they_are_needed() -> None:
    vocabulary = ids_of(["a", "b", "ab"])
    splitter = tokenizers.Tokenizer(models.BPE())
    merger = Merger(ListedMerges(vocabulary, ["a b", "a c"]), vocabulary, splitter=splitter)
    assert merger.encode("ab") == [2]
    with pytest.raises(FileFormatError, match="merges"):
        merger.prepare()


def test_a_character_that_is_left_out_lets_its_neighbours_meet() -> None:
    assert listed_merger(["ab"]).encode("axb") == listed_merger(["ab"]).prepare().encode("ab").ids
