"""The GGUF reader and writer: against the `gguf` package as an oracle, and against files that break the format."""

import os
import struct
import tempfile
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nasty_gguf import CORPUS, SOUND, nasty_files

from abaci.errors import FileFormatError, ModelNotFoundError, UnsupportedModelError, UsageError
from abaci.formats.gguf import GgufCheckpoint, write_gguf
from abaci.tensor import WeightFormat

METADATA = {
    "general.architecture": "llama",
    "a.true": True,
    "a.int": 7,
    "a.negative": -7,
    "a.large": 2**40,
    "a.float": 0.5,
    "a.text": "zwölf ⛄",
    "a.empty": "",
    "a.ints": [1, -2, 3],
    "a.floats": [0.5, -1.25],
    "a.bools": [True, False],
    "a.texts": ["", "a", "ünï", "x" * 300],
    "a.none": [],
}


def payload(weight_format, shape, seed=0):
    num_bytes = int(np.prod(shape)) // weight_format.block_size * weight_format.block_bytes
    return np.random.default_rng(seed).integers(0, 256, num_bytes, np.uint8).tobytes()


def sources():
    """A tensor of each format, one to four dimensions."""
    shapes = [(256,), (3, 256), (2, 3, 512), (2, 1, 2, 256)]
    return [
        (f"t.{i}.{weight_format.label}", weight_format, shapes[i % 4], payload(weight_format, shapes[i % 4], i))
        for i, weight_format in enumerate(WeightFormat)
        if not weight_format.label.startswith("INT")
    ]


def test_a_format_that_gguf_does_not_have_is_refused(tmp_path):
    with pytest.raises(UsageError, match="INT4, which GGUF does not have"):
        write_gguf(tmp_path / "model.gguf", {}, [("a", WeightFormat.INT4, (1, 32), bytes(19))])


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, METADATA, sources())
    return path


def test_what_is_written_is_read(written):
    with GgufCheckpoint.open(written) as checkpoint:
        assert dict(checkpoint.metadata) == METADATA
        assert checkpoint.paths == (written,)
        assert list(checkpoint.tensors) == [name for name, *_ in sources()]
        for name, weight_format, shape, data in sources():
            tensor = checkpoint.tensors[name]
            assert (tensor.format, tensor.shape, tensor.num_bytes) == (weight_format, shape, len(data))
            assert tensor.offset % 32 == 0
            with checkpoint.data(tensor) as view:
                assert view.readonly
                assert view == data


def test_the_oracle_reads_what_we_write(written):
    reader = gguf.GGUFReader(written)
    for key, value in METADATA.items():
        assert reader.fields[key].contents() == value, key
    found = {tensor.name: tensor for tensor in reader.tensors}
    for name, weight_format, shape, data in sources():
        assert found[name].tensor_type.name == weight_format.label
        assert tuple(found[name].shape.tolist()) == shape[::-1]
        assert found[name].data.tobytes() == data


def test_a_vocabulary_without_merges_has_an_empty_list_of_texts(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, {"general.architecture": "llama", "tokenizer.ggml.merges": []}, sources())
    array_of_strings = struct.pack("<IIQ", gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.STRING, 0)
    assert b"tokenizer.ggml.merges" + array_of_strings in path.read_bytes()
    with GgufCheckpoint.open(path) as checkpoint:
        assert checkpoint.metadata["tokenizer.ggml.merges"] == []


