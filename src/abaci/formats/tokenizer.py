"""Text to token ids and back, built from the vocabulary a GGUF file carries.

Two kinds exist. Byte-level BPE ("gpt2") spells every byte as a printable character and lists its merges. SentencePiece
("llama") spells a space as "▁", falls back to byte tokens, and lists scores from which the merges follow.

Cutting text at whole tokens is done here, so that the caller decides whether text may name a special token; what lies
between goes to the `tokenizers` library. Knows nothing of messages or templates.
"""

import codecs
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import compress, count
from types import MappingProxyType
from typing import Final, NoReturn, Protocol, Self, cast

import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers

from abaci.errors import FileFormatError, UnsupportedModelError, UsageError
from abaci.formats.checkpoint import MetadataValue
from abaci.formats.merging import ImpliedMerges, ListedMerges, Merger

_HINT: Final = "The file's tokenizer is damaged or of an unknown kind: use a file converted by a recent llama.cpp."

_PREFIX: Final = "tokenizer.ggml."

_SPACE: Final = "▁"
"""How SentencePiece spells a space."""

# Names under which models end their turn or text, whatever the file's own keys say (llama.cpp knows the same ones).
_END_TOKEN_NAMES: Final = frozenset(
    {
        "<|endoftext|>",
        "<|im_end|>",
        "<|end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end_of_text|>",
        "<|return|>",
        "<|call|>",
        "<end_of_turn>",
        "<end_of_utterance>",
        "<EOT>",
        "_<EOT>",
        "<｜end▁of▁sentence｜>",
    }
)
_END_TOKEN_KEYS: Final = ("eos_token_id", "eot_token_id", "eom_token_id")


