"""Tokenizers of Hugging Face folders: ids are those the library gives for the whole text; what configurations add."""

import json

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from abaci.errors import FileFormatError, UnsupportedModelError
from abaci.formats.tokenizer import Tokenizer
from abaci.formats.word_rules import WORD_RULES

TEXTS = st.lists(
    st.sampled_from(
        ["<s>", "</s>", "<|user|>", "<think>", "a", "b", "ab", "hello", " ", "  ", "\n", "1", "12", "é", "日"]
    ),
    max_size=12,
).map("".join)


def byte_level(**options):
    """As Llama 3's: a word rule, words taken whole, a template that begins with <s>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "hello"), ("Ġ", "Ġ"), ("a", "b")]
    names = [*alphabet, *map("".join, merges), "hello12", "Ġab"]
    library = tokenizers.Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, merges, **options))
    split = pre_tokenizers.Split(Regex(WORD_RULES["llama-bpe"].patterns[0]), "isolated")
    library.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    library.decoder = decoders.ByteLevel()
    add_tokens(library)
    begin = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", library.token_to_id("<s>"))])
    library.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), begin])
    return library


def sentence_piece():
    pieces = ["▁", "a", "b", "h", "e", "l", "o", "▁a", "ab", "▁ab", "▁▁"]
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    merges = [("▁", "a"), ("a", "b"), ("▁", "ab"), ("▁", "▁")]
    options = {"unk_token": "<unk>", "byte_fallback": True, "fuse_unk": True}
    library = tokenizers.Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, merges, **options))
    strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    library.decoder = decoders.Sequence(strip)
    return library


def metaspace(scheme):
    library = sentence_piece()
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    add_tokens(library)
    return library


def prepending():
    """As Llama 2's: a normaliser spells every stretch of text as if it began one."""
    library = sentence_piece()
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    add_tokens(library)
    return library


def add_tokens(library):
    library.add_special_tokens(["<s>", "</s>", AddedToken("<|user|>", rstrip=True, special=True)])
    library.add_tokens([AddedToken("<think>", lstrip=True, normalized=False)])


def read(library, config=None, generation=None, **options):
    return Tokenizer.from_huggingface(library.to_str(), config or {}, generation or {}, **options)