@pytest.mark.parametrize("alignment", [8, 32, 4096])
def test_we_read_what_the_oracle_writes(tmp_path, alignment):
    path = tmp_path / "oracle.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.data_alignment = alignment
    writer.add_custom_alignment(alignment)
    writer.add_uint8("k.u8", 255)
    writer.add_int8("k.i8", -128)
    writer.add_uint16("k.u16", 65535)
    writer.add_int16("k.i16", -32768)
    writer.add_uint32("k.u32", 2**32 - 1)
    writer.add_int32("k.i32", -(2**31))
    writer.add_uint64("k.u64", 2**64 - 1)
    writer.add_int64("k.i64", -(2**63))
    writer.add_float32("k.f32", 0.1)
    writer.add_float64("k.f64", 0.1)
    writer.add_bool("k.bool", True)
    writer.add_token_list(["a", "Ġb", "日本"])
    writer.add_token_scores([0.0, -1.0, -2.5])
    writer.add_tensor("f32", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.add_tensor("f16", np.arange(5, dtype=np.float16))
    writer.add_tensor("q8", payload_array((2, 64)), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GgufCheckpoint.open(path) as checkpoint:
        assert checkpoint.metadata["general.architecture"] == "qwen2"
        numbers = {key: value for key, value in checkpoint.metadata.items() if key.startswith("k.")}
        assert numbers == {
            "k.u8": 255,
            "k.i8": -128,
            "k.u16": 65535,
            "k.i16": -32768,
            "k.u32": 2**32 - 1,
            "k.i32": -(2**31),
            "k.u64": 2**64 - 1,
            "k.i64": -(2**63),
            "k.f32": float(np.float32(0.1)),
            "k.f64": 0.1,
            "k.bool": True,
        }
        assert checkpoint.metadata["tokenizer.ggml.tokens"] == ["a", "Ġb", "日本"]
        assert checkpoint.metadata["tokenizer.ggml.scores"] == [0.0, -1.0, -2.5]
        assert checkpoint.tensors["f32"].shape == (3, 4)
        assert checkpoint.tensors["f32"].offset % alignment == 0
        assert bytes(checkpoint.data(checkpoint.tensors["f32"])) == np.arange(12, dtype=np.float32).tobytes()
        assert checkpoint.tensors["q8"].format is WeightFormat.Q8_0
        assert checkpoint.tensors["q8"].shape == (2, 64)
        assert bytes(checkpoint.data(checkpoint.tensors["q8"])) == payload_array((2, 64)).tobytes()


def payload_array(shape):
    """Q8_0 bytes of that many values."""
    rows, columns = shape
    return np.arange(rows * columns // 32 * 34, dtype=np.uint8).reshape(rows, -1)


def test_version_2_is_read(tmp_path):
    path = tmp_path / "v2.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", 2) + SOUND[8:])
    with GgufCheckpoint.open(path) as checkpoint:
        assert checkpoint.tensors["b"].shape == (32,)


def test_the_sound_file_is_sound(tmp_path):
    path = tmp_path / "sound.gguf"
    path.write_bytes(SOUND)
    with GgufCheckpoint.open(path) as checkpoint:
        assert checkpoint.metadata["tokenizer.ggml.tokens"] == ["a", "é"]
        assert checkpoint.tensors["a"].shape == (2, 4)


def test_the_corpus_is_what_the_function_makes():
    assert {path.stem: path.read_bytes() for path in CORPUS.glob("*.gguf")} == nasty_files()


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.gguf")), ids=lambda path: path.stem)
def test_nasty_files_are_refused(path):
    with pytest.raises(FileFormatError) as caught:
        GgufCheckpoint.open(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_an_unsupported_type_is_named():
    with pytest.raises(UnsupportedModelError, match=r"'blk\.0\.w' is stored as IQ1_S"):
        GgufCheckpoint.open(CORPUS / "unsupported_type.gguf")


def test_the_place_is_named():
    with pytest.raises(FileFormatError, match="at byte 24: metadata key"):
        GgufCheckpoint.open(CORPUS / "empty_key.gguf")


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "cut.gguf"
    for length in range(len(SOUND)):
        path.write_bytes(SOUND[:length])
        with pytest.raises(FileFormatError):
            GgufCheckpoint.open(path)


@st.composite
def mutated(draw):
    """The sound file with bytes flipped, and integers, where lengths and counts stand, replaced by hostile ones."""
    content = bytearray(SOUND)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content) - 1))
        hostile = st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 32])
        match draw(st.sampled_from(["flip", "u32", "u64", "cut", "insert", "remove"])):
            case "flip":
                content[place] ^= draw(st.integers(1, 255))
            case "u32":
                content[place : place + 4] = struct.pack("<I", draw(hostile) % 2**32)
            case "u64":
                content[place : place + 8] = struct.pack("<Q", draw(hostile))
            case "cut":
                del content[max(place, 1) :]
            case "insert":
                content[place:place] = draw(st.binary(min_size=1, max_size=16))
            case "remove":
                del content[place : place + draw(st.integers(1, 16))]
        if not content:
            content = bytearray(b"G")
    return bytes(content)


@settings(max_examples=400, deadline=2000, suppress_health_check=[HealthCheck.too_slow])
@given(content=mutated())
def test_mutated_files_are_read_or_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutated.gguf"
        path.write_bytes(content)
        try:
            checkpoint = GgufCheckpoint.open(path)
        except FileFormatError:
            return
        with checkpoint:
            for tensor in checkpoint.tensors.values():
                with checkpoint.data(tensor) as view:
                    assert len(view) == tensor.num_bytes
                checkpoint.release(tensor)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ModelNotFoundError, match="no such file"):
        GgufCheckpoint.open(tmp_path / "missing.gguf")
    with pytest.raises(FileFormatError, match="cannot be read"):
        GgufCheckpoint.open(tmp_path)


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_released_pages_leave_memory_and_come_back(tmp_path):
    path = tmp_path / "large.gguf"
    data = payload(WeightFormat.F32, (4096, 1024))
    write_gguf(path, {}, [("w", WeightFormat.F32, (4096, 1024), data)])
    with GgufCheckpoint.open(path) as checkpoint:
        tensor = checkpoint.tensors["w"]
        with checkpoint.data(tensor) as view:
            assert view == data
            before = resident_bytes()
            checkpoint.release(tensor)
            assert before - resident_bytes() > tensor.num_bytes * 0.9
            assert view == data


