"""Tokenizers: exact ids on real vocabularies, and every rule on small ones written out here."""

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abaci.errors import FileFormatError, UnsupportedModelError, UsageError
from abaci.formats.gguf import GgufCheckpoint
from abaci.formats.tokenizer import StreamingDecoder, Tokenizer
from abaci.formats.word_rules import WORD_RULES

CASES = json.loads((Path(__file__).parent.parent / "tokenizer_cases.json").read_text())["texts"]
RULE_CASES = json.loads((Path(__file__).parent / "word_rule_cases.json").read_text())

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def byte_characters():
    """The 256 characters of byte-level vocabularies, by byte: printable ones stand for themselves."""
    kept = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in kept else chr(next(others)) for byte in range(256)]


def byte_level(pre="qwen2", **changes):
    """All bytes, a few merges, special and other whole tokens."""
    merges = ["h e", "l l", "he ll", "hell o", "Ġ hello", "1 2", "Ġ Ġ", "ĠĠ ĠĠ", "Ã ©", "! !", "Ċ Ċ"]
    tokens = byte_characters() + [merge.replace(" ", "") for merge in merges]
    types = [NORMAL] * len(tokens)
    extra = {
        "<|im_start|>": CONTROL,
        "<|im_end|>": CONTROL,
        "<|im_end|>>": CONTROL,
        "<tool>": USER_DEFINED,
        "[PAD]": UNUSED,
    }
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens + list(extra),
        "tokenizer.ggml.token_type": types + list(extra.values()),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": tokens.index("a"),
        "tokenizer.ggml.eos_token_id": len(tokens) + 1,
    }
    return {key: value for key, value in (metadata | keyed(changes)).items() if value is not None}


def sentence_piece(**changes):
    """Bytes as fallback, pieces whose scores decide, whole tokens as Gemma's files have them."""
    listed = [("<unk>", 0, UNKNOWN), ("<s>", 0, CONTROL), ("</s>", 0, CONTROL), ("€", 0, CONTROL)]
    listed += [(f"<0x{byte:02X}>", 0, BYTE) for byte in range(256)]
    listed += [
        ("\n", -1000, USER_DEFINED),
        ("  ", -1000, USER_DEFINED),
        ("   ", -1000, USER_DEFINED),
        ("<b>", -1000, USER_DEFINED),
    ]
    pieces = ["ab", "bc", "abc", "▁a", "▁abc", "a", "b", "c", "▁", "é"]
    listed += [(piece, -i, NORMAL) for i, piece in enumerate(pieces)]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [token for token, _, _ in listed],
        "tokenizer.ggml.scores": [float(score) for _, score, _ in listed],
        "tokenizer.ggml.token_type": [kind for _, _, kind in listed],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.add_bos_token": False,
    }
    return {key: value for key, value in (metadata | keyed(changes)).items() if value is not None}


def keyed(changes):
    return {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


def pieces(tokenizer, text, **options):
    return [tokenizer.token(i) for i in tokenizer.encode(text, **options)]


# Real vocabularies


@pytest.fixture(scope="module", params=["with what it needs", "with the whole table"])
def smollm2(smollm2_path, request):
    with GgufCheckpoint.open(smollm2_path) as checkpoint:
        tokenizer = Tokenizer.from_gguf(checkpoint.metadata)
        if request.param == "with the whole table":
            tokenizer.prepare()
        return tokenizer


def test_smollm2_gives_the_ids_of_the_original(smollm2):
    assert [case["text"] for case in CASES if smollm2.encode(case["text"]) != case["smollm2"]] == []


def test_smollm2_special_tokens(smollm2):
    assert smollm2.vocab_size == 49152
    assert (smollm2.bos_token_id, smollm2.eos_token_id) == (1, 2)
    assert smollm2.end_token_ids == {0, 2}
    assert smollm2.encode("<|im_start|>x<|im_end|>", allow_special=True) == [1, *smollm2.encode("x"), 2]
    assert not {0, 1, 2} & set(smollm2.encode("<|im_start|>x<|im_end|><|endoftext|>"))


def test_smollm2_decodes_what_it_encodes(smollm2):
    for case in CASES:
        # Bytes that begin U+40000 and the like, and six control characters, are not in this vocabulary.
        if not set(case["text"]) & set("\x04\x06\x13\x14\x16\x1d\U000e0041\U0010ffff"):
            assert smollm2.decode(case["smollm2"]) == case["text"]


@pytest.mark.parametrize("rule", RULE_CASES["ids"])
def test_word_rules_give_the_ids_of_llama_cpp(rule, smollm2_path):
    with GgufCheckpoint.open(smollm2_path) as checkpoint:
        tokenizer = Tokenizer.from_gguf({**checkpoint.metadata, "tokenizer.ggml.pre": rule})
    found = dict(zip(RULE_CASES["texts"], RULE_CASES["ids"][rule], strict=True))
    assert {text: ids for text in found if (ids := tokenizer.encode(text, add_bos=False)) != found[text]} == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't DON'T fooBAR BAZqux McDonald", ["Don't", " DON'T", " foo", "BAR", " BAZqux", " Mc", "Donald"]),
        ("漢字の中文abC中Bx、カナ", ["漢字", "の", "中文", "ab", "C", "中", "Bx", "、カナ"]),
        ("x々y〇z 한글中", ["x", "々", "y", "〇", "z", " 한글", "中"]),
        ("12345 a//\n/b ==\r\n\r\nx", ["123", "45", " a", "//\n", "/b", " ==\r\n\r\n", "x"]),
    ],
)
def test_kimi_k2_cuts_han_apart_as_the_original_s_expression_does(text, words):
    """llama.cpp, which does it by hand, takes some words of mixed case whole: this is what `regex` finds."""
    pieces = WORD_RULES["kimi-k2"].splitter().pre_tokenizer.pre_tokenize_str(text)
    assert [text[begin:end] for _, (begin, end) in pieces] == words