LIBRARIES = {
    "byte level": byte_level(),
    "words first": byte_level(ignore_merges=True),
    "first": metaspace("first"),
    "always": metaspace("always"),
    "never": metaspace("never"),
    "prepending": prepending(),
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_ids_are_those_of_the_library(name):
    library = LIBRARIES[name]
    tokenizer = read(library)

    @given(TEXTS)
    def check(text):
        assert tokenizer.encode(text, allow_special=True) == library.encode(text).ids

    check()


@pytest.mark.parametrize("name", LIBRARIES)
def test_text_names_special_tokens_only_with_permission(name):
    tokenizer = read(LIBRARIES[name])
    ids = tokenizer.encode("a<s>b</s> <|user|> a<think>", add_bos=False)
    assert not set(ids) & set(tokenizer.special_tokens.values())
    assert tokenizer.token(ids[-1]) == "<think>"


@pytest.mark.parametrize("name", LIBRARIES)
def test_decoding_is_that_of_the_library(name):
    library = LIBRARIES[name]
    tokenizer = read(library)
    for text in ("hello ab", "  é日\n", "b ab<think>ab"):
        ids = library.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == library.decode(ids)


def test_special_tokens_are_those_marked_so():
    tokenizer = read(byte_level())
    assert set(tokenizer.special_tokens) == {"<s>", "</s>", "<|user|>"}
    assert tokenizer.token_bytes(tokenizer.encode("<think>", add_bos=False)[0]) == b"<think>"


def test_what_begins_and_ends_a_text():
    library = byte_level()
    s, e = library.token_to_id("<s>"), library.token_to_id("</s>")
    inner = library.encode("ab", add_special_tokens=False).ids
    assert read(library).encode("ab") == [s, *inner]
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
    assert read(library, {**config, "add_bos_token": False}).encode("ab") == inner
    assert read(library, {**config, "add_eos_token": True}).encode("ab") == [s, *inner, e]
    assert read(library, {**config, "add_eos_token": True}).encode("ab", add_bos=False) == inner
    assert read(library, {**config, "add_eos_token": True}).encode("ab", add_bos=True) == [s, *inner]


def test_ends_are_merged():
    library = byte_level()
    s, e, user = map(library.token_to_id, ("<s>", "</s>", "<|user|>"))
    tokenizer = read(library, {"eos_token": "</s>"}, {"eos_token_id": [user, 5]})
    assert (tokenizer.eos_token_id, tokenizer.end_token_ids) == (e, {e, user, 5})
    assert read(library, {}, {"eos_token_id": s}).end_token_ids == {s}
    library.add_special_tokens(["<|im_end|>", "<|end|>"])
    im_end, end = map(library.token_to_id, ("<|im_end|>", "<|end|>"))
    assert read(library).end_token_ids == {im_end, end}
    library.add_special_tokens(["<|return|>", "<|call|>"])
    assert end not in read(library).end_token_ids


def test_tokens_that_only_the_configuration_names():
    library = byte_level()
    count = library.get_vocab_size()
    added = {str(count): {"content": "<tool>", "special": False}, str(count + 1): {"content": "<|x|>", "special": True}}
    tokenizer = read(library, {"added_tokens_decoder": added, "eos_token": "<end>"})
    assert tokenizer.encode("<tool><|x|><end>", add_bos=False, allow_special=True) == [count, count + 1, count + 2]
    assert tokenizer.special_tokens.keys() >= {"<|x|>", "<end>"}
    assert tokenizer.end_token_ids == {count + 2}


def test_ids_that_no_token_has_are_unused():
    library = byte_level()
    count = library.get_vocab_size()
    tokenizer = read(library, vocab_size=count + 3)
    assert tokenizer.vocab_size == count + 3
    assert [tokenizer.token_bytes(i) for i in range(count, count + 3)] == [b""] * 3
    with pytest.raises(FileFormatError, match=f"{count} tokens"):
        read(library, vocab_size=count - 1)


def test_special_tokens_that_the_model_has_no_row_for_do_not_exist():
    library = byte_level()
    count = library.get_vocab_size()
    library.add_special_tokens(["<image>"])
    tokenizer = read(library, vocab_size=count)
    assert tokenizer.vocab_size == count
    assert "<image>" not in tokenizer.special_tokens
    assert max(tokenizer.encode("a<image>", allow_special=True)) < count


def test_padding_and_truncation_are_the_trainers_business():
    library = byte_level()
    expected = library.encode("hello hello").ids
    library.enable_truncation(2)
    library.enable_padding(length=99)
    assert read(library).encode("hello hello") == expected


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"model": 1}', byte_level().to_str()[:-40]])
def test_damaged_files_are_refused(text):
    with pytest.raises(FileFormatError, match=r"tokenizer\.json") as caught:
        Tokenizer.from_huggingface(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("config", "generation"),
    [
        ({"added_tokens_decoder": [1]}, {}),
        ({"added_tokens_decoder": {"5": "x"}}, {}),
        ({"added_tokens_decoder": {"5": {"content": 5}}}, {}),
        ({}, {"eos_token_id": "x"}),
        ({}, {"eos_token_id": [-1]}),
        ({}, {"eos_token_id": [True]}),
        ({}, {"eos_token_id": 10**9}),
    ],
)
def test_damaged_configurations_are_refused(config, generation):
    with pytest.raises(FileFormatError, match="config"):
        read(byte_level(), config, generation)


def test_end_tokens_that_cannot_be_are_blamed_on_the_file_that_names_them():
    with pytest.raises(FileFormatError) as caught:
        read(byte_level(), {}, {"eos_token_id": [5, "x"]})
    assert "tokenizer.json" not in f"{caught.value.message} {caught.value.hint}"


def test_ids_out_of_all_proportion_are_refused():
    described = json.loads(byte_level().to_str())
    described["model"]["vocab"]["x y"] = 1 << 30
    with pytest.raises(FileFormatError, match="token ids up to"):
        Tokenizer.from_huggingface(json.dumps(described))


def test_other_kinds_are_refused_by_name():
    library = tokenizers.Tokenizer(models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    library.decoder = decoders.WordPiece()
    with pytest.raises(UnsupportedModelError, match="WordPiece"):
        read(library)
