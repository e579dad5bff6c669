"""Byte-pair merging by the `tokenizers` library, given as much of its table as the texts so far need.

The library takes a quarter of a second to read a table of 150 thousand merges, and the merges of a SentencePiece
vocabulary must be found first, which takes seconds. But a merge can only matter to a text in which the piece it makes
occurs. So the first few thousand characters are encoded with tables of just those merges, in the same order, and thus
to the same ids; then the whole table is made, once. Knows nothing of files or token types.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, count
from types import MappingProxyType
from typing import Any, Final, Protocol

import tokenizers
from tokenizers import models

from abaci.errors import FileFormatError
from abaci.formats.implied_merges import implied_merges

_PATIENCE_CHARACTERS: Final = 4096
"""That are encoded before the whole table pays."""

_HINT: Final = "The file's tokenizer is damaged or of an unknown kind: use a file converted by a recent llama.cpp."

Merge = tuple[str, str]


class Merges(Protocol):
    """Which pieces join, and which first."""

    @property
    def pieces(self) -> Mapping[str, int]:
        """All that merges may make, and their ids."""

    def rank(self, left: str, right: str) -> Any | None:
        """What orders the merge among the others, lowest first, or None if the two do not join; both make a piece."""

    def all(self) -> list[Merge]:
        """In order of rank."""


class ListedMerges:
    """Merges as a file lists them: two pieces with a space between, best first."""

    def __init__(self, pieces: Mapping[str, int], listed: Sequence[str]) -> None:
        self.pieces = pieces
        self._listed = listed
        self._ranks = dict(zip(listed, count(), strict=False))

    def rank(self, left: str, right: str) -> int | None:
        return self._ranks.get(f"{left} {right}")

    def all(self) -> list[Merge]:
        return [(left, right) for left, _, right in (merge.partition(" ") for merge in self._listed)]


class ImpliedMerges:
    """Whatever two pieces make a third: best piece first, of one piece the longest left part first."""

    def __init__(self, pieces: Mapping[str, int], ranked: Sequence[str]) -> None:
        self.pieces = pieces
        self._ranked = ranked
        self._ranks = dict(zip(ranked, count(), strict=False))

    def rank(self, left: str, right: str) -> tuple[int, int] | None:
        if left not in self._ranks or right not in self._ranks:
            return None
        return self._ranks[left + right], -len(left)

    def all(self) -> list[Merge]:
        return implied_merges(self._ranked)


class Merger:
    """Encodes text to ids. May be used from any thread.

    vocabulary  what the library must know by name: the pieces of the merges, and what stands for anything else.
    always      names in it that any text may need, besides its characters and the pieces that occur in it.
    splitter    a tokenizer whose normaliser and pre-tokeniser make of a text the words in which pieces are merged.
    options     of the library's BPE model.
    """

    def __init__(
        self,
        merges: Merges,
        vocabulary: dict[str, int],
        *,
        always: Mapping[str, int] = MappingProxyType({}),
        splitter: tokenizers.Tokenizer,
        **options: Any,
    ) -> None:
        self._merges = merges
        self._vocabulary = vocabulary
        self._always = always
        self._splitter = splitter
        self._options = options
        self._longest_piece = max(map(len, merges.pieces), default=0)
        self._patience = _PATIENCE_CHARACTERS
        self._whole: tokenizers.Tokenizer | None = None
        self._lock = threading.Lock()

    def encode(self, text: str) -> list[int]:
        """Token ids. Raises FileFormatError for merges that do not fit the vocabulary, where they are needed."""
        ids: list[int] = self._tokenizer_for(text).encode(text, add_special_tokens=False).ids
        return ids

    def prepare(self) -> tokenizers.Tokenizer:
        """Make the whole table, if it is not made. Raises FileFormatError for merges that do not fit the vocabulary."""
        with self._lock:
            if self._whole is None:
                self._whole = self._tokenizer(self._vocabulary, self._merges.all())
            return self._whole

    def _tokenizer_for(self, text: str) -> tokenizers.Tokenizer:
        if self._whole is not None:
            return self._whole
        self._patience -= len(text)
        if self._patience < 0:
            return self.prepare()
        words = self._words(text)
        return self._tokenizer_of(words) if self._know(words) else self.prepare()

    def _know(self, words: set[str]) -> bool:
        """Whether no character is left out, as the library does with those that nothing stands for.

        What is left and right of it would meet, and could merge to a piece that does not occur in the text.
        """
        return bool(self._always) or self._vocabulary.keys() >= set(chain.from_iterable(words))

    def _tokenizer_of(self, words: set[str]) -> tokenizers.Tokenizer:
        """One that encodes these words as the whole would."""
        merges = self._merges_within(words)
        names = {*words, *chain.from_iterable(words), *chain.from_iterable(merges), *map("".join, merges)}
        vocabulary = {name: self._vocabulary[name] for name in names if name in self._vocabulary}
        return self._tokenizer({**vocabulary, **self._always}, merges)

    def _words(self, text: str) -> set[str]:
        normalizer, pre_tokenizer = self._splitter.normalizer, self._splitter.pre_tokenizer
        normal = text if normalizer is None else normalizer.normalize_str(text)
        return {normal} if pre_tokenizer is None else {word for word, _ in pre_tokenizer.pre_tokenize_str(normal)}

    def _merges_within(self, words: Iterable[str]) -> list[Merge]:
        """Those that make a piece which occurs in a word, in order of rank."""
        pieces = {piece for word in words for piece in self._pieces_within(word)}
        ranked = [
            (rank, (piece[:cut], piece[cut:]))
            for piece in pieces
            for cut in range(1, len(piece))
            if (rank := self._merges.rank(piece[:cut], piece[cut:])) is not None
        ]
        return [merge for _, merge in sorted(ranked)]

    def _pieces_within(self, word: str) -> Iterator[str]:
        """Of at least two characters."""
        known = self._merges.pieces
        for begin in range(len(word) - 1):
            for end in range(begin + 2, min(begin + self._longest_piece, len(word)) + 1):
                if (piece := word[begin:end]) in known:
                    yield piece

    def _tokenizer(self, vocabulary: dict[str, int], merges: list[Merge]) -> tokenizers.Tokenizer:
        try:
            made = tokenizers.Tokenizer(models.BPE(vocabulary, merges, **self._options))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # plain Exception, or a panic of the library, which is no Exception
            raise FileFormatError(f"tokenizer.ggml.merges does not fit the vocabulary: {error}", hint=_HINT) from None
        if self._splitter.normalizer is not None:
            made.normalizer = self._splitter.normalizer
        if self._splitter.pre_tokenizer is not None:
            made.pre_tokenizer = self._splitter.pre_tokenizer
        return made
