"""Vocabularies as Hugging Face folders carry them: `tokenizer.json`, run by the library that wrote it.

The library reads untrusted JSON in a safe language, and text goes through it as `transformers` would send it, except
that special tokens are looked for only by us. What `tokenizer.json` leaves to its neighbours is taken from there: which
tokens begin and end a text, and which end an answer.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol, cast

import tokenizers
from tokenizers import AddedToken, pre_tokenizers

from abaci.errors import FileFormatError, UnsupportedModelError
from abaci.formats.vocabulary import (
    Spelling,
    TokenType,
    Vocabulary,
    byte_level_bytes,
    end_tokens,
    sentence_piece_bytes,
)

MAX_VOCAB_SIZE: Final = 1 << 22
_HINT: Final = "The model's tokenizer.json is damaged or of an unknown kind: fetch the model again."


def read_huggingface(
    tokenizer_json: str,
    tokenizer_config: Mapping[str, Any],
    generation_config: Mapping[str, Any],
    *,
    vocab_size: int | None = None,
) -> tuple[Vocabulary, Spelling]:
    """The vocabulary of a folder. Raises FileFormatError, UnsupportedModelError for a kind that is not known."""
    library = _load(tokenizer_json)
    _add_configured(library, tokenizer_config)
    tokens, types = _tokens(library, vocab_size)
    added = library.get_added_tokens_decoder()
    special = {tokens[i]: i for i, kind in enumerate(types) if kind == TokenType.CONTROL}
    bos, eos = (_named(library, tokenizer_config, name) for name in ("bos", "eos"))
    prefix, suffix = _surroundings(library, tokenizer_config, bos, eos)
    vocabulary = Vocabulary(
        tokens=tokens,
        types=types,
        special=special,
        bos_token_id=bos,
        eos_token_id=eos,
        end_token_ids=_end_token_ids(special, eos, generation_config, len(tokens)),
        prefix_ids=prefix,
        suffix_ids=suffix,
        left_greedy=frozenset(i for i, token in added.items() if token.special and token.lstrip),
        right_greedy=frozenset(i for i, token in added.items() if token.special and token.rstrip),
    )
    library.encode_special_tokens = True  # their names in a text are mere text
    return vocabulary, _LibrarySpelling(library)


class _LibrarySpelling:
    """Text through the library: normalised, cut at added tokens that are not special, split, merged."""

    __slots__ = ("_first", "_later", "_writing", "adds_space_prefix")

    whole_tokens: Mapping[str, int] = MappingProxyType({})

    def __init__(self, library: tokenizers.Tokenizer) -> None:
        self._first = library
        self._later = _for_later_text(library)
        self._writing = _writing(library)
        self.adds_space_prefix = self._writing.drops_first_space

    def prepare(self) -> None:
        """Nothing is left to do."""

    def encode(self, text: str, *, at_start: bool) -> Sequence[int]:
        """Ids of a text without special tokens. `at_start`: nothing stands before it."""
        library = self._first if at_start else self._later
        ids: list[int] = library.encode(text, add_special_tokens=False).ids
        return ids

    def bytes_of(self, name: str) -> bytes:
        """The bytes a normal token stands for."""
        return self._writing.bytes_of(name)


class _BytesOf(Protocol):
    def __call__(self, name: str) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Writing:
    """What the library's decoder would do with a token."""

    bytes_of: _BytesOf
    drops_first_space: bool = False


def _load(tokenizer_json: str) -> tokenizers.Tokenizer:
    try:
        library = tokenizers.Tokenizer.from_str(tokenizer_json)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # plain Exception, or a panic of the library, which is no Exception
        raise FileFormatError(f"tokenizer.json is not a tokenizer: {str(error)[:200]}", hint=_HINT) from None
    library.no_padding()
    library.no_truncation()
    if getattr(library.model, "dropout", None):
        library.model.dropout = None
    return library