# Byte-level BPE


def test_merges_apply_in_order():
    tokenizer = Tokenizer.from_gguf(byte_level())
    assert pieces(tokenizer, "hello hello") == ["hello", "Ġhello"]
    assert pieces(tokenizer, "hell é") == ["hell", "Ġ", "Ã©"]


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("qwen2", "12", ["1", "2"]),
        ("smollm", "12", ["1", "2"]),
        ("default", "12", ["12"]),
        ("default", "1212", ["12", "1", "2"]),
        ("qwen2", "!!\n\nhello", ["!!", "ĊĊ", "hello"]),
        ("qwen2", "     hello", ["ĠĠĠĠ", "Ġhello"]),
        ("smollm", "     hello", ["ĠĠĠĠ", "Ġhello"]),
        ("default", " !", ["Ġ", "!"]),
        ("qwen2", "e\u0301", ["Ã©"]),
        ("smollm", "e\u0301", ["e", "Ì", "ģ"]),
        ("deepseek-r1-qwen", "e\u0301", ["e", "Ì", "ģ"]),
        ("llama-bpe", "1212", ["12", "1", "2"]),
        ("deepseek-v3", "1212", ["12", "1", "2"]),
        ("gpt-4o", "heLL", ["he", "L", "L"]),
    ],
)
def test_word_rules(pre, text, expected):
    assert pieces(Tokenizer.from_gguf(byte_level(pre)), text, add_bos=False) == expected


@pytest.mark.parametrize("metadata", [byte_level(), sentence_piece(), sentence_piece(unknown_token_id=None)])
def test_the_whole_table_gives_the_same_ids_as_what_a_text_needs(metadata):
    whole = Tokenizer.from_gguf(metadata)
    whole.prepare()

    @given(st.one_of(st.text(max_size=40), st.text("abc hel12!é€\n▁<>", max_size=40)))
    def check(text):
        assert Tokenizer.from_gguf(metadata).encode(text) == whole.encode(text)

    check()


def test_a_missing_word_rule_is_the_default_one():
    assert pieces(Tokenizer.from_gguf(byte_level(pre=None)), "12") == ["12"]


def test_special_tokens_need_permission():
    tokenizer = Tokenizer.from_gguf(byte_level())
    assert not any(map(tokenizer.is_special, tokenizer.encode("a<|im_start|>b<|im_end|>")))
    assert pieces(tokenizer, "a<|im_start|>b", allow_special=True) == ["a", "<|im_start|>", "b"]


def test_the_longest_whole_token_wins():
    tokenizer = Tokenizer.from_gguf(byte_level())
    assert pieces(tokenizer, "<|im_end|>><|im_end|>", allow_special=True) == ["<|im_end|>>", "<|im_end|>"]
    assert pieces(tokenizer, "<<tool>", allow_special=True) == ["<", "<tool>"]


