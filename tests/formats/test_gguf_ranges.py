"""Headers read from the beginning of a file: the same answer as from the whole file, in bounded requests."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nasty_gguf import nasty_files

from abaci.errors import FileFormatError, UnsupportedModelError
from abaci.formats.gguf import GgufCheckpoint, PrefixTooShortError, join_headers, read_header, write_gguf
from abaci.formats.gguf_ranges import read_header_by_ranges
from abaci.tensor import WeightFormat

NAME = Path("model.gguf")


def reader_of(data, requests):
    def read_range(begin, end):
        requests.append((begin, end))
        return data[begin:end]

    return read_range


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("header") / "model.gguf"
    metadata = {"general.architecture": "llama", "a.texts": ["x" * 50, "zwölf ⛄"] * 20, "a.numbers": [1, 2, 3]}
    tensors = [(f"t.{i}", WeightFormat.F32, (64,), bytes(256)) for i in range(20)]
    write_gguf(path, metadata, tensors)
    return path


def test_header_of_the_whole_is_what_open_reads(written):
    data = written.read_bytes()
    with GgufCheckpoint.open(written) as checkpoint:
        header = read_header(NAME, data, len(data))
        assert header.metadata == dict(checkpoint.metadata)
        assert header.tensors == dict(checkpoint.tensors)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_prefix_gives_the_same_header_or_asks_for_more(written, data):
    whole = written.read_bytes()
    header_bytes = min(tensor.offset for tensor in read_header(NAME, whole, len(whole)).tensors.values())
    length = data.draw(st.integers(0, len(whole)))
    try:
        found = read_header(NAME, whole[:length], len(whole))
    except PrefixTooShortError:
        assert length < header_bytes
    else:
        assert found == read_header(NAME, whole, len(whole))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first_bytes=st.integers(1, 5000))
def test_ranges_are_fetched_once_and_end_soon_after_the_header(written, first_bytes):
    data = written.read_bytes()
    header_bytes = min(tensor.offset for tensor in read_header(NAME, data, len(data)).tensors.values())
    requests = []
    read_header_by_ranges("model.gguf", len(data), reader_of(data, requests), first_bytes=first_bytes)
    assert [begin for begin, _ in requests] == [0, *(end for _, end in requests[:-1])]
    assert requests[-1][1] <= max(first_bytes, 2 * header_bytes)


def test_a_header_beyond_the_limit_is_refused(written):
    data = written.read_bytes()
    requests = []
    with pytest.raises(FileFormatError, match="longer than 500 bytes"):
        read_header_by_ranges("model.gguf", len(data), reader_of(data, requests), first_bytes=100, limit_bytes=500)
    assert requests[-1][1] == 500


def test_a_range_that_comes_short_is_an_error(written):
    data = written.read_bytes()
    with pytest.raises(FileFormatError, match="asked for"):
        read_header_by_ranges("model.gguf", len(data) + 1, reader_of(data, []), first_bytes=1 << 20)


def test_a_file_that_ends_inside_the_tensors_is_told_from_a_short_prefix(written):
    data = written.read_bytes()
    with pytest.raises(FileFormatError, match="the file has"):
        read_header(NAME, data[:-1], len(data) - 1)


@pytest.mark.parametrize(("name", "content"), [pytest.param(*one, id=one[0]) for one in nasty_files().items()])
@pytest.mark.parametrize("first_bytes", [1, 64, 1 << 20])
def test_nasty_files_are_refused_in_pieces_as_in_one(name, content, first_bytes):
    """Whole and in pieces alike: refused for the same reason, or read to the same header."""

    def outcome(size):
        try:
            return read_header_by_ranges(name, len(content), reader_of(content, []), first_bytes=size)
        except (FileFormatError, UnsupportedModelError) as error:
            return type(error), error.message

    assert outcome(first_bytes) == outcome(1 << 20)


def test_shards_are_joined(tmp_path):
    headers = []
    for i in range(2):
        path = tmp_path / f"model-0000{i + 1}-of-00002.gguf"
        metadata = {"split.no": i, "split.count": 2, "split.tensors.count": 2}
        write_gguf(path, metadata, [(f"t.{i}", WeightFormat.F32, (64,), bytes(256))])
        data = path.read_bytes()
        headers.append(read_header(Path(path.name), data, len(data), i))
    assert headers[0].num_shards == 2
    assert list(join_headers(headers).tensors) == ["t.0", "t.1"]
    with pytest.raises(FileFormatError, match=r"split\.no"):
        join_headers(headers[::-1])
    with pytest.raises(FileFormatError, match=r"split\.count"):
        join_headers(headers[:1])