def test_close_is_idempotent_and_leaves_views_alone(written):
    checkpoint = GgufCheckpoint.open(written)
    view = checkpoint.data(checkpoint.tensors["t.0.F32"])
    content = bytes(view)
    checkpoint.close()
    assert bytes(view) == content
    view.release()
    checkpoint.close()
    checkpoint.close()


def write_shards(folder, count=3, **changes):
    """A model in shards, as llama.cpp splits one; `changes` override metadata of the last."""
    paths = [folder / f"model-{i + 1:05}-of-{count:05}.gguf" for i in range(count)]
    for i, path in enumerate(paths):
        metadata = {"split.no": i, "split.count": count, "split.tensors.count": count}
        if i == 0:
            metadata["general.architecture"] = "llama"
        if i == count - 1:
            metadata |= changes
        write_gguf(path, metadata, [(f"t{i}", WeightFormat.F32, (4,), bytes([i] * 16))])
    return paths


@pytest.mark.parametrize("opened", [0, 1, 2])
def test_any_shard_opens_all(tmp_path, opened):
    paths = write_shards(tmp_path)
    with GgufCheckpoint.open(paths[opened]) as checkpoint:
        assert checkpoint.paths == tuple(paths)
        assert checkpoint.metadata["general.architecture"] == "llama"
        assert [tensor.file_index for tensor in checkpoint.tensors.values()] == [0, 1, 2]
        assert bytes(checkpoint.data(checkpoint.tensors["t2"])) == bytes([2] * 16)


def test_shards_of_the_oracle_are_read(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "split.gguf", "llama", split_max_tensors=2)
    for i in range(5):
        writer.add_tensor(f"t{i}", np.full(8, i, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GgufCheckpoint.open(tmp_path / "split-00001-of-00003.gguf") as checkpoint:
        assert sorted(checkpoint.tensors) == [f"t{i}" for i in range(5)]
        assert bytes(checkpoint.data(checkpoint.tensors["t4"])) == np.full(8, 4, np.float32).tobytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split.no": 1}, "split.no is 1, expected 2"),
        ({"split.count": 2}, "split.count is 2, expected 3"),
        ({"split.tensors.count": 4}, "differs"),
        ({"general.architecture": "qwen2"}, "differs"),
    ],
)
def test_inconsistent_shards_are_refused(tmp_path, changes, message):
    with pytest.raises(FileFormatError, match=message):
        GgufCheckpoint.open(write_shards(tmp_path, **changes)[0])


def test_missing_and_renamed_shards_are_refused(tmp_path):
    paths = write_shards(tmp_path)
    paths[1].unlink()
    with pytest.raises(FileFormatError, match="missing: model-00002-of-00003"):
        GgufCheckpoint.open(paths[0])
    renamed = paths[0].rename(tmp_path / "model.gguf")
    with pytest.raises(FileFormatError, match="not named like one"):
        GgufCheckpoint.open(renamed)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    paths = write_shards(tmp_path, 2)
    metadata = {"split.no": 1, "split.count": 2, "split.tensors.count": 2}
    write_gguf(paths[1], metadata, [("t0", WeightFormat.F32, (4,), bytes(16))])
    with pytest.raises(FileFormatError, match="in another shard too"):
        GgufCheckpoint.open(paths[0])


@pytest.mark.parametrize(
    ("metadata", "tensor"),
    [
        ({"k": [1, "a"]}, None),
        ({"k": 2**64}, None),
        ({"k": 1e300}, None),
        ({"k": None}, None),
        ({"general.alignment": 3}, None),
        ({}, ("", WeightFormat.F32, (4,), bytes(16))),
        ({}, ("n" * 65, WeightFormat.F32, (4,), bytes(16))),
        ({}, ("a", WeightFormat.F32, (), b"")),
        ({}, ("a", WeightFormat.F32, (0,), b"")),
        ({}, ("a", WeightFormat.Q8_0, (33,), bytes(68))),
        ({}, ("a", WeightFormat.F32, (4,), bytes(15))),
    ],
)
def test_what_cannot_be_written_leaves_nothing(tmp_path, metadata, tensor):
    path = tmp_path / "model.gguf"
    with pytest.raises(UsageError):
        write_gguf(path, metadata, [] if tensor is None else [tensor])
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(written, monkeypatch):
    before = written.read_bytes()

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left") as failed:
        write_gguf(written, {}, [])
    assert failed.value.filename == str(written)
    assert written.read_bytes() == before
    assert [path.name for path in written.parent.iterdir()] == [written.name]


def test_a_large_vocabulary_is_read_quickly(tmp_path):
    path = tmp_path / "vocabulary.gguf"
    tokens = [f"token{i}" for i in range(150_000)]
    write_gguf(path, {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": tokens}, [])
    durations_seconds = []
    for _ in range(3):
        begin_seconds = time.process_time()
        with GgufCheckpoint.open(path) as checkpoint:
            durations_seconds.append(time.process_time() - begin_seconds)
            assert checkpoint.metadata["tokenizer.ggml.tokens"] == tokens
    assert min(durations_seconds) < 0.3