def test_user_defined_tokens_are_text_and_unused_ones_nothing():
    tokenizer = Tokenizer.from_gguf(byte_level())
    assert pieces(tokenizer, "<tool>") == ["<tool>"]
    assert "[PAD]" not in pieces(tokenizer, "[PAD]", allow_special=True)
    unused = tokenizer.vocab_size - 1
    assert tokenizer.token(unused) == "[PAD]"
    assert tokenizer.token_bytes(unused) == b""


def test_token_bytes():
    tokenizer = Tokenizer.from_gguf(byte_level())
    assert [tokenizer.token_bytes(i) for i in range(256)] == [bytes([i]) for i in range(256)]
    assert tokenizer.token_bytes(tokenizer.encode(" hello")[0]) == b" hello"
    assert tokenizer.token_bytes(tokenizer.special_tokens["<|im_end|>"]) == b"<|im_end|>"


def test_beginning_of_text():
    tokenizer = Tokenizer.from_gguf(byte_level())
    assert pieces(tokenizer, "b") == ["b"]
    assert pieces(tokenizer, "b", add_bos=True) == ["a", "b"]
    assert pieces(Tokenizer.from_gguf(byte_level(add_bos_token=True)), "b") == ["a", "b"]
    assert pieces(Tokenizer.from_gguf(byte_level(add_bos_token=True)), "b", add_bos=False) == ["b"]
    with pytest.raises(UsageError, match="add_bos"):
        Tokenizer.from_gguf(byte_level(bos_token_id=None)).encode("b", add_bos=True)


def test_end_tokens_are_found_by_key_and_by_name():
    tokenizer = Tokenizer.from_gguf(byte_level(eos_token_id=5, eot_token_id=6))
    assert tokenizer.end_token_ids == {5, 6, tokenizer.special_tokens["<|im_end|>"]}


@pytest.mark.parametrize("token_id", [-1, 10**6])
def test_ids_out_of_range_are_the_callers_error(token_id):
    tokenizer = Tokenizer.from_gguf(byte_level())
    for use in (tokenizer.token, tokenizer.token_bytes, tokenizer.is_special, lambda i: tokenizer.decode([i])):
        with pytest.raises(UsageError, match=str(token_id)):
            use(token_id)


@pytest.mark.parametrize("text", [None, 5, b"a", ["a"]])
def test_what_is_no_text_is_the_callers_error(text):
    with pytest.raises(UsageError, match=f"is a {type(text).__name__}"):
        Tokenizer.from_gguf(byte_level()).encode(text)


def test_lone_surrogates_are_the_callers_error():
    for metadata in (byte_level(), sentence_piece()):
        with pytest.raises(UsageError, match="surrogate at character 1"):
            Tokenizer.from_gguf(metadata).encode("a\ud800")


# SentencePiece


def test_the_best_score_is_joined_first():
    tokenizer = Tokenizer.from_gguf(sentence_piece())
    assert pieces(tokenizer, "abc") == ["abc"]
    assert pieces(tokenizer, "bcabc") == ["bc", "abc"]
    assert pieces(tokenizer, "a abc") == ["a", "▁abc"]
    scores = dict(
        zip(sentence_piece()["tokenizer.ggml.tokens"], sentence_piece()["tokenizer.ggml.scores"], strict=True)
    )
    scores["▁a"] = 9.0
    assert pieces(tokenizer, " ab") == ["▁", "ab"]
    assert pieces(Tokenizer.from_gguf(sentence_piece(scores=list(scores.values()))), " ab") == ["▁a", "b"]


def test_what_no_piece_spells_falls_back_to_bytes():
    tokenizer = Tokenizer.from_gguf(sentence_piece())
    assert pieces(tokenizer, "aé日") == ["a", "é", "<0xE6>", "<0x97>", "<0xA5>"]
    assert tokenizer.decode(tokenizer.encode("aé日")) == "aé日"


def test_runs_of_spaces_and_whole_tokens():
    tokenizer = Tokenizer.from_gguf(sentence_piece())
    assert tokenizer.encode("a   b")[1] == tokenizer.encode("   ")[0]
    assert pieces(tokenizer, "a   b") == ["a", "   ", "b"]
    assert pieces(tokenizer, "\n\n<b>") == ["\n", "\n", "<b>"]
    assert tokenizer.decode(tokenizer.encode("a   b\n <b>")) == "a   b\n <b>"


