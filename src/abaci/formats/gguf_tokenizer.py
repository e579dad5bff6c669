"""Vocabularies as GGUF files carry them, under `tokenizer.ggml.*`.

Three kinds. Byte-level BPE ("gpt2") spells every byte as a printable character and lists its merges. SentencePiece
("llama") spells a space as "▁", falls back to byte tokens, and lists scores from which the merges follow; Gemma 4's
("gemma4") does so too, but lists its merges.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, count
from typing import Final, NoReturn, Self, cast

import tokenizers
from tokenizers import models

from abaci.errors import FileFormatError, UnsupportedModelError
from abaci.formats.checkpoint import MetadataValue
from abaci.formats.merging import ImpliedMerges, ListedMerges, Merger
from abaci.formats.vocabulary import (
    SPACE,
    Spelling,
    TokenType,
    Vocabulary,
    byte_level_bytes,
    end_tokens,
    sentence_piece_bytes,
)
from abaci.formats.word_rules import WORD_RULES, WordRule

_HINT: Final = "The file's tokenizer is damaged or of an unknown kind: use a file converted by a recent llama.cpp."

_PREFIX: Final = "tokenizer.ggml."

_END_TOKEN_KEYS: Final = ("eos_token_id", "eot_token_id", "eom_token_id")


SPACE_PREFIX_KEY: Final = "abaci_space_prefix"
"""Behind the prefix of all keys: which texts get a space prefix. Ours alone; absent in files of others."""
SENTENCE_PIECE: Final = "sentencepiece"

_PREFIX_RULES: Final[Mapping[str, Callable[[bool, bool], bool]]] = {
    # SentencePiece adds the prefix whatever the text begins with. It knows no whole tokens: a space behind one is the
    # prefix, so that "[INST] x" of Mistral's template is "[INST]", "▁x", as `transformers` has it.
    SENTENCE_PIECE: lambda at_start, begins_with_space: at_start or not begins_with_space,
    # A tokenizer.json says in one of three ways what is done.
    "prepend": lambda at_start, begins_with_space: True,
    "always": lambda at_start, begins_with_space: not begins_with_space,
    "first": lambda at_start, begins_with_space: at_start and not begins_with_space,
}
"""By the name of a way: whether a text gets a prefix, if nothing stands before it and if it begins with a space."""


def read_gguf(metadata: Mapping[str, MetadataValue]) -> tuple[Vocabulary, Spelling]:
    """The vocabulary of a file. Raises FileFormatError, UnsupportedModelError for a kind that is not known."""
    keys = _Keys(metadata)
    kind = keys.text("model")
    if kind == "gpt2":
        rule = _word_rule(keys)
        vocabulary, by_type = _vocabulary(keys, begins_text=rule.begins_text)
        return vocabulary, ByteLevel.from_gguf(keys, rule, by_type)
    if kind in ("llama", "gemma4"):
        vocabulary, by_type = _vocabulary(keys, begins_text=kind == "llama")
        read = SentencePiece.with_scores if kind == "llama" else SentencePiece.with_merges
        return vocabulary, read(keys, vocabulary, by_type)
    raise UnsupportedModelError(
        f"tokenizer.ggml.model is {kind!r}; supported are gpt2, llama and gemma4", hint="Choose another model."
    )


def _word_rule(keys: "_Keys") -> WordRule:
    name = keys.text("pre", default="default")
    if name not in WORD_RULES:
        raise UnsupportedModelError(
            f"tokenizer.ggml.pre is {name!r}; supported are {', '.join(sorted(WORD_RULES))}",
            hint="Choose another model.",
        )
    return WORD_RULES[name]


class ByteLevel:
    """Byte-level BPE: normalise, split into words by a regular expression, spell bytes as characters, merge."""

    __slots__ = ("_merger", "whole_tokens")

    adds_space_prefix = False

    def __init__(self, merger: Merger, whole_tokens: Mapping[str, int]) -> None:
        self._merger = merger
        self.whole_tokens = whole_tokens

    @classmethod
    def from_gguf(cls, keys: "_Keys", rule: WordRule, by_type: "_ByType") -> Self:
        """Build from the checked tokens. Raises FileFormatError."""
        pieces = by_type[TokenType.NORMAL]
        merges = ListedMerges(pieces, keys.texts("merges"))
        merger = Merger(merges, pieces, splitter=rule.splitter(), ignore_merges=rule.takes_words)
        return cls(merger, by_type[TokenType.USER_DEFINED])

    def prepare(self) -> None:
        """Read all merges."""
        self._merger.prepare()

    def encode(self, text: str, *, at_start: bool) -> Sequence[int]:
        """Ids of a text without whole tokens."""
        return self._merger.encode(text)

    def bytes_of(self, name: str) -> bytes:
        """The bytes a normal token stands for."""
        return byte_level_bytes(name)


class SentencePiece:
    """SentencePiece BPE: spell spaces as "▁", then join, best first, whatever two pieces make a third."""

    __slots__ = ("_adds_prefix", "_merger", "adds_space_prefix", "whole_tokens")

    def __init__(
        self, merger: Merger, whole_tokens: Mapping[str, int], adds_space_prefix: bool, way: str = SENTENCE_PIECE
    ) -> None:
        self._merger = merger
        self.whole_tokens = whole_tokens
        self.adds_space_prefix = adds_space_prefix
        self._adds_prefix = _PREFIX_RULES[way]

    @classmethod
    def with_scores(cls, keys: "_Keys", vocabulary: Vocabulary, by_type: "_ByType") -> Self:
        """Of a vocabulary whose merges follow from the scores of its pieces. Raises FileFormatError."""
        scores = keys.scores("scores", len(vocabulary.tokens))
        pieces = by_type[TokenType.NORMAL]
        whole_tokens = dict(by_type[TokenType.USER_DEFINED])
        # Gemma's files list runs of spaces as user-defined text; its tokenizer merges them, before all else, in order.
        runs = {SPACE * len(name): name for name in whole_tokens if len(name) > 1 and not name.strip(" ")}
        blanks = {run: whole_tokens.pop(name) for run, name in runs.items()}
        ranked = sorted(blanks, key=blanks.__getitem__)
        ranked += sorted(pieces, key=lambda piece: -scores[pieces[piece]])
        mergeable = blanks | pieces
        merger = _falling_back(keys, vocabulary, by_type, ImpliedMerges(mergeable, ranked), mergeable)
        way = keys.text(SPACE_PREFIX_KEY, default=SENTENCE_PIECE)
        if way not in _PREFIX_RULES:
            raise UnsupportedModelError(
                f"{_PREFIX}{SPACE_PREFIX_KEY} is {way!r}; known are {', '.join(_PREFIX_RULES)}",
                hint="Use the Abaci that wrote the file, or a newer one.",
            )
        return cls(merger, whole_tokens, keys.flag("add_space_prefix", default=True), way)

    @classmethod
    def with_merges(cls, keys: "_Keys", vocabulary: Vocabulary, by_type: "_ByType") -> Self:
        """Of a vocabulary that lists its merges. Raises FileFormatError."""
        listed = keys.texts("merges")
        blanks = {name.replace(" ", SPACE): i for name, i in by_type[TokenType.USER_DEFINED].items() if name.isspace()}
        mergeable = blanks | by_type[TokenType.NORMAL] | by_type[TokenType.USER_DEFINED]
        whole_tokens = {name: i for name, i in by_type[TokenType.USER_DEFINED].items() if name.strip(f" {SPACE}")}
        merger = _falling_back(keys, vocabulary, by_type, ListedMerges(mergeable, listed), mergeable)
        return cls(merger, whole_tokens, keys.flag("add_space_prefix", default=False))

    def prepare(self) -> None:
        """Find all merges."""
        self._merger.prepare()

    def encode(self, text: str, *, at_start: bool) -> Sequence[int]:
        """Ids of a text without whole tokens."""
        spelled = text.replace(" ", SPACE)
        if self.adds_space_prefix and self._adds_prefix(at_start, spelled.startswith(SPACE)):
            spelled = SPACE + spelled
        return self._merger.encode(spelled)

    def bytes_of(self, name: str) -> bytes:
        """The bytes a normal token stands for."""
        return sentence_piece_bytes(name)


def _falling_back(
    keys: "_Keys",
    vocabulary: Vocabulary,
    by_type: "_ByType",
    merges: ImpliedMerges | ListedMerges,
    mergeable: dict[str, int],
) -> Merger:
    """A merger that writes in bytes what no piece spells, and as the unknown token where there are no bytes."""
    unknown = keys.token_id("unknown_token_id", vocabulary.tokens)
    fallback = dict(by_type[TokenType.BYTE])
    if unknown is not None:
        fallback[vocabulary.tokens[unknown]] = unknown
    return Merger(
        merges,
        mergeable | fallback,
        always=fallback,
        splitter=tokenizers.Tokenizer(models.BPE()),
        byte_fallback=True,
        fuse_unk=True,
        unk_token=None if unknown is None else vocabulary.tokens[unknown],
    )


_ByType = Mapping[int, dict[str, int]]
"""For each token type the ids of its tokens, by name."""


def _vocabulary(keys: "_Keys", *, begins_text: bool) -> tuple[Vocabulary, _ByType]:
    """What all kinds have in common, checked. End tokens known by name are control tokens, whatever the file says."""
    tokens = keys.texts("tokens")
    if not tokens or not all(tokens):
        raise FileFormatError("tokenizer.ggml.tokens is empty or has an empty token", hint=_HINT)
    types = keys.types("token_type", len(tokens))
    by_type = _group_by_type(tokens, types)
    names = end_tokens(tokens)
    ends = set({name: ids[name] for ids in by_type.values() for name in names if name in ids}.values())
    ends |= {i for key in _END_TOKEN_KEYS if (i := keys.token_id(key, tokens)) is not None}
    for i in ends | set(by_type[TokenType.UNKNOWN].values()):
        by_type[types[i]].pop(tokens[i], None)
        by_type[TokenType.CONTROL][tokens[i]] = i
        types[i] = TokenType.CONTROL
    bos, eos = (keys.token_id(key, tokens) for key in ("bos_token_id", "eos_token_id"))
    vocabulary = Vocabulary(
        tokens=tokens,
        types=types,
        special=by_type[TokenType.CONTROL],
        bos_token_id=bos,
        eos_token_id=eos,
        end_token_ids=frozenset(ends),
        prefix_ids=_added(keys, "bos", bos, default=begins_text),
        suffix_ids=_added(keys, "eos", eos, default=False),
        right_greedy=_phi3_right_greedy(keys, by_type[TokenType.CONTROL]),
    )
    return vocabulary, by_type


def _added(keys: "_Keys", name: str, token_id: int | None, *, default: bool) -> tuple[int, ...]:
    """The token that `add_bos_token` or `add_eos_token` puts around a text."""
    if not keys.flag(f"add_{name}_token", default=default):
        return ()
    if token_id is None:
        raise FileFormatError(f"tokenizer.ggml.add_{name}_token is set, but no {name}_token_id is given", hint=_HINT)
    return (token_id,)


def _phi3_right_greedy(keys: "_Keys", special: Mapping[str, int]) -> frozenset[int]:
    """Phi-3's special tokens swallow the white space behind them, which no key of the file says."""
    if keys.metadata.get("general.architecture") != "phi3" or keys.text("model") != "llama":
        return frozenset()
    return frozenset(i for name, i in special.items() if name not in ("<unk>", "<s>", "<|endoftext|>"))


