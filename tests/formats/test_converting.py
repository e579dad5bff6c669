"""Converting: a folder into a GGUF file and back is the same folder, values, settings and vocabulary."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_folders import FOLDER_NAMES, FOLDERS
from golden_models import golden_path
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Library

from abaci.errors import UnsupportedModelError, UsageError
from abaci.formats import word_rules
from abaci.formats.checkpoint import Checkpoint
from abaci.formats.converting import convert_to_folder, convert_to_gguf
from abaci.formats.gguf import GgufCheckpoint, TensorSource, write_gguf
from abaci.formats.huggingface import HuggingFaceCheckpoint
from abaci.formats.tokenizer_keys import PROBES, tokenizer_keys
from abaci.formats.weight_arrays import as_array, as_bytes
from abaci.kernels.dequantise import dequantise
from abaci.models.huggingface.latent import AbsorbedKeysAndValues
from abaci.tensor import WeightFormat

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"), ("o", "n"), ("a", "a"), ("aa", "aa")]


def byte_level(rule: str) -> Library:
    names = [*LETTERS, *("".join(merge) for merge in MERGES)]
    library = Library(models.BPE({name: i for i, name in enumerate(names)}, MERGES))
    described = word_rules.WORD_RULES[rule]
    if described.nfc:
        library.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in described.patterns]
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = pre_tokenizers.Sequence([*splits, spell])
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    library.add_tokens([AddedToken("<think>", normalized=False)])
    return library


def sentence_piece(prefix: str = "always") -> Library:
    pieces = ["▁", *"abcdehinotz", "▁t", "he", "▁the", "in", "on", "aa", "aaaa"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("i", "n"), ("o", "n"), ("a", "a"), ("aa", "aa")]
    ids = {name: i for i, name in enumerate(names)}
    library = Library(models.BPE(ids, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    if prefix == "prepend":
        library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        library.pre_tokenizer = pre_tokenizers.Metaspace("▁", prefix, split=False)
    strip = [] if prefix == "never" else [decoders.Strip(" ", 1, 0)]
    library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    library.add_special_tokens(["<unk>", "<s>", "</s>"])
    library.post_processor = processors.TemplateProcessing(
        single=["<s>", "$A"], pair=["<s>", "$A", "$B:1"], special_tokens=[("<s>", 1)]
    )
    return library


def with_tokenizer(folder: Path, library: Library, **config: object) -> Path:
    """Write a tokenizer into a folder, whose own ids for ends are then wrong."""
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "eos_token_id": None, "bos_token_id": None}))
    (folder / "tokenizer.json").write_text(library.to_str(), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDERS / request.param, tmp_path / request.param))


def small_vocabulary() -> Library:
    """96 tokens, as the golden folders have embedding rows for."""
    names = [*LETTERS[:80], "<|end|>"]
    library = Library(models.BPE({name: i for i, name in enumerate(names)}, []))
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(word_rules.WORD_RULES["qwen2"].patterns[0]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    library.normalizer = normalizers.NFC()
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(["<|end|>"])
    return library


def stored(folder: Path) -> dict[str, Any]:
    """Names, types, shapes and bytes of all tensors in a folder's files."""
    from abaci.formats.safetensors import SafetensorsFile

    tensors: dict[str, Any] = {}
    for path in folder.glob("*.safetensors"):
        file = SafetensorsFile.open(path)
        tensors |= {name: (t.dtype, t.shape, bytes(file.data(t))) for name, t in file.tensors.items()}
        file.close()
    return tensors


@pytest.mark.parametrize("source", FOLDER_NAMES, indirect=True)
def test_there_and_back_every_byte_is_the_same(source: Path, tmp_path: Path) -> None:
    with_tokenizer(source, small_vocabulary(), eos_token="<|end|>")
    with HuggingFaceCheckpoint.open(source) as checkpoint:
        convert_to_gguf(checkpoint, tmp_path / "model.gguf")
        metadata = dict(checkpoint.gguf_metadata())
    with GgufCheckpoint.open(tmp_path / "model.gguf") as checkpoint:
        convert_to_folder(checkpoint, tmp_path / "again", dequantise)
    assert stored(tmp_path / "again") == stored(source)
    with HuggingFaceCheckpoint.open(tmp_path / "again") as checkpoint:
        again = dict(checkpoint.gguf_metadata())
        assert checkpoint.notes == ()
    for metadata_of_folder in (metadata, again):
        metadata_of_folder.pop("general.name")
    assert again == metadata


@pytest.mark.parametrize("source", FOLDER_NAMES, indirect=True)
def test_a_file_made_of_a_folder_has_its_tensors(source: Path, tmp_path: Path) -> None:
    with_tokenizer(source, small_vocabulary())
    with HuggingFaceCheckpoint.open(source) as folder:
        convert_to_gguf(folder, tmp_path / "model.gguf")
        with GgufCheckpoint.open(tmp_path / "model.gguf") as file:
            assert contents(file) == contents(folder)