def test_text_never_names_bytes_or_control_tokens():
    tokenizer = Tokenizer.from_gguf(sentence_piece())
    assert not {"<0x41>", "<s>", "€", "<unk>"} & set(pieces(tokenizer, "<0x41><s>€<unk>"))
    assert pieces(tokenizer, "€<s>", allow_special=True) == ["€", "<s>"]


def test_space_prefix():
    tokenizer = Tokenizer.from_gguf(sentence_piece(add_space_prefix=None))
    assert tokenizer.adds_space_prefix
    assert pieces(tokenizer, "abc") == ["▁abc"]
    assert pieces(tokenizer, " abc") == ["  ", "abc"]
    assert pieces(tokenizer, " abc", add_bos=True) == ["<s>", "  ", "abc"]
    assert pieces(tokenizer, "<s>abc", allow_special=True) == ["<s>", "▁abc"]
    assert pieces(tokenizer, "<s> abc", allow_special=True) == ["<s>", "▁abc"]
    assert pieces(tokenizer, "a<b>abc") == ["▁a", "<b>", "▁abc"]
    assert pieces(tokenizer, "") == []
    ids = tokenizer.encode("abc abc")
    assert tokenizer.decode(ids) == "abc abc"
    assert tokenizer.decode(ids, continuation=True) == " abc abc"


@pytest.mark.parametrize(
    ("way", "at_start", "behind"),
    [
        ("prepend", ["  ", "abc"], ["<s>", "  ", "abc", "<s>", "▁abc"]),
        ("always", ["▁abc"], ["<s>", "▁abc", "<s>", "▁abc"]),
        ("first", ["▁abc"], ["<s>", "▁abc", "<s>", "abc"]),
    ],
)
def test_which_texts_get_a_space_prefix_may_be_told(way, at_start, behind):
    tokenizer = Tokenizer.from_gguf(sentence_piece(add_space_prefix=None, abaci_space_prefix=way))
    assert pieces(tokenizer, " abc") == at_start
    assert pieces(tokenizer, "<s> abc<s>abc", allow_special=True) == behind


def test_an_unknown_way_of_the_space_prefix_is_refused():
    with pytest.raises(UnsupportedModelError, match="abaci_space_prefix is 'x'"):
        Tokenizer.from_gguf(sentence_piece(abaci_space_prefix="x"))


def test_sentence_piece_begins_text_unless_told_otherwise():
    assert pieces(Tokenizer.from_gguf(sentence_piece(add_bos_token=None)), "a") == ["<s>", "a"]


def test_phi_3_swallows_white_space_behind_special_tokens():
    tokenizer = Tokenizer.from_gguf({"general.architecture": "phi3", **sentence_piece()})
    assert pieces(tokenizer, "€ \n abc€\n", allow_special=True) == ["€", "abc", "€"]
    assert pieces(tokenizer, "<s> abc", allow_special=True) == ["<s>", "▁abc"]
    assert pieces(Tokenizer.from_gguf(sentence_piece()), "€ abc", allow_special=True) == ["€", "▁abc"]


def with_listed_merges(**changes):
    """As Gemma 4's files: the vocabulary of SentencePiece, the merges of byte-level ones."""
    merges = ["b c", "a bc", "▁ abc", "▁ ▁"]
    metadata = sentence_piece(model="gemma4", scores=None, add_space_prefix=None)
    names = metadata["tokenizer.ggml.tokens"] + ["▁▁"]
    types = metadata["tokenizer.ggml.token_type"] + [USER_DEFINED]
    return metadata | keyed({"merges": merges, "tokens": names, "token_type": types} | changes)


def test_listed_merges_count_where_there_are_no_scores():
    tokenizer = Tokenizer.from_gguf(with_listed_merges())
    assert pieces(tokenizer, "ab abc") == ["a", "b", "▁abc"]
    assert pieces(tokenizer, "a  <b>\n\né日") == ["a", "▁▁", "<b>", "\n", "\n", "é", "<0xE6>", "<0x97>", "<0xA5>"]
    assert tokenizer.decode(tokenizer.encode(" ab  abc\n é日")) == " ab  abc\n é日"
    with pytest.raises(FileFormatError, match="merges"):
        Tokenizer.from_gguf(with_listed_merges(merges=["no such"])).prepare()


# Decoding


def test_special_tokens_are_shown_on_request():
    tokenizer = Tokenizer.from_gguf(byte_level())
    ids = tokenizer.encode("<|im_start|>hello<tool>", allow_special=True)
    assert tokenizer.decode(ids) == "hello<tool>"
    assert tokenizer.decode(ids, skip_special=False) == "<|im_start|>hello<tool>"


