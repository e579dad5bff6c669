"""What every kind of vocabulary comes to, whatever file it was read from: tokens, what each is for, where text ends.

Readers make one of these and a `Spelling`, and `Tokenizer` is put together of the two. Knows no file format.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final, Protocol

SPACE: Final = "▁"
"""How SentencePiece spells a space."""

# Names under which models end their turn or text, whatever the file's own keys say (llama.cpp knows the same ones).
_END_TOKEN_NAMES: Final = frozenset(
    {
        "<|endoftext|>",
        "<|im_end|>",
        "<|end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|eot|>",
        "<|eom|>",
        "<|end_of_text|>",
        "<|return|>",
        "<|call|>",
        "<end_of_turn>",
        "<turn|>",
        "<end_of_utterance>",
        "<EOT>",
        "_<EOT>",
        "<｜end▁of▁sentence｜>",
    }
)
_HARMONY_ENDS: Final = frozenset({"<|return|>", "<|call|>"})
_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-F]{2})>")


class TokenType(IntEnum):
    """What a token is for, numbered as in GGUF."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens by id, checked.

    special        the control tokens, by name: they steer the model, and text yields them only where it is allowed to.
    end_token_ids  that end an answer.
    prefix_ids     what a text begins with unless its caller says otherwise.
    suffix_ids     what it ends with.
    left_greedy    special tokens that swallow the white space before them.
    right_greedy   those that swallow the white space behind them.
    """

    tokens: Sequence[str]
    types: Sequence[int]
    special: Mapping[str, int]
    bos_token_id: int | None
    eos_token_id: int | None
    end_token_ids: frozenset[int]
    prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()
    left_greedy: frozenset[int] = frozenset()
    right_greedy: frozenset[int] = frozenset()


class Spelling(Protocol):
    """One kind of vocabulary: how text becomes ids between whole tokens, and what a token's name stands for."""

    @property
    def adds_space_prefix(self) -> bool:
        """Whether encoding puts a space before a text, which decoding takes away again."""

    @property
    def whole_tokens(self) -> Mapping[str, int]:
        """Names that text is cut at before anything else."""

    def prepare(self) -> None:
        """Make now what the first texts would bring about."""

    def encode(self, text: str, *, at_start: bool) -> Sequence[int]:
        """Ids of a text without whole tokens. `at_start`: nothing stands before it."""

    def bytes_of(self, name: str) -> bytes:
        """The bytes a normal token stands for."""


def end_tokens(names: Iterable[str]) -> frozenset[str]:
    """Those of the names that end an answer.

    In the harmony format of gpt-oss `<|end|>` ends one message of an answer and not the answer.
    """
    found = _END_TOKEN_NAMES.intersection(names)
    return found - {"<|end|>"} if found >= _HARMONY_ENDS else found


def byte_level_bytes(name: str) -> bytes:
    """Of a token whose every character spells a byte; of any other its own text."""
    try:
        return bytes(map(_BYTES_OF_CHARACTERS.__getitem__, name))
    except KeyError:
        return name.encode()


def sentence_piece_bytes(name: str) -> bytes:
    """Of a piece in which "▁" is a space, or that names a byte."""
    if byte := _BYTE_TOKEN.fullmatch(name):
        return bytes.fromhex(byte[1])
    return name.replace(SPACE, " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """The character that spells each byte, as in GPT-2: itself if printable, else the next free one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTES_OF_CHARACTERS: Final = MappingProxyType(_byte_alphabet())