def _add_configured(library: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """The tokens that `tokenizer_config.json` adds to those of `tokenizer.json`, as `transformers` does."""
    listed = config.get("added_tokens_decoder") or {}
    if not isinstance(listed, Mapping):
        raise FileFormatError("tokenizer_config.json: added_tokens_decoder is not a mapping", hint=_HINT)
    known = {token.content for token in library.get_added_tokens_decoder().values()}
    given = {key: value for key, value in listed.items() if str(key).isascii() and str(key).isdigit()}
    for _, value in sorted(given.items(), key=lambda item: int(item[0])):
        token = _added_token(value)
        if token.content and token.content not in known:
            library.add_tokens([token])
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        content = _content(config.get(name))
        if content and content not in known:
            library.add_special_tokens([content])


def _added_token(value: Any) -> AddedToken:
    if not isinstance(value, Mapping) or not isinstance(value.get("content"), str):
        raise FileFormatError("tokenizer_config.json: added_tokens_decoder holds what is no token", hint=_HINT)
    flags = {name: value.get(name) is True for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
    return AddedToken(value["content"], **flags)


def _content(value: Any) -> str | None:
    """The text of a token that is given as such or as a mapping."""
    content = value.get("content") if isinstance(value, Mapping) else value
    return content if isinstance(content, str) else None


def _tokens(library: tokenizers.Tokenizer, vocab_size: int | None) -> tuple[list[str], list[int]]:
    """Name and type by id. Ids that no token has are unused; special tokens that the model has no row for do not exist.

    Gemma 3 for text names a token for images, which only its models for images have.
    """
    added = library.get_added_tokens_decoder()
    beyond = {i for i, token in added.items() if token.special and i >= (vocab_size or MAX_VOCAB_SIZE)}
    ids = {name: i for name, i in library.get_vocab(with_added_tokens=True).items() if i not in beyond}
    count = max(vocab_size or 0, max(ids.values(), default=-1) + 1)
    if not 0 < count <= MAX_VOCAB_SIZE:
        raise FileFormatError(f"tokenizer.json has token ids up to {count - 1}", hint=_HINT)
    if vocab_size is not None and count > vocab_size:
        raise FileFormatError(f"tokenizer.json has {count} tokens, the model has {vocab_size}", hint=_HINT)
    tokens = [f"[PAD{i}]" for i in range(count)]
    types = [int(TokenType.UNUSED)] * count
    for name, i in ids.items():
        tokens[i] = name
        types[i] = TokenType.NORMAL
    if getattr(library.model, "byte_fallback", False):
        for i in (ids[name] for name in (f"<0x{byte:02X}>" for byte in range(256)) if name in ids):
            types[i] = TokenType.BYTE
    for i in added.keys() - beyond:
        tokens[i] = added[i].content
        types[i] = TokenType.CONTROL if added[i].special else TokenType.USER_DEFINED
    return tokens, types


def _named(library: tokenizers.Tokenizer, config: Mapping[str, Any], name: str) -> int | None:
    content = _content(config.get(f"{name}_token"))
    return None if content is None else library.token_to_id(content)


def _surroundings(
    library: tokenizers.Tokenizer, config: Mapping[str, Any], bos: int | None, eos: int | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the library puts around a text, unless the configuration says of a token whether it is added."""
    encoding = library.encode("a", add_special_tokens=True)
    is_added = encoding.special_tokens_mask
    if 0 not in is_added:
        raise UnsupportedModelError("tokenizer.json makes no token of the letter a", hint="Choose another model.")
    num_before, num_behind = is_added.index(0), is_added[::-1].index(0)
    prefix = tuple(encoding.ids[:num_before])
    suffix = tuple(encoding.ids[len(encoding.ids) - num_behind :])
    if isinstance(add_bos := config.get("add_bos_token"), bool):
        prefix = (bos,) if add_bos and bos is not None else ()
    if isinstance(add_eos := config.get("add_eos_token"), bool):
        suffix = (eos,) if add_eos and eos is not None else ()
    return prefix, suffix


def _end_token_ids(
    special: Mapping[str, int], eos: int | None, generation_config: Mapping[str, Any], num_tokens: int
) -> frozenset[int]:
    given = generation_config.get("eos_token_id")
    listed = given if isinstance(given, list) else [] if given is None else [given]
    for value in listed:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < num_tokens:
            raise FileFormatError(
                f"generation_config.json: eos_token_id holds {value!r}, not one of the {num_tokens} token ids",
                hint="It, or config.json, belongs to another model: fetch the folder again.",
            )
    ends = {special[name] for name in end_tokens(special)} | {*listed}
    return frozenset(ends if eos is None else ends | {eos})


def _for_later_text(library: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """One for text that has something before it, where the library tells the first text from others."""
    parts = _parts(library.pre_tokenizer)
    if not any(part.get("prepend_scheme") == "first" for part in parts):
        return library
    later = tokenizers.Tokenizer.from_str(library.to_str())
    later.encode_special_tokens = True
    later.pre_tokenizer = pre_tokenizers.Sequence([_never_first(part) for part in parts])
    return later


def _never_first(part: dict[str, Any]) -> pre_tokenizers.PreTokenizer:
    if part.get("prepend_scheme") == "first":
        part = {**part, "prepend_scheme": "never"}
    made: pre_tokenizers.PreTokenizer = pre_tokenizers.Sequence([])
    made.__setstate__(json.dumps(part).encode())
    return made


def _writing(library: tokenizers.Tokenizer) -> _Writing:
    """By the kind of the decoder. Raises UnsupportedModelError for others than byte-level and SentencePiece's."""
    parts = _parts(library.decoder)
    kinds = {part["type"] for part in parts}
    if "ByteLevel" in kinds:
        return _Writing(byte_level_bytes)
    if "Metaspace" in kinds:
        metaspace = next(part for part in parts if part["type"] == "Metaspace")
        return _Writing(sentence_piece_bytes, metaspace.get("prepend_scheme", "always") != "never")
    if "ByteFallback" in kinds:
        strips = (part for part in parts if part["type"] == "Strip")
        return _Writing(sentence_piece_bytes, any(part.get("start") for part in strips))
    raise UnsupportedModelError(
        f"tokenizer.json has the decoder {', '.join(sorted(kinds)) or 'none'}; "
        "supported are those of byte-level and SentencePiece vocabularies",
        hint="Choose another model.",
    )


def _parts(component: Any) -> list[dict[str, Any]]:
    """The description of a component of the library; of a sequence, those of its members."""
    if component is None:
        return []
    described = cast("dict[str, Any]", json.loads(component.__getstate__()))
    members = described.get("pretokenizers") or described.get("decoders")
    return members if described.get("type") == "Sequence" and members is not None else [described]