def test_half_a_character_is_held_back():
    tokenizer = Tokenizer.from_gguf(byte_level())
    decoder = StreamingDecoder(tokenizer)
    family = "👩‍👧"
    emitted = [decoder.push([byte]) for byte in family.encode()]
    assert [text for text in emitted if text] == list(family)
    assert decoder.push([0xF0]) == ""
    assert decoder.flush() == "\ufffd"


@pytest.mark.parametrize(
    ("metadata", "normalise", "alphabet"),
    [
        (byte_level(), lambda text: unicodedata.normalize("NFC", text), "<>|_im\n"),
        (byte_level("default"), str, "<>|_im\n"),
        (sentence_piece(), lambda text: text.replace("▁", " "), "<>|_im\n"),
        # Behind a whole token another space is added, and not taken away.
        (sentence_piece(add_space_prefix=True), lambda text: text.replace("▁", " "), ""),
    ],
)
def test_encoding_then_decoding_gives_the_text_back(metadata, normalise, alphabet):
    tokenizer = Tokenizer.from_gguf(metadata)

    @given(st.text(st.sampled_from("abchelo 12é日👩▁\u0301" + alphabet), max_size=40))
    def check(text):
        ids = tokenizer.encode(text)
        assert not any(map(tokenizer.is_special, ids))
        expected = normalise(text)
        assert tokenizer.decode(ids) == expected

    check()


@pytest.mark.parametrize("metadata", [byte_level(), sentence_piece(), sentence_piece(add_space_prefix=True)])
def test_any_stream_joined_is_the_whole(metadata):
    tokenizer = Tokenizer.from_gguf(metadata)
    token_ids = st.integers(0, tokenizer.vocab_size - 1)

    @given(st.lists(st.lists(token_ids, max_size=4), max_size=12), st.booleans(), st.booleans())
    def check(chunks, skip_special, continuation):
        options = {"skip_special": skip_special, "continuation": continuation}
        decoder = StreamingDecoder(tokenizer, **options)
        joined = "".join(map(decoder.push, chunks)) + decoder.flush()
        assert joined == tokenizer.decode([i for chunk in chunks for i in chunk], **options)

    check()


# Damaged metadata


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        byte_level(model=None),
        byte_level(model=3),
        byte_level(tokens=None),
        byte_level(tokens=[]),
        byte_level(tokens=[1, 2]),
        byte_level(tokens="abc"),
        byte_level(tokens=["a", ""], token_type=[1, 1], merges=[]),
        byte_level(token_type=[1, 2]),
        byte_level(token_type=[9] * len(byte_level()["tokenizer.ggml.tokens"])),
        byte_level(token_type=[0.5] * len(byte_level()["tokenizer.ggml.tokens"])),
        byte_level(merges=None),
        byte_level(merges=["h e", "no such"]),
        byte_level(merges=["he"]),
        byte_level(merges=["h e l"]),
        byte_level(merges=["h z"]),
        byte_level(merges=["Ġhello hello"]),
        byte_level(merges=[1]),
        byte_level(pre=True),
        byte_level(eos_token_id=-1),
        byte_level(eos_token_id=10**6),
        byte_level(eos_token_id="x"),
        byte_level(eos_token_id=True),
        byte_level(bos_token_id=[1]),
        byte_level(add_bos_token=1),
        byte_level(add_bos_token=True, bos_token_id=None),
        sentence_piece(scores=None),
        sentence_piece(scores=[0.0]),
        sentence_piece(scores=["x"]),
        sentence_piece(scores=[float("nan")] * len(sentence_piece()["tokenizer.ggml.tokens"])),
        sentence_piece(unknown_token_id=10**6),
        sentence_piece(add_space_prefix="yes"),
    ],
)
def test_damaged_metadata_is_refused(metadata):
    with pytest.raises(FileFormatError, match="tokenizer") as caught:
        Tokenizer.from_gguf(metadata).prepare()
    assert caught.value.hint


@pytest.mark.parametrize("changes", [{"model": "bert"}, {"pre": "no-such-rule"}])
def test_unknown_kinds_are_named(changes):
    with pytest.raises(UnsupportedModelError, match=next(iter(changes.values()))):
        Tokenizer.from_gguf(byte_level(**changes))
