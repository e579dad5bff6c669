"""safetensors: what is written is read back, and nothing hostile is believed."""

import json
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from abaci.errors import FileFormatError, ModelNotFoundError, UnsupportedModelError
from abaci.formats.safetensors import SafetensorsFile, write_safetensors

VALUES = np.arange(6, dtype="<f4").tobytes()


def file_of(header: object, data: bytes = VALUES) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def entry(begin: int = 0, end: int = 24, shape: object = (2, 3), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def opened(tmp_path: Path, content: bytes) -> SafetensorsFile:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    return SafetensorsFile.open(path)


def test_tensors_are_views_of_the_file(tmp_path: Path) -> None:
    file = opened(tmp_path, file_of({"__metadata__": {"format": "pt"}, "a": entry()}))
    tensor = file.tensors["a"]
    assert (tensor.dtype, tensor.shape, tensor.num_bytes) == ("F32", (2, 3), 24)
    with file.data(tensor) as data:
        assert bytes(data) == VALUES
        assert data.readonly
    file.close()


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new.safetensors"
    write_safetensors(path, [("a", "F32", (2, 3), [VALUES[:8], VALUES[8:]]), ("ü", "U8", (2,), [b"xy"])])
    file = SafetensorsFile.open(path)
    assert {name: bytes(file.data(tensor)) for name, tensor in file.tensors.items()} == {"a": VALUES, "ü": b"xy"}
    file.close()


def test_the_published_library_reads_what_is_written(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "new.safetensors"
    write_safetensors(path, [("a", "F32", (2, 3), [VALUES])])
    np.testing.assert_array_equal(library.load_file(path)["a"], np.arange(6, dtype=np.float32).reshape(2, 3))


def test_a_file_that_cannot_be_finished_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="a: 2 bytes"):
        write_safetensors(tmp_path / "new.safetensors", [("a", "F32", (1,), [b"xy"])])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\0",
        struct.pack("<Q", 1 << 40) + b"{}",
        struct.pack("<Q", 9) + b"{}",
        file_of(b"not json"),
        file_of(b"[" * 100_000),
        file_of(b"\xff\xfe"),
        file_of(["a"]),
        file_of({"a": [1]}),
        file_of({"a": {"dtype": "F32", "shape": [2, 3]}}),
        file_of({"a": entry() | {"more": 1}}),
        file_of({"a": entry(shape="23")}),
        file_of({"a": entry(shape=[2, -3])}),
        file_of({"a": entry(shape=[2.0, 3])}),
        file_of({"a": entry(shape=[True, 6])}),
        file_of({"a": entry(shape=[1 << 61, 1 << 61])}),
        file_of({"a": entry(shape=[1] * 9)}),
        file_of({"a": entry(end=23)}),
        file_of({"a": entry(begin=-24, end=0)}),
        file_of({"a": entry(begin=4, end=28)}),
        file_of({"a": entry(), "b": entry()}),
        file_of({"a": entry(shape=[3], end=12)}),
        file_of({"a": entry(shape=[2], end=8), "b": entry(begin=16, shape=[2])}),
        file_of({"a": entry()}, VALUES + b"\0"),
        file_of({"": entry()}),
        file_of(b'{"a":{"dtype":"F32","shape":[6],"data_offsets":[0,24]},"a":{}}'),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(FileFormatError, match=r"model\.safetensors: "):
        opened(tmp_path, content)


def test_unknown_types_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="F4"):
        opened(tmp_path, file_of({"a": entry(dtype="F4")}))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"none\.safetensors"):
        SafetensorsFile.open(tmp_path / "none.safetensors")


def test_a_second_tensor_without_bytes_is_allowed(tmp_path: Path) -> None:
    opened(tmp_path, file_of({"a": entry(), "b": entry(begin=24, shape=[0])})).close()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=6,
)
offsets = st.integers(-8, 40) | st.integers()
entries = json_values | st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "U8", "I64", "F4"]),
        "shape": st.lists(offsets, max_size=4),
        "data_offsets": st.tuples(offsets, offsets),
    }
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=st.dictionaries(st.text(max_size=4), entries, max_size=4), data=st.binary(max_size=40))
def test_any_header_is_read_or_refused(tmp_path: Path, header: dict[str, object], data: bytes) -> None:
    content = file_of(header, data)
    try:
        file = opened(tmp_path, content)
    except FileFormatError:
        return
    for tensor in file.tensors.values():
        assert len(file.data(tensor)) == tensor.num_bytes
        assert 0 < tensor.offset <= tensor.offset + tensor.num_bytes <= len(content)
    file.close()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=64), position=st.integers(0, 90), end=st.integers(0, 120))
def test_any_damage_is_read_or_refused(tmp_path: Path, content: bytes, position: int, end: int) -> None:
    sound = file_of({"a": entry(end=12, shape=[3]), "b": entry(begin=12, shape=[3])})
    damaged = (sound[:position] + content + sound[position + len(content) :])[:end]
    with suppress(FileFormatError):
        opened(tmp_path, damaged).close()