def _group_by_type(tokens: Sequence[str], types: Sequence[int]) -> dict[int, dict[str, int]]:
    normal = int(TokenType.NORMAL)
    by_type: dict[int, dict[str, int]] = {int(kind): {} for kind in TokenType}
    by_type[normal] = dict(compress(zip(tokens, count(), strict=False), map(normal.__eq__, types)))  # nearly all
    for i in compress(count(), map(normal.__ne__, types)):
        by_type[types[i]][tokens[i]] = i
    return by_type


@dataclass(frozen=True, slots=True)
class _Keys:
    """The `tokenizer.ggml.*` keys, each checked for its type where it is read."""

    metadata: Mapping[str, MetadataValue]

    def text(self, name: str, default: str | None = None) -> str:
        value = self._value(name, default)
        if not isinstance(value, str):
            self._refuse(name, "is not text")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self._value(name, default)
        if not isinstance(value, bool):
            self._refuse(name, "is not a truth value")
        return value

    def token_id(self, name: str, tokens: Sequence[str]) -> int | None:
        value = self.metadata.get(_PREFIX + name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < len(tokens):
            self._refuse(name, f"is {value!r}, not one of the {len(tokens)} token ids")
        return value

    def texts(self, name: str) -> list[str]:
        return cast("list[str]", self._items(name, {str}))

    def scores(self, name: str, count: int) -> list[float]:
        values = cast("list[float]", self._items(name, {float}, count))
        if any(map(math.isnan, values)):
            self._refuse(name, "holds a value that is not a number")
        return values

    def types(self, name: str, count: int) -> list[int]:
        if _PREFIX + name not in self.metadata:
            return [int(TokenType.NORMAL)] * count
        values = cast("list[int]", self._items(name, {int}, count))
        if unknown := set(values) - set(TokenType):
            self._refuse(name, f"holds unknown token types: {sorted(unknown)}")
        return list(values)

    def _items(self, name: str, kinds: set[type], count: int | None = None) -> object:
        value = self._value(name)
        if not isinstance(value, list) or not set(map(type, value)) <= kinds:
            self._refuse(name, f"is not a list of {' or '.join(kind.__name__ for kind in kinds)}")
        if count is not None and len(value) != count:
            self._refuse(name, f"has {len(value)} entries for {count} tokens")
        return value

    def _value(self, name: str, default: MetadataValue | None = None) -> MetadataValue:
        value = self.metadata.get(_PREFIX + name, default)
        if value is None:
            self._refuse(name, "is missing")
        return value

    def _refuse(self, name: str, problem: str) -> NoReturn:
        raise FileFormatError(f"metadata key {_PREFIX + name!r} {problem}", hint=_HINT)