class _TokenType(IntEnum):
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Tokenizer:
    """Encodes and decodes for one model. Immutable; may be used from any thread."""

    __slots__ = (
        "_add_bos",
        "_special_cutter",
        "_spelling",
        "_text_cutter",
        "_tokens",
        "_types",
        "bos_token_id",
        "end_token_ids",
        "eos_token_id",
        "special_tokens",
    )

    bos_token_id: int | None
    eos_token_id: int | None
    end_token_ids: frozenset[int]
    """Tokens that end an answer: the file's own and those known by name."""
    special_tokens: Mapping[str, int]
    """Tokens that steer the model and that text never yields unless the caller allows it."""

    def __init__(self, vocabulary: "_Vocabulary", spelling: "_Spelling") -> None:
        self._tokens = vocabulary.tokens
        self._types = vocabulary.types
        self._spelling = spelling
        self._add_bos = vocabulary.add_bos
        self.bos_token_id = vocabulary.bos_token_id
        self.eos_token_id = vocabulary.eos_token_id
        self.end_token_ids = vocabulary.end_token_ids
        self.special_tokens = MappingProxyType(vocabulary.by_type[_TokenType.CONTROL])
        self._special_cutter = _Cutter(vocabulary.by_type[_TokenType.CONTROL])
        self._text_cutter = _Cutter(spelling.whole_tokens)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, MetadataValue]) -> Self:
        """Build from the `tokenizer.ggml.*` keys. Raises FileFormatError, UnsupportedModelError for an unknown kind."""
        vocabulary = _Vocabulary.from_gguf(metadata)
        kind = _Keys(metadata).text("model")
        if kind == "gpt2":
            return cls(vocabulary, _ByteLevel.from_gguf(metadata, vocabulary))
        if kind == "llama":
            return cls(vocabulary, _SentencePiece.from_gguf(metadata, vocabulary))
        raise UnsupportedModelError(
            f"tokenizer.ggml.model is {kind!r}; supported are gpt2 and llama", hint="Choose another model."
        )

    @property
    def vocab_size(self) -> int:
        """Number of tokens; ids are 0 to vocab_size - 1."""
        return len(self._tokens)

    @property
    def adds_space_prefix(self) -> bool:
        """Whether encoding puts a space before the text, which decoding takes away again."""
        return self._spelling.adds_space_prefix

    def prepare(self) -> None:
        """Make now what else the first few thousand characters of text would bring about: up to seconds of work.

        Raises FileFormatError for merges that do not fit the vocabulary; without it, text that needs them does.
        """
        self._spelling.merger.prepare()

    def encode(self, text: str, *, add_bos: bool | None = None, allow_special: bool = False) -> list[int]:
        """Token ids of `text`. `add_bos` None does what the model says.

        Without `allow_special` no text yields a special id; with it, the names of special tokens stand for them.
        Raises UsageError for text that is not valid Unicode (lone surrogates).
        """
        return self.encode_pieces(self.split_special(text) if allow_special else [text], add_bos=add_bos)

    def encode_pieces(self, pieces: Iterable[str | int], *, add_bos: bool | None = None) -> list[int]:
        """Token ids of text in pieces: an id stands for itself, text never yields a special id."""
        token_ids: list[int] = []
        if self._add_bos if add_bos is None else add_bos:
            if self.bos_token_id is None:
                raise UsageError("add_bos: this model has no token for the beginning of text")
            token_ids.append(self.bos_token_id)
        at_start = True
        for piece in pieces:
            for part in [piece] if isinstance(piece, int) else self._text_cutter.cut(_checked(piece)):
                if isinstance(part, int):
                    token_ids.append(part)
                else:
                    token_ids.extend(self._spelling.encode(part, at_start=at_start))
                at_start = False
        return token_ids

    def split_special(self, text: str) -> list[str | int]:
        """Cut `text` at the names of special tokens: text between them, ids in their place."""
        return list(self._special_cutter.cut(text))

    def decode(self, token_ids: Iterable[int], *, skip_special: bool = True, continuation: bool = False) -> str:
        """Text of the tokens; bytes that are not UTF-8 become U+FFFD.

        With `continuation` the ids continue earlier text, so that a leading space is kept.
        """
        decoder = StreamingDecoder(self, skip_special=skip_special, continuation=continuation)
        return decoder.push(token_ids) + decoder.flush()

    def token(self, token_id: int) -> str:
        """The token as the file spells it."""
        return self._tokens[self._checked_id(token_id)]

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes the token stands for; none for an unused one, its name for a special one."""
        name = self._tokens[self._checked_id(token_id)]
        token_type = self._types[token_id]
        if token_type == _TokenType.UNUSED:
            return b""
        if token_type in (_TokenType.NORMAL, _TokenType.BYTE):
            return self._spelling.bytes_of(name)
        return name.encode()

    def is_special(self, token_id: int) -> bool:
        """Whether the token steers the model instead of standing for text."""
        return self._types[self._checked_id(token_id)] == _TokenType.CONTROL

    def _checked_id(self, token_id: int) -> int:
        if not 0 <= token_id < len(self._tokens):
            raise UsageError(f"token id {token_id} is not one of the model's: they are 0 to {len(self._tokens) - 1}")
        return token_id


class StreamingDecoder:
    """Decodes tokens as they come. Holds back half a character; the pieces joined equal `decode` of all ids."""

    __slots__ = ("_at_start", "_skip_special", "_tokenizer", "_utf8")

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True, continuation: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = tokenizer.adds_space_prefix and not continuation

    def push(self, token_ids: Iterable[int]) -> str:
        """Text that became certain with these tokens."""
        tokenizer = self._tokenizer
        shown = (i for i in token_ids if not (self._skip_special and tokenizer.is_special(i)))
        return self._emit(self._utf8.decode(b"".join(map(tokenizer.token_bytes, shown))))

    def flush(self) -> str:
        """What was held back, as the stream ends here."""
        return self._emit(self._utf8.decode(b"", final=True))

    def _emit(self, text: str) -> str:
        if self._at_start and text:
            self._at_start = False
            return text.removeprefix(" ")
        return text


class _Cutter:
    """Cuts text at given names: leftmost first, the longest where several begin."""

    __slots__ = ("_begin", "_ids", "_lengths")

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = ids
        lengths: dict[str, set[int]] = {}
        for name in ids:
            lengths.setdefault(name[0], set()).add(len(name))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        self._begin = re.compile("[" + re.escape("".join(lengths)) + "]") if lengths else None

    def cut(self, text: str) -> Iterator[str | int]:
        begin = 0
        for position, end in self._matches(text):
            if begin < position:
                yield text[begin:position]
            yield self._ids[text[position:end]]
            begin = end
        if begin < len(text):
            yield text[begin:]

    def _matches(self, text: str) -> Iterator[tuple[int, int]]:
        position = 0
        while self._begin is not None and (found := self._begin.search(text, position)):
            position = found.start()
            for length in self._lengths[found[0]]:
                if text[position : position + length] in self._ids:
                    yield position, position + length
                    position += length
                    break
            else:
                position += 1


class _Spelling(Protocol):
    """One kind of vocabulary: how text becomes ids between whole tokens, and what a token's name stands for."""

    @property
    def adds_space_prefix(self) -> bool: ...

    @property
    def whole_tokens(self) -> Mapping[str, int]:
        """Names that text is cut at before anything else."""

    @property
    def merger(self) -> Merger:
        """Encodes what lies between them, once it is spelled."""

    def encode(self, text: str, *, at_start: bool) -> Sequence[int]: ...

    def bytes_of(self, name: str) -> bytes: ...


