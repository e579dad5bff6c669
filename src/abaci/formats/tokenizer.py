"""Text to token ids and back, for one model.

Cutting text at whole tokens is done here, so that the caller decides whether text may name a special token; what lies
between goes to the model's own spelling. Readers of files are `gguf_tokenizer` and `huggingface_tokenizer`. Knows
nothing of messages or templates.
"""

import codecs
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, Self

from abaci.errors import UsageError
from abaci.formats.checkpoint import MetadataValue
from abaci.formats.gguf_tokenizer import read_gguf
from abaci.formats.huggingface_tokenizer import read_huggingface
from abaci.formats.vocabulary import Spelling, TokenType, Vocabulary

_WHITE_SPACE: Final = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
"""As Unicode has it; `str.strip` would take four control characters as well."""
_SPELLED: Final = frozenset({int(TokenType.NORMAL), int(TokenType.BYTE)})
_CONTROL: Final = int(TokenType.CONTROL)


class Tokenizer:
    """Encodes and decodes for one model. Immutable; may be used from any thread."""

    __slots__ = (
        "_special_cutter",
        "_spelling",
        "_text_cutter",
        "_tokens",
        "_types",
        "_vocabulary",
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

    def __init__(self, vocabulary: Vocabulary, spelling: Spelling) -> None:
        self._vocabulary = vocabulary
        self._tokens = vocabulary.tokens
        self._types = vocabulary.types
        self._spelling = spelling
        self.bos_token_id = vocabulary.bos_token_id
        self.eos_token_id = vocabulary.eos_token_id
        self.end_token_ids = vocabulary.end_token_ids
        self.special_tokens = MappingProxyType(dict(vocabulary.special))
        self._special_cutter = _Cutter(vocabulary.special)
        self._text_cutter = _Cutter(spelling.whole_tokens)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, MetadataValue]) -> Self:
        """Build from the `tokenizer.ggml.*` keys. Raises FileFormatError, UnsupportedModelError for an unknown kind."""
        return cls(*read_gguf(metadata))

    @classmethod
    def from_huggingface(
        cls,
        tokenizer_json: str,
        tokenizer_config: Mapping[str, Any] = MappingProxyType({}),
        generation_config: Mapping[str, Any] = MappingProxyType({}),
        *,
        vocab_size: int | None = None,
    ) -> Self:
        """Build from the texts of a Hugging Face folder: `tokenizer.json` as it is, the other two files as parsed.

        `vocab_size` is the number of rows of the model's embedding; ids that no token has are unused ones. Raises
        FileFormatError, UnsupportedModelError for a kind that is not known.
        """
        return cls(*read_huggingface(tokenizer_json, tokenizer_config, generation_config, vocab_size=vocab_size))

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
        self._spelling.prepare()

    def encode(self, text: str, *, add_bos: bool | None = None, allow_special: bool = False) -> list[int]:
        """Token ids of `text`. `add_bos` None does what the model says, of the text's end too; else only what it says.

        Without `allow_special` no text yields a special id; with it, the names of special tokens stand for them.
        Raises UsageError for what is no text, and for text that is not valid Unicode (lone surrogates).
        """
        if not isinstance(text, str):
            raise UsageError(f"the text to encode is a {type(text).__name__}", hint="Give a str.")
        return self.encode_pieces(self.split_special(text) if allow_special else [text], add_bos=add_bos)

    def encode_pieces(self, pieces: Iterable[str | int], *, add_bos: bool | None = None) -> list[int]:
        """Token ids of text in pieces: an id stands for itself, text never yields a special id."""
        prefix, suffix = self._surroundings(add_bos)
        token_ids = list(prefix)
        at_start = True
        for part in self._parts(pieces):
            if isinstance(part, int):
                token_ids.append(part)
            else:
                token_ids.extend(self._spelling.encode(part, at_start=at_start))
            at_start = False
        return [*token_ids, *suffix]

    def _surroundings(self, add_bos: bool | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What stands before a text and behind it."""
        if add_bos is None:
            return self._vocabulary.prefix_ids, self._vocabulary.suffix_ids
        if not add_bos:
            return (), ()
        if self.bos_token_id is None:
            raise UsageError(
                "add_bos: this model has no token for the beginning of text",
                hint="Leave add_bos out, or set it to false.",
            )
        return (self.bos_token_id,), ()

    def _parts(self, pieces: Iterable[str | int]) -> Iterator[str | int]:
        """Whole tokens and the text between them."""
        for piece in self._stripped(pieces):
            if isinstance(piece, int):
                yield piece
            else:
                yield from self._text_cutter.cut(_checked(piece))

    def _stripped(self, pieces: Iterable[str | int]) -> Iterator[str | int]:
        """The pieces without the white space that special tokens swallow."""
        left_greedy, right_greedy = self._vocabulary.left_greedy, self._vocabulary.right_greedy
        if not left_greedy and not right_greedy:
            yield from pieces
            return
        before: int | None = None
        for piece, behind in itertools.pairwise([*pieces, None]):
            if isinstance(piece, str):
                text = piece.lstrip(_WHITE_SPACE) if before in right_greedy else piece
                yield text.rstrip(_WHITE_SPACE) if behind in left_greedy else text
            elif piece is not None:
                yield piece
            before = piece if isinstance(piece, int) else None

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
        if token_type in _SPELLED:
            return self._spelling.bytes_of(name)
        return b"" if token_type == TokenType.UNUSED else name.encode()

    def is_special(self, token_id: int) -> bool:
        """Whether the token steers the model instead of standing for text."""
        return self._types[self._checked_id(token_id)] == _CONTROL

    def _checked_id(self, token_id: int) -> int:
        if not 0 <= token_id < len(self._tokens):
            raise UsageError(
                f"token id {token_id} is not one of the model's", hint=f"They are 0 to {len(self._tokens) - 1}."
            )
        return token_id


class StreamingDecoder:
    """Decodes tokens as they come. Holds back half a character; the pieces joined equal `decode` of all ids."""

    __slots__ = ("_at_start", "_begun", "_skip_special", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True, continuation: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._begun = b""
        """Of a character."""
        self._at_start = tokenizer.adds_space_prefix and not continuation

    def push(self, token_ids: Iterable[int]) -> str:
        """Text that became certain with these tokens."""
        tokenizer = self._tokenizer
        if self._skip_special:
            token_ids = (i for i in token_ids if not tokenizer.is_special(i))
        known = self._begun + b"".join(map(tokenizer.token_bytes, token_ids))
        text, num_decoded = codecs.utf_8_decode(known, "replace", False)
        self._begun = known[num_decoded:]
        return self._emit(text)

    def flush(self) -> str:
        """What was held back, as the stream ends here."""
        text = self._begun.decode(errors="replace")
        self._begun = b""
        return self._emit(text)

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


def _checked(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"text is not valid Unicode: a lone surrogate at character {error.start}",
            hint='Decode the text as UTF-8 first, or with errors="replace".',
        ) from None
    return text
