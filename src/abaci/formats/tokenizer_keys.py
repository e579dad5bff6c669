"""From a folder's `tokenizer.json` to the `tokenizer.ggml.*` keys of a GGUF file.

GGUF says less: how text is cut into words is a name, merges of SentencePiece vocabularies follow from scores. So what
was written is read again and both vocabularies are asked to encode the same texts; one that GGUF cannot express is
refused.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import tokenizers

from abaci.errors import UnsupportedModelError
from abaci.formats.checkpoint import MetadataValue
from abaci.formats.gguf_tokenizer import SPACE_PREFIX_KEY, read_gguf
from abaci.formats.huggingface_tokenizer import read_huggingface
from abaci.formats.tokenizer import Tokenizer
from abaci.formats.vocabulary import Vocabulary, end_tokens
from abaci.formats.word_rules import WORD_RULES

_PREFIX: Final = "tokenizer.ggml."
_LOWEST_SCORE: Final = -1e6
_END_KEYS: Final = ("eot_token_id", "eom_token_id")

PROBES: Final = (
    "Hello, world! It's 2026; I'd say they've 1234567 reasons (or 3.14).",
    "  indented\n\n\n    def f(x):\t return x ** 2  # ok\r\n",
    "Ünïcödé, naïve café, Ångström ﬁ ½ ²",
    "中文和日本語のテキスト、한국어 텍스트 ไทย हिन्दी العربية עברית",
    "👩‍👩‍👧 🤖🇩🇪 ∑∫√ …—“quotes” ‘single’",
    "CamelCaseWords snake_case_words SHOUTING mixedUP x1y2z3 100%",
    "a" * 40 + " " * 17 + "!?.,;:" * 3,
)
"""Texts that tell rules and merges apart."""

_PIECES: Final = (
    *(
        "a",
        "Bc",
        "É",
        "e\u0301",
        "中",
        "あ",
        "한",
        "ไ",
        "1",
        "234567",
        "²",
        "!",
        ".,",
        "$",
        "'s",
        "'LL",
        "_",
        "/",
        "👩",
    ),
    *(" ", "  ", "\t", "\n", "\r\n", "\n\n"),
)


def tokenizer_keys(
    tokenizer_json: str,
    tokenizer_config: Mapping[str, Any],
    generation_config: Mapping[str, Any],
    *,
    vocab_size: int,
) -> dict[str, MetadataValue]:
    """The keys of a folder's vocabulary.

    Raises FileFormatError for a damaged file, UnsupportedModelError for a vocabulary GGUF cannot express.
    """
    vocabulary, spelling = read_huggingface(tokenizer_json, tokenizer_config, generation_config, vocab_size=vocab_size)
    description = _Description(tokenizer_json)
    keys: dict[str, Any] = {"tokens": list(vocabulary.tokens), "token_type": [int(kind) for kind in vocabulary.types]}
    keys |= description.byte_level() if description.is_byte_level else description.sentence_piece(vocabulary)
    keys |= _special_ids(vocabulary, tokenizer_config)
    metadata: dict[str, MetadataValue] = {_PREFIX + name: value for name, value in keys.items()}
    check_alike(Tokenizer(vocabulary, spelling), Tokenizer(*read_gguf(metadata)))
    return metadata


def check_alike(first: Tokenizer, second: Tokenizer) -> None:
    """Raise UnsupportedModelError unless both give the same ids for texts that tell rules apart."""
    for text in PROBES:
        if first.encode(text) != second.encode(text):
            raise UnsupportedModelError(
                f"the model's tokenizer would cut text differently after conversion, such as {text[:24]!r}",
                hint="This kind of tokenizer cannot be expressed in the other format yet.",
            )


class _Description:
    """A parsed `tokenizer.json`, of which the library has already accepted every part."""

    def __init__(self, text: str) -> None:
        self._text = text
        values = json.loads(text)
        self._model = values["model"]
        if self._model.get("type", "BPE") != "BPE":
            raise UnsupportedModelError(f"a tokenizer of the type {self._model['type']} has no name in GGUF")
        self._normalizers = _members(values.get("normalizer"), "normalizers")
        self._splitters = _members(values.get("pre_tokenizer"), "pretokenizers")
        self._added = values.get("added_tokens") or []

    @property
    def is_byte_level(self) -> bool:
        return any(part["type"] == "ByteLevel" for part in self._splitters)

    def byte_level(self) -> dict[str, Any]:
        """`gpt2`: merges, and the name of the rule by which text is cut."""
        return {"model": "gpt2", "pre": self._rule_name(), "merges": self._merges()}

    def sentence_piece(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """`llama`: a piece's score is the place of the first merge that makes it, counted down from zero."""
        ranks: dict[str, int] = {}
        for merge in self._merges():
            ranks.setdefault(merge.replace(" ", "", 1), len(ranks))
        scores = [_LOWEST_SCORE if name not in ranks else -float(ranks[name]) for name in vocabulary.tokens]
        way = self._space_prefix()
        keys = {"model": "llama", "pre": "default", "scores": scores, "add_space_prefix": way != "never"}
        return keys if way == "never" else keys | {SPACE_PREFIX_KEY: way}

    def _merges(self) -> list[str]:
        """Two pieces with a space between, as older files list them; newer ones list pairs."""
        return [merge if isinstance(merge, str) else " ".join(merge) for merge in self._model.get("merges", [])]

    def _space_prefix(self) -> str:
        """Which texts get one."""
        if any(part["type"] == "Prepend" for part in self._normalizers):
            return "prepend"
        spaces = (part for part in self._splitters if part["type"] == "Metaspace")
        return next((str(part.get("prepend_scheme", "always")) for part in spaces), "never")

    def _rule_name(self) -> str:
        """The first rule that cuts every sample as the folder's own does: expressions may be written in many ways."""
        takes_words = bool(self._model.get("ignore_merges"))
        cut = _cutter(tokenizers.Tokenizer.from_str(self._text))
        rules = [(name, rule.splitter()) for name, rule in WORD_RULES.items() if rule.takes_words == takes_words]
        candidates = [(name, _cutter(splitter)) for name, splitter in rules]
        for sample in _samples():
            expected = cut(sample)
            candidates = [(name, other) for name, other in candidates if other(sample) == expected]
        if not candidates:
            patterns = [part.get("pattern", {}).get("Regex", part["type"]) for part in self._splitters]
            raise UnsupportedModelError(
                f"GGUF has no name for the way this tokenizer cuts text into words: {' then '.join(patterns)[:200]}",
                hint="The folder runs as it is; it cannot be converted.",
            )
        return candidates[0][0]


