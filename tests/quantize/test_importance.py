"""Files of importance: both forms read, ours written, damaged ones refused."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from abaci.errors import AbaciError, FileFormatError, ModelNotFoundError
from abaci.formats.gguf import write_gguf
from abaci.quantize.importance import Importance, read_importance, write_importance
from abaci.tensor import TensorInfo, WeightFormat

NAME = "blk.0.ffn_down.weight"


def dat(entries: dict[str, tuple[int, list[float]]]) -> bytes:
    """The older form, as llama.cpp writes it."""
    data = struct.pack("<i", len(entries))
    for name, (num_calls, sums) in entries.items():
        data += struct.pack("<i", len(name)) + name.encode()
        data += struct.pack(f"<ii{len(sums)}f", num_calls, len(sums), *sums)
    return data + struct.pack("<ii", 7, 4) + b"text"


def tensor(*shape: int) -> TensorInfo:
    return TensorInfo(NAME, WeightFormat.F32, shape, 0, 0)


def test_the_older_form(tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_bytes(dat({NAME: (4, [4.0, 8.0, 0.0]), "other": (0, [1.0])}))
    found = read_importance(tmp_path / "a.dat")
    np.testing.assert_array_equal(found.of(tensor(5, 3)), [[1.0, 2.0, 0.0]])
    assert found.of(TensorInfo("unknown", WeightFormat.F32, (5, 3), 0, 0)) is None


def test_experts_in_the_older_form_follow_one_another(tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_bytes(dat({NAME: (1, [1.0, 2.0, 3.0, 4.0])}))
    found = read_importance(tmp_path / "a.dat").of(tensor(2, 9, 2))
    np.testing.assert_array_equal(found, [[1.0, 2.0], [3.0, 4.0]])


def test_the_newer_form_has_a_count_for_each_expert(tmp_path: Path) -> None:
    sums = np.array([[2.0, 4.0], [9.0, 9.0]], np.float32)
    counts = np.array([[2.0], [0.0]], np.float32)
    write_gguf(
        tmp_path / "a.gguf",
        {"general.type": "imatrix", "imatrix.datasets": ["x"]},
        [
            (NAME + ".in_sum2", WeightFormat.F32, sums.shape, sums.tobytes()),
            (NAME + ".counts", WeightFormat.F32, counts.shape, counts.tobytes()),
        ],
    )
    found = read_importance(tmp_path / "a.gguf")
    np.testing.assert_array_equal(found.of(tensor(2, 9, 2)), [[1.0, 2.0], [1.0, 1.0]])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    values = {NAME: np.random.default_rng(0).random((3, 8), np.float32), "b": np.ones((1, 4), np.float32)}
    write_importance(tmp_path / "a.gguf", Importance(values, "books"))
    found = read_importance(tmp_path / "a.gguf")
    assert found.mean_squares.keys() == values.keys()
    for name, expected in values.items():
        np.testing.assert_array_equal(found.mean_squares[name], expected)


def test_one_row_serves_all_experts() -> None:
    found = Importance({NAME: np.array([[1.0, 2.0]], np.float32)}, "x").of(tensor(3, 5, 2))
    np.testing.assert_array_equal(found, [[1.0, 2.0]] * 3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        struct.pack("<i", -1),
        struct.pack("<i", 1 << 30),
        struct.pack("<ii", 1, -5),
        dat({NAME: (1, [1.0, 2.0])})[:20],
        dat({NAME: (1, [float("nan")])}),
        dat({NAME: (1, [-1.0])}),
        struct.pack("<iiciii", 1, 1, b"\xff", 1, 1, 0),
    ],
)
def test_damaged_files_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_bytes(data)
    with pytest.raises(FileFormatError):
        read_importance(tmp_path / "a.dat")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=64), cut=st.integers(0, 60), at=st.integers(0, 59), byte=st.integers(0, 255))
def test_no_file_does_harm(data: bytes, cut: int, at: int, byte: int, tmp_path: Path) -> None:
    whole = bytearray(dat({NAME: (1, [1.0, 2.0])}))
    whole[at % len(whole)] = byte
    for content in (data, bytes(whole), bytes(whole[:cut])):
        (tmp_path / "a.dat").write_bytes(content)
        try:
            found = read_importance(tmp_path / "a.dat")
        except AbaciError:
            continue
        assert all(np.isfinite(values).all() for values in found.mean_squares.values())


def test_other_gguf_files_and_missing_ones(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", {"general.architecture": "llama"}, [])
    with pytest.raises(FileFormatError, match="not of importance"):
        read_importance(tmp_path / "model.gguf")
    with pytest.raises(ModelNotFoundError):
        read_importance(tmp_path / "none.dat")