def contents(checkpoint: Checkpoint) -> dict[str, Any]:
    return {name: (t.format, t.shape, bytes(checkpoint.data(t))) for name, t in checkpoint.tensors.items()}


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3"])
def test_a_file_of_quantised_weights_becomes_a_folder_of_the_same_values(name: str, tmp_path: Path) -> None:
    with GgufCheckpoint.open(golden_path(name)) as file:
        convert_to_folder(file, tmp_path / "folder", dequantise)
        with HuggingFaceCheckpoint.open(tmp_path / "folder") as folder:
            assert folder.tensors.keys() == file.tensors.keys()
            for tensor in file.tensors.values():
                expected = dequantise(tensor.format, tensor.shape, file.data(tensor))
                other = folder.tensors[tensor.name]
                found = dequantise(other.format, other.shape, folder.data(other))
                # A norm's weight loses its last bits where one is subtracted and added again.
                tolerance = 1e-6 if name == "gemma3" and "norm" in tensor.name else 0
                np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
            for text in PROBES:
                assert folder.tokenizer().encode(text) == file.tokenizer().encode(text)
            assert folder.tokenizer().end_token_ids == file.tokenizer().end_token_ids


@pytest.mark.parametrize("source", ["deepseek_v2", "deepseek_v3"], indirect=True)
def test_older_files_of_latent_attention_become_the_same_folder(source: Path, tmp_path: Path) -> None:
    with_tokenizer(source, small_vocabulary(), eos_token="<|end|>")
    with HuggingFaceCheckpoint.open(source) as checkpoint:
        write_older_latent(checkpoint, tmp_path / "older.gguf")
    with GgufCheckpoint.open(tmp_path / "older.gguf") as checkpoint:
        convert_to_folder(checkpoint, tmp_path / "again", dequantise)
    assert stored(tmp_path / "again") == stored(source)


def write_older_latent(checkpoint: Checkpoint, path: Path) -> None:
    """As it was converted before: sizes of the heads, and what makes keys and values in one matrix."""
    metadata = dict(checkpoint.gguf_metadata())
    for key in ("key_length", "value_length"):
        metadata[f"deepseek2.attention.{key}"] = metadata.pop(f"deepseek2.attention.{key}_mla")
    metadata["deepseek2.attention.head_count_kv"] = metadata["deepseek2.attention.head_count"]
    settings = {
        "attention.head_count": metadata["deepseek2.attention.head_count"],
        "attention.key_length_mla": metadata["deepseek2.attention.key_length"],
        "attention.value_length_mla": metadata["deepseek2.attention.value_length"],
        "rope.dimension_count": metadata["deepseek2.rope.dimension_count"],
    }
    sources: list[TensorSource] = []
    for name, tensor in checkpoint.tensors.items():
        array = as_array(tensor.format, tensor.shape, checkpoint.data(tensor))
        if name.endswith("attn_v_b.weight"):
            continue
        if name.endswith("attn_k_b.weight"):
            values = checkpoint.tensors[name.replace("attn_k_b", "attn_v_b")]
            parts = [array, as_array(values.format, values.shape, checkpoint.data(values))]
            array = AbsorbedKeysAndValues().join(parts, settings)
        sources.append(
            (name.replace("attn_k_b", "attn_kv_b"), tensor.format, array.shape, partial(iter, [as_bytes(array)]))
        )
    write_gguf(path, metadata, sources)


def test_a_type_may_be_asked_for(tmp_path: Path) -> None:
    with GgufCheckpoint.open(golden_path("qwen2")) as file:
        convert_to_folder(file, tmp_path / "folder", dequantise, wanted=WeightFormat.BF16)
    assert {dtype for dtype, _, _ in stored(tmp_path / "folder").values()} == {"BF16"}
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("rule", ["qwen2", "llama3", "gpt-2", "smollm", "deepseek-v3", "tekken", "gpt-4o"])
def test_byte_level_vocabularies_survive(rule: str, tmp_path: Path) -> None:
    library = byte_level(rule)
    library.model.ignore_merges = word_rules.WORD_RULES[rule].takes_words
    check_vocabulary(library, tmp_path, bos_token="<|im_start|>", eos_token="<|im_end|>", add_bos_token=True)


CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""As the published tokenizers of Llama 3 and Phi-4 have it."""


@pytest.mark.parametrize(
    ("splitters", "nfc", "takes_words", "expected"),
    [
        ([pre_tokenizers.Split(Regex(CL100K), "isolated")], False, True, "llama3"),
        ([pre_tokenizers.Split(Regex(CL100K), "removed", invert=True)], False, False, "dbrx"),
        ([pre_tokenizers.Split(Regex(CL100K.replace("{1,3}", "")), "isolated")], True, False, "qwen2"),
        ([pre_tokenizers.Split(Regex(CL100K.replace("{1,3}", "")), "isolated")], False, False, "deepseek-r1-qwen"),
    ],
)
def test_rules_are_known_however_they_are_written(
    splitters: list[Any], nfc: bool, takes_words: bool, expected: str
) -> None:
    library = byte_level("qwen2")
    library.normalizer = normalizers.NFC() if nfc else normalizers.Sequence([])
    library.model.ignore_merges = takes_words
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = pre_tokenizers.Sequence([*splitters, spell])
    assert rule_of(library) == expected


def test_rules_of_the_library_itself_are_known() -> None:
    library = byte_level("gpt-2")
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert rule_of(library) == "gpt-2"
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    assert rule_of(library) == "smollm"


def rule_of(library: Library) -> object:
    keys = tokenizer_keys(library.to_str(), {}, {}, vocab_size=library.get_vocab_size())
    return keys["tokenizer.ggml.pre"]


@pytest.mark.parametrize("prefix", ["prepend", "always", "first", "never"])
def test_sentence_piece_vocabularies_survive(tmp_path: Path, prefix: str) -> None:
    library = sentence_piece(prefix)
    check_vocabulary(library, tmp_path, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def check_vocabulary(library: Library, tmp_path: Path, **config: object) -> None:
    source = Path(shutil.copytree(FOLDERS / "qwen2", tmp_path / "source"))
    rows = library.get_vocab_size() + 3
    resize_embedding(source, rows)
    with_tokenizer(source, library, **config)
    with HuggingFaceCheckpoint.open(source) as folder:
        convert_to_gguf(folder, tmp_path / "model.gguf")
        original = folder.tokenizer()
    with GgufCheckpoint.open(tmp_path / "model.gguf") as file:
        convert_to_folder(file, tmp_path / "again", dequantise)
        in_file = file.tokenizer()
    with HuggingFaceCheckpoint.open(tmp_path / "again") as folder:
        again = folder.tokenizer()
    for other in (in_file, again):
        assert other.vocab_size == original.vocab_size == rows
        assert other.special_tokens == original.special_tokens
        assert other.end_token_ids == original.end_token_ids
        for text in (*PROBES, "the on in <think>", " the", "  the", "the<|im_end|>the</s>", "the</s> the"):
            ids = original.encode(text, allow_special=True)
            assert other.encode(text, allow_special=True) == ids
            assert other.decode(ids, skip_special=False) == original.decode(ids, skip_special=False)


def resize_embedding(folder: Path, rows: int) -> None:
    """Give a tied folder an embedding of another number of rows."""
    from abaci.formats.safetensors import write_safetensors

    tensors = stored(folder)
    for path in (*folder.glob("*.safetensors"), *folder.glob("*.index.json")):
        path.unlink()
    dtype, (_, columns), data = tensors["model.embed_tokens.weight"]
    row_bytes = 2 * columns
    repeated = (data * (rows * row_bytes // len(data) + 1))[: rows * row_bytes]
    tensors["model.embed_tokens.weight"] = (dtype, (rows, columns), repeated)
    new = [(name, dtype, shape, [data]) for name, (dtype, shape, data) in tensors.items()]
    write_safetensors(folder / "model.safetensors", new)


def test_words_cut_in_an_unknown_way_are_refused(tmp_path: Path) -> None:
    library = byte_level("qwen2")
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\w{1,5}"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    source = Path(shutil.copytree(FOLDERS / "qwen2", tmp_path / "source"))
    resize_embedding(source, library.get_vocab_size())
    with_tokenizer(source, library)
    with (
        HuggingFaceCheckpoint.open(source) as folder,
        pytest.raises(UnsupportedModelError, match="no name for the way"),
    ):
        convert_to_gguf(folder, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_a_model_without_a_head_has_none_after_a_conversion(tmp_path: Path) -> None:
    from abaci.formats.gguf import write_gguf

    with GgufCheckpoint.open(golden_path("qwen2")) as file:
        tensors = [(n, t.format, t.shape, bytes(file.data(t))) for n, t in file.tensors.items() if n != "output.weight"]
        write_gguf(tmp_path / "bare.gguf", {**file.metadata, "qwen2.has_head": False}, tensors)
    with GgufCheckpoint.open(tmp_path / "bare.gguf") as file:
        convert_to_folder(file, tmp_path / "folder", dequantise)
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["tie_word_embeddings"] is False
    with HuggingFaceCheckpoint.open(tmp_path / "folder") as folder:
        assert folder.metadata["qwen2.has_head"] is False


def test_a_setting_without_a_published_name_is_refused(tmp_path: Path) -> None:
    from abaci.formats.gguf import write_gguf

    with GgufCheckpoint.open(golden_path("qwen2")) as file:
        tensors = [(name, t.format, t.shape, bytes(file.data(t))) for name, t in file.tensors.items()]
        write_gguf(tmp_path / "odd.gguf", {**file.metadata, "qwen2.swivel": 3}, tensors)
    with GgufCheckpoint.open(tmp_path / "odd.gguf") as file, pytest.raises(UnsupportedModelError, match="swivel"):
        convert_to_folder(file, tmp_path / "folder", dequantise)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd.gguf"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with GgufCheckpoint.open(golden_path("qwen2")) as file, pytest.raises(UsageError, match="is there already"):
        convert_to_folder(file, tmp_path / "folder", dequantise)


def test_a_converted_folder_is_replaced_when_asked(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with GgufCheckpoint.open(golden_path("qwen2")) as file:
        convert_to_folder(file, folder, dequantise)
        before = files_of(folder)
        (folder / "model-00001-of-00002.safetensors").write_bytes(b"of an earlier one")
        (folder / "config.json").write_text("{}")
        convert_to_folder(file, folder, dequantise, replace=True)
    assert files_of(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("other", ["README.md", "model.safetensors.bak", ".git", "tokenizer.model"])
def test_a_folder_of_more_than_a_conversion_is_never_replaced(tmp_path: Path, other: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / other).write_text("mine")
    with GgufCheckpoint.open(golden_path("qwen2")) as file, pytest.raises(UsageError, match=other):
        convert_to_folder(file, folder, dequantise, replace=True)
    assert files_of(folder) == {"config.json": b"{}", other: b"mine"}


def test_neither_a_file_nor_a_link_is_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    (tmp_path / "dangling").symlink_to("nowhere")
    with GgufCheckpoint.open(golden_path("qwen2")) as file:
        for name in ("file", "link", "dangling"):
            with pytest.raises(UsageError, match="is not a folder"):
                convert_to_folder(file, tmp_path / name, dequantise, replace=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "elsewhere", "file", "link"]


def test_a_replacement_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if Path(target) == folder and path.name != "former":
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with GgufCheckpoint.open(golden_path("qwen2")) as file, pytest.raises(OSError, match="no"):
        convert_to_folder(file, folder, dequantise, replace=True)
    assert files_of(folder) == {"config.json": b"{}"}
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def int4_folder(tmp_path: Path, zero: int) -> Path:
    """A folder with one weight of GPTQ's, groups of 64 and every zero point the same."""
    from abaci.formats.safetensors import write_safetensors

    source = with_tokenizer(Path(shutil.copytree(FOLDERS / "llama", tmp_path / "source")), small_vocabulary())
    settings = json.loads((source / "config.json").read_text())
    quantised = {**settings, "quantization_config": {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"}}
    (source / "config.json").write_text(json.dumps(quantised))
    tensors = stored(source)
    module = "model.layers.0.mlp.down_proj"
    _, (rows, columns), _ = tensors.pop(f"{module}.weight")
    rng = np.random.default_rng(0)
    new = {
        "qweight": ("I32", rng.integers(-(2**31), 2**31, (columns // 8, rows)).astype(np.int32)),
        "qzeros": ("I32", np.full((columns // 64, rows // 8), zero * 0x11111111, np.uint32).view(np.int32)),
        "scales": ("F16", rng.uniform(0.001, 0.01, (columns // 64, rows)).astype(np.float16)),
    }
    for name, (dtype, array) in new.items():
        tensors[f"{module}.{name}"] = (dtype, array.shape, array.tobytes())
    listed = [(name, dtype, shape, [data]) for name, (dtype, shape, data) in tensors.items()]
    write_safetensors(source / "model.safetensors", listed)
    return source


def test_integers_in_the_middle_become_q4_0(tmp_path: Path) -> None:
    with HuggingFaceCheckpoint.open(int4_folder(tmp_path, 8)) as folder:
        convert_to_gguf(folder, tmp_path / "model.gguf")
        with GgufCheckpoint.open(tmp_path / "model.gguf") as file:
            here, there = (checkpoint.tensors["blk.0.ffn_down.weight"] for checkpoint in (folder, file))
            assert (here.format, there.format) == (WeightFormat.INT4, WeightFormat.Q4_0)
            np.testing.assert_array_equal(
                dequantise(there.format, there.shape, file.data(there)),
                dequantise(here.format, here.shape, folder.data(here)),
            )


def test_integers_that_gguf_cannot_hold_are_refused(tmp_path: Path) -> None:
    with (
        HuggingFaceCheckpoint.open(int4_folder(tmp_path, 7)) as folder,
        pytest.raises(UnsupportedModelError, match=r"blk\.0\.ffn_down\.weight has zero points"),
    ):
        convert_to_gguf(folder, tmp_path / "model.gguf")