def _cutter(library: tokenizers.Tokenizer) -> Callable[[str], list[str]]:
    """What a tokenizer makes of a text before it merges."""
    normalizer, splitter = library.normalizer, library.pre_tokenizer

    def cut(text: str) -> list[str]:
        normal = text if normalizer is None else normalizer.normalize_str(text)
        return [word for word, _ in splitter.pre_tokenize_str(normal)]

    return cut


def _samples() -> Iterator[str]:
    """Texts, and all triples of pieces between which rules differ."""
    yield from PROBES
    yield from map("".join, itertools.product(_PIECES, repeat=3))


def _members(part: Mapping[str, Any] | None, name: str) -> Sequence[Mapping[str, Any]]:
    if part is None:
        return []
    return part[name] if part["type"] == "Sequence" else [part]


def _special_ids(vocabulary: Vocabulary, config: Mapping[str, Any]) -> dict[str, Any]:
    """Which tokens begin, end, fill and stand for the unknown; ends that GGUF knows by name need no key."""
    ids: dict[str, Any] = {}
    bos, eos = vocabulary.bos_token_id, vocabulary.eos_token_id
    by_name = {vocabulary.special[name] for name in end_tokens(vocabulary.special)}
    others = sorted(vocabulary.end_token_ids - by_name - {eos})
    if eos is None and others:
        eos = others.pop(0)
    if len(others) > len(_END_KEYS):
        raise UnsupportedModelError(f"GGUF has no place for all tokens that end an answer: {others}")
    ids |= {} if bos is None else {"bos_token_id": bos}
    ids |= {} if eos is None else {"eos_token_id": eos}
    ids |= dict(zip(_END_KEYS, others, strict=False))
    for name, key in (("pad_token", "padding_token_id"), ("unk_token", "unknown_token_id")):
        content = config.get(name)
        content = content.get("content") if isinstance(content, Mapping) else content
        if isinstance(content, str) and content in vocabulary.special:
            ids[key] = vocabulary.special[content]
    if vocabulary.prefix_ids not in ((), (bos,)) or vocabulary.suffix_ids not in ((), (eos,)):
        raise UnsupportedModelError("GGUF cannot say which tokens this tokenizer puts around a text")
    return ids | {"add_bos_token": bool(vocabulary.prefix_ids), "add_eos_token": bool(vocabulary.suffix_ids)}