class _ByteLevel:
    """Byte-level BPE: normalise, split into words by a regular expression, spell bytes as characters, merge."""

    __slots__ = ("merger", "whole_tokens")

    adds_space_prefix = False

    def __init__(self, merger: Merger, whole_tokens: Mapping[str, int]) -> None:
        self.merger = merger
        self.whole_tokens = whole_tokens

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, MetadataValue], vocabulary: "_Vocabulary") -> Self:
        keys = _Keys(metadata)
        name = keys.text("pre", default="default")
        if name not in _WORD_RULES:
            raise UnsupportedModelError(
                f"tokenizer.ggml.pre is {name!r}; supported are {', '.join(sorted(_WORD_RULES))}",
                hint="Choose another model.",
            )
        pieces = vocabulary.by_type[_TokenType.NORMAL]
        merger = Merger(ListedMerges(pieces, keys.texts("merges")), pieces, splitter=_WORD_RULES[name].splitter())
        return cls(merger, vocabulary.by_type[_TokenType.USER_DEFINED])

    def encode(self, text: str, *, at_start: bool) -> Sequence[int]:
        return self.merger.encode(text)

    def bytes_of(self, name: str) -> bytes:
        try:
            return bytes(map(_BYTES_OF_CHARACTERS.__getitem__, name))
        except KeyError:
            return name.encode()


@dataclass(frozen=True, slots=True)
class _WordRule:
    """How a byte-level model cuts text into words: patterns applied one after the other, matches and gaps kept."""

    patterns: tuple[str, ...]
    nfc: bool = False

    def splitter(self) -> tokenizers.Tokenizer:
        """A tokenizer that has these rules and no pieces."""
        splitter = tokenizers.Tokenizer(models.BPE())
        if self.nfc:
            splitter.normalizer = normalizers.NFC()
        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self.patterns]
        spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        splitter.pre_tokenizer = pre_tokenizers.Sequence([*splits, spell])
        return splitter


_GPT2_WORDS: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_QWEN2_WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# By `tokenizer.ggml.pre`. `qwen2` and `smollm` follow the models' tokenizer.json; `default` is what llama.cpp does for
# files that name no rule.
_WORD_RULES: Final = {
    "qwen2": _WordRule((_QWEN2_WORDS,), nfc=True),
    "smollm": _WordRule((r"\p{N}", _GPT2_WORDS)),
    "default": _WordRule((r"[\p{P}\$\+<=>\^~\|]+", _GPT2_WORDS, r"\p{N}+", r"[0-9][0-9][0-9]")),
}


