"""How byte-level vocabularies cut text into words, by the name that GGUF files give the rule (`tokenizer.ggml.pre`).

The expressions are those of the models' own `tokenizer.json`; llama.cpp names the rules and writes some of them in
another way, to the same effect. Where it leaves out what the original does (Unicode normalisation), that counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers


@dataclass(frozen=True, slots=True)
class WordRule:
    """Patterns applied one after the other, matches and gaps kept.

    nfc             text is normalised first.
    takes_words     a word that is a token as a whole is taken so, whatever the merges would make of it.
    begins_text     a text begins with the token for it, unless the file says otherwise.
    """

    patterns: tuple[str, ...]
    nfc: bool = False
    takes_words: bool = False
    begins_text: bool = False

    def splitter(self) -> tokenizers.Tokenizer:
        """A tokenizer that has these rules and no pieces."""
        splitter = tokenizers.Tokenizer(models.BPE())
        if self.nfc:
            splitter.normalizer = normalizers.NFC()
        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self.patterns]
        spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        splitter.pre_tokenizer = pre_tokenizers.Sequence([*splits, spell])
        return splitter


_CONTRACTION: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER: Final = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}"
_LOWER: Final = r"\p{Ll}\p{Lm}\p{Lo}\p{M}"

GPT2_WORDS: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _words(letters: str, digits: str) -> str:
    """The expression that began with cl100k, with the given letters and digits of a word."""
    other = rf" ?[^\s{letters}\p{{N}}]+[\r\n]*"
    return rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[{letters}]+|{digits}|{other}|{_SPACES}"


def _cased_words(contraction: str, digits: str, but: str = "", ends: str = r"\r\n/") -> str:
    """The expression that began with o200k: a word changes where lower case is followed by upper case.

    Letters are all `but` these; a run of other signs takes what it `ends` with along.
    """
    begin = r"[^\r\n\p{L}\p{N}]?"
    lower, upper = f"{begin}[{_UPPER}{but}]*[{_LOWER}{but}]+", f"{begin}[{_UPPER}{but}]+[{_LOWER}{but}]*"
    return rf"{lower}{contraction}|{upper}{contraction}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[{ends}]*|{_SPACES}"


# Letters that have case, but for some scripts; those that normalisation would change are escaped.
_CASED_LETTERS: Final = (
    r"A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝ\x{1F5F}-\x{1F7D}ᾀ-ᾴᾶ-ᾼ\x{1FBE}"
    r"ῂ-ῄῆ-ῌῐ-\x{1FD3}ῖ-\x{1FDB}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\x{2126}ℨ\x{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲"
    "𑢠-𑣟𞤀-𞥃"
)
_ASCII_MARKS: Final = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
_DEEPSEEK_CJK: Final = "[一-龥ࠀ-一가-퟿]+"

_CL100K: Final = _words(r"\p{L}", r"\p{N}{1,3}")
_QWEN2: Final = WordRule((_words(r"\p{L}", r"\p{N}"),), nfc=True)
_LLAMA3: Final = WordRule((_CL100K,), takes_words=True, begins_text=True)
_GLM4: Final = WordRule((_CL100K,), takes_words=True)
_O200K: Final = WordRule((_cased_words(f"{_CONTRACTION}?", r"\p{N}{1,3}"),), takes_words=True)
_KIMI: Final = r"\p{Han}+|" + _cased_words(f"{_CONTRACTION}?", r"\p{N}{1,3}", but=r"&&[^\p{Han}]", ends=r"\r\n")
_SINGLE_DIGITS: Final = WordRule((r"\p{N}", GPT2_WORDS))
_WHOLE_NUMBERS: Final = WordRule((GPT2_WORDS,))

WORD_RULES: Final[Mapping[str, WordRule]] = MappingProxyType(
    {
        # What llama.cpp does for files that name no rule.
        "default": WordRule((r"[\p{P}\$\+<=>\^~\|]+", GPT2_WORDS, r"\p{N}+", r"[0-9][0-9][0-9]")),
        "gpt-2": _WHOLE_NUMBERS,
        "phi-2": _WHOLE_NUMBERS,
        "mpt": _WHOLE_NUMBERS,
        "jais": _WHOLE_NUMBERS,
        "exaone4": _WHOLE_NUMBERS,
        "olmo": WordRule((GPT2_WORDS,), nfc=True),
        "smollm": _SINGLE_DIGITS,
        "starcoder": _SINGLE_DIGITS,
        "refact": _SINGLE_DIGITS,
        "codeshell": _SINGLE_DIGITS,
        "exaone": _SINGLE_DIGITS,
        "command-r": WordRule((r"\p{N}", GPT2_WORDS), nfc=True),
        "llama3": _LLAMA3,
        "llama-v3": _LLAMA3,
        "llama-bpe": _LLAMA3,
        "falcon3": _LLAMA3,
        "falcon-h1": _LLAMA3,
        "lfm2": _LLAMA3,
        # cl100k: Phi-4, OLMo 2 and 3, DBRX.
        "dbrx": WordRule((_CL100K,)),
        "smaug-bpe": WordRule((_CL100K,)),
        "chatglm-bpe": _GLM4,
        "glm4": _GLM4,
        "qwen2": _QWEN2,
        "deepseek-r1-qwen": WordRule(_QWEN2.patterns),
        "megrez": _QWEN2,
        "stablelm2": WordRule(_QWEN2.patterns),
        "hunyuan": WordRule(_QWEN2.patterns),
        "qwen35": WordRule((_words(r"\p{L}\p{M}", r"\p{N}"),), nfc=True),
        "tekken": WordRule((_cased_words("", r"\p{N}"),), takes_words=True, begins_text=True),
        "gpt-4o": _O200K,
        "llama4": _O200K,
        "kanana2": _O200K,
        "minimax-m2": _O200K,
        "kimi-k2": WordRule((_KIMI,), takes_words=True),
        "deepseek-llm": WordRule(
            (
                r"[\r\n]",
                rf"\s?[{_CASED_LETTERS}]+",
                r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
                r"\s+$",
                _DEEPSEEK_CJK,
                r"\p{N}+",
            )
        ),
        "deepseek-coder": WordRule((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_CJK, r"\p{N}")),
        "deepseek-v3": WordRule(
            (
                r"\p{N}{1,3}",
                "[一-龥぀-ゟ゠-ヿ]+",
                rf"{_ASCII_MARKS}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
                rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}",
            )
        ),
    }
)
