"""From the `tokenizer.ggml.*` keys of a GGUF file to a folder's `tokenizer.json` and what stands beside it.

The reverse of `tokenizer_keys`; what was made is read again and compared in the same way.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from abaci.errors import UnsupportedModelError
from abaci.formats.checkpoint import MetadataValue
from abaci.formats.gguf_tokenizer import SPACE_PREFIX_KEY, read_gguf
from abaci.formats.implied_merges import implied_merges
from abaci.formats.tokenizer import Tokenizer
from abaci.formats.tokenizer_keys import check_alike
from abaci.formats.vocabulary import SPACE, TokenType, Vocabulary
from abaci.formats.word_rules import WORD_RULES, WordRule

_PREFIX: Final = "tokenizer.ggml."


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """`tokenizer.json` as text, `tokenizer_config.json` as values, and the ids for `generation_config.json`."""

    tokenizer_json: str
    tokenizer_config: Mapping[str, Any]
    end_token_ids: tuple[int, ...]


def tokenizer_files(metadata: Mapping[str, MetadataValue]) -> TokenizerFiles:
    """Of a GGUF file. Raises FileFormatError, UnsupportedModelError for a vocabulary that cannot be expressed."""
    vocabulary, spelling = read_gguf(metadata)
    kind = metadata[_PREFIX + "model"]
    if kind == "gpt2":
        library = _byte_level(vocabulary, metadata)
    elif kind == "llama":
        library = _sentence_piece(vocabulary, metadata, spelling.adds_space_prefix)
    else:
        raise UnsupportedModelError(f"a tokenizer of the kind {kind!r} cannot be written as tokenizer.json")
    _add_tokens(library, vocabulary)
    _add_surroundings(library, vocabulary)
    config = _config(vocabulary, metadata)
    ends = tuple(sorted(vocabulary.end_token_ids))
    text = json.dumps(json.loads(library.to_str()), ensure_ascii=False, indent=2) + "\n"
    written = Tokenizer.from_huggingface(text, config, {"eos_token_id": list(ends)}, vocab_size=len(vocabulary.tokens))
    check_alike(Tokenizer(vocabulary, spelling), written)
    return TokenizerFiles(text, config, ends)


def _byte_level(vocabulary: Vocabulary, metadata: Mapping[str, MetadataValue]) -> tokenizers.Tokenizer:
    rule: WordRule = WORD_RULES[str(metadata.get(_PREFIX + "pre", "default"))]
    listed = metadata[_PREFIX + "merges"]
    split = (str(merge).partition(" ") for merge in listed) if isinstance(listed, list) else ()
    merges = [(left, right) for left, _, right in split]
    library = tokenizers.Tokenizer(models.BPE(_names(vocabulary), merges, ignore_merges=rule.takes_words))
    if rule.nfc:
        library.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in rule.patterns]
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = pre_tokenizers.Sequence([*splits, spell])
    library.decoder = decoders.ByteLevel()
    return library


def _sentence_piece(
    vocabulary: Vocabulary, metadata: Mapping[str, MetadataValue], adds_space: bool
) -> tokenizers.Tokenizer:
    scores = metadata[_PREFIX + "scores"]
    pieces = [i for i, kind in enumerate(vocabulary.types) if kind == TokenType.NORMAL]
    ranked = sorted(pieces, key=lambda i: -float(scores[i]) if isinstance(scores, list) else 0.0)
    unknown = metadata.get(_PREFIX + "unknown_token_id")
    model = models.BPE(
        _names(vocabulary),
        implied_merges([vocabulary.tokens[i] for i in ranked]),
        byte_fallback=True,
        fuse_unk=True,
        unk_token=vocabulary.tokens[unknown] if isinstance(unknown, int) else None,
    )
    library = tokenizers.Tokenizer(model)
    spell = normalizers.Replace(" ", SPACE)
    way = metadata.get(_PREFIX + SPACE_PREFIX_KEY)
    if adds_space and isinstance(way, str) and way in ("always", "first"):
        library.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, way, split=False)
    else:
        library.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spell]) if adds_space else spell
    parts = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    library.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if adds_space else parts)
    return library


def _names(vocabulary: Vocabulary) -> dict[str, int]:
    """All tokens that stand for something; ids without a token are left out."""
    numbered = enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
    return {name: i for i, (name, kind) in numbered if kind != TokenType.UNUSED}


def _add_tokens(library: tokenizers.Tokenizer, vocabulary: Vocabulary) -> None:
    """Those that text is cut at before anything else."""
    for name, kind in zip(vocabulary.tokens, vocabulary.types, strict=True):
        if kind == TokenType.CONTROL:
            library.add_special_tokens([AddedToken(name, special=True, normalized=False)])
        elif kind == TokenType.USER_DEFINED:
            library.add_tokens([AddedToken(name, normalized=False)])


def _add_surroundings(library: tokenizers.Tokenizer, vocabulary: Vocabulary) -> None:
    before = [vocabulary.tokens[i] for i in vocabulary.prefix_ids]
    behind = [vocabulary.tokens[i] for i in vocabulary.suffix_ids]
    if not before and not behind:
        return
    named = [(vocabulary.tokens[i], i) for i in dict.fromkeys((*vocabulary.prefix_ids, *vocabulary.suffix_ids))]
    pair = [*before, "$A", "$B:1", *behind]
    library.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *behind], pair=pair, special_tokens=named
    )


def _config(vocabulary: Vocabulary, metadata: Mapping[str, MetadataValue]) -> dict[str, Any]:
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    ids: dict[str, object] = {
        "bos_token": vocabulary.bos_token_id,
        "eos_token": vocabulary.eos_token_id,
        "pad_token": metadata.get(_PREFIX + "padding_token_id"),
        "unk_token": metadata.get(_PREFIX + "unknown_token_id"),
    }
    for name, token_id in ids.items():
        if isinstance(token_id, int) and 0 <= token_id < len(vocabulary.tokens):
            config[name] = vocabulary.tokens[token_id]
    return config