def _byte_alphabet() -> dict[str, int]:
    """The character that spells each byte, as in GPT-2: itself if printable, else the next free one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTES_OF_CHARACTERS: Final = MappingProxyType(_byte_alphabet())


class _SentencePiece:
    """SentencePiece BPE: spell spaces as "▁", then join, best score first, whatever two pieces make a third."""

    __slots__ = ("adds_space_prefix", "merger", "whole_tokens")

    def __init__(self, merger: Merger, whole_tokens: Mapping[str, int], adds_space_prefix: bool) -> None:
        self.merger = merger
        self.whole_tokens = whole_tokens
        self.adds_space_prefix = adds_space_prefix

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, MetadataValue], vocabulary: "_Vocabulary") -> Self:
        keys = _Keys(metadata)
        scores = keys.scores("scores", len(vocabulary.tokens))
        pieces = vocabulary.by_type[_TokenType.NORMAL]
        whole_tokens = dict(vocabulary.by_type[_TokenType.USER_DEFINED])
        # Gemma's files list runs of spaces as user-defined text; its tokenizer merges them, before all else, in order.
        runs = {_SPACE * len(name): name for name in whole_tokens if len(name) > 1 and not name.strip(" ")}
        blanks = {run: whole_tokens.pop(name) for run, name in runs.items()}
        ranked = sorted(blanks, key=blanks.__getitem__)
        ranked += sorted(pieces, key=lambda piece: -scores[pieces[piece]])
        mergeable = blanks | pieces
        unknown = keys.token_id("unknown_token_id", vocabulary.tokens)
        fallback = dict(vocabulary.by_type[_TokenType.BYTE])
        if unknown is not None:
            fallback[vocabulary.tokens[unknown]] = unknown
        merger = Merger(
            ImpliedMerges(mergeable, ranked),
            mergeable | fallback,
            always=fallback,
            splitter=tokenizers.Tokenizer(models.BPE()),
            byte_fallback=True,
            fuse_unk=True,
            unk_token=None if unknown is None else vocabulary.tokens[unknown],
        )
        return cls(merger, whole_tokens, keys.flag("add_space_prefix", default=True))

    def encode(self, text: str, *, at_start: bool) -> Sequence[int]:
        spelled = text.replace(" ", _SPACE)
        if at_start and self.adds_space_prefix and not spelled.startswith(_SPACE):
            spelled = _SPACE + spelled
        return self.merger.encode(spelled)

    def bytes_of(self, name: str) -> bytes:
        if byte := _BYTE_TOKEN.fullmatch(name):
            return bytes.fromhex(byte[1])
        return name.replace(_SPACE, " ").encode()


_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """What both kinds have in common, checked. End tokens known by name are control tokens, whatever the file says."""

    tokens: Sequence[str]
    types: Sequence[int]
    by_type: Mapping[int, dict[str, int]]
    """For each token type the ids of its tokens, by name."""
    bos_token_id: int | None
    eos_token_id: int | None
    end_token_ids: frozenset[int]
    add_bos: bool

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, MetadataValue]) -> Self:
        keys = _Keys(metadata)
        tokens = keys.texts("tokens")
        if not tokens or not all(tokens):
            raise FileFormatError("tokenizer.ggml.tokens is empty or has an empty token", hint=_HINT)
        types = keys.types("token_type", len(tokens))
        by_type = _group_by_type(tokens, types)
        ends = {ids[name] for ids in by_type.values() for name in _END_TOKEN_NAMES if name in ids}
        ends |= {i for key in _END_TOKEN_KEYS if (i := keys.token_id(key, tokens)) is not None}
        for i in ends | set(by_type[_TokenType.UNKNOWN].values()):
            by_type[types[i]].pop(tokens[i], None)
            by_type[_TokenType.CONTROL][tokens[i]] = i
            types[i] = _TokenType.CONTROL
        bos_token_id = keys.token_id("bos_token_id", tokens)
        add_bos = keys.flag("add_bos_token", default=keys.text("model") == "llama")
        if add_bos and bos_token_id is None:
            raise FileFormatError("tokenizer.ggml.add_bos_token is set, but no bos_token_id is given", hint=_HINT)
        return cls(
            tokens=tokens,
            types=types,
            by_type=by_type,
            bos_token_id=bos_token_id,
            eos_token_id=keys.token_id("eos_token_id", tokens),
            end_token_ids=frozenset(ends),
            add_bos=add_bos,
        )


def _group_by_type(tokens: Sequence[str], types: Sequence[int]) -> dict[int, dict[str, int]]:
    normal = int(_TokenType.NORMAL)
    by_type: dict[int, dict[str, int]] = {int(kind): {} for kind in _TokenType}
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
            return [int(_TokenType.NORMAL)] * count
        values = cast("list[int]", self._items(name, {int}, count))
        if unknown := set(values) - set(_TokenType):
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


def _checked(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"text is not valid Unicode: a lone surrogate at character {error.start}") from None
    return text
