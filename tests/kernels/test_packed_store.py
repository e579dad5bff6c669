"""Packed weights kept on disk: found again exactly as they were, refused when anything is not."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from golden_models import golden_path, golden_sequences, opened_model
from step_feeding import Chunk, StepFeeder
from waiting import wait_until

from abaci.errors import UsageError
from abaci.kernels import native, packing
from abaci.kernels.packed_store import SIZE_VARIABLE, KeptWeights, PackedKey, PackedStore, packed_store

MODEL = "qwen2"
SEAL_BYTES = 4096


@pytest.fixture
def store(tmp_path: Path) -> PackedStore:
    return PackedStore(tmp_path / "packed", limit_bytes=1 << 30, smallest_bytes=0)


def test_the_second_load_maps_what_the_first_packed_and_answers_the_same(store: PackedStore) -> None:
    fresh, was_mapped = answer(None)
    assert not was_mapped
    first, _ = answer(KeptWeights(store, "source"))
    path = only_file(store)
    before = path.stat().st_ino, path.read_bytes()
    second, was_mapped = answer(KeptWeights(store, "source"))
    assert was_mapped
    assert (path.stat().st_ino, path.read_bytes()) == before  # nothing was packed again
    assert fresh == first == second


def test_changed_weights_in_the_file_change_the_answer(store: PackedStore) -> None:
    """The mapped bytes are really what is computed with."""
    fresh, _ = answer(KeptWeights(store, "source"))
    path = only_file(store)
    content = bytearray(path.read_bytes())
    content[: len(content) - SEAL_BYTES] = bytes(len(content) - SEAL_BYTES)
    path.write_bytes(content)
    zeroed, was_mapped = answer(KeptWeights(store, "source"))
    assert was_mapped
    assert zeroed != fresh


def test_another_source_is_packed_anew(store: PackedStore) -> None:
    answer(KeptWeights(store, "source"))
    only_file(store)
    answer(KeptWeights(store, "source, changed"))
    wait_until(lambda: len(files(store)) == 2)


@pytest.mark.parametrize("name", ["__version__", "CONTENT_VERSION"])
def test_what_another_version_packed_is_packed_anew(
    store: PackedStore, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    answer(KeptWeights(store, "source"))
    only_file(store)
    monkeypatch.setattr(packing, name, "another")
    answer(KeptWeights(store, "source"))
    wait_until(lambda: len(files(store)) == 2)


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def grow(path: Path) -> None:
    os.truncate(path, path.stat().st_size + SEAL_BYTES)


def break_seal(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-SEAL_BYTES + 16, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def lose_seal(path: Path) -> None:
    """As after a crash of the machine that kept the length but not the content."""
    with path.open("r+b") as file:
        file.seek(-SEAL_BYTES, os.SEEK_END)
        file.write(bytes(SEAL_BYTES))


def let_others_write(path: Path) -> None:
    path.chmod(0o622)


@pytest.mark.parametrize("damage", [cut_short, grow, break_seal, lose_seal, let_others_write])
def test_a_file_that_is_not_as_it_should_be_is_written_anew(store: PackedStore, damage: Callable[[Path], None]) -> None:
    fresh, _ = answer(KeptWeights(store, "source"))
    path = only_file(store)
    whole = path.read_bytes()
    damage(path)
    again, _ = answer(KeptWeights(store, "source"))
    assert again == fresh
    assert only_file(store).read_bytes() == whole
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_link_in_place_of_the_file_is_not_followed(store: PackedStore, tmp_path: Path) -> None:
    fresh, _ = answer(KeptWeights(store, "source"))
    path = only_file(store)
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    with store.opened(key("any", 1)) as descriptor:
        assert descriptor is None
    again, _ = answer(KeptWeights(store, "source"))
    assert again == fresh


def test_a_file_too_short_for_its_arena_is_never_mapped(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(bytes(8192))
    arena = native._native.WeightArena(64 << 10)
    with path.open("rb") as file:
        assert not arena.map(file.fileno())


def test_what_lies_in_a_file_is_never_packed_into(tmp_path: Path) -> None:
    path = tmp_path / "arena"
    arena = native._native.WeightArena(1 << 12)
    path.write_bytes(bytes(arena.num_bytes))
    matrix = arena.allocate(0, 8, 8)
    with path.open("rb") as file:
        assert arena.map(file.fileno())
    with pytest.raises(ValueError, match="lies in a file"):
        native._native.pack_all(native.thread_pool(1), [(matrix, memoryview(bytes(256)), 0)])


def test_a_disk_that_fails_in_the_middle_fails_no_load(store: PackedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh, _ = answer(None)
    begin = PackedStore.begin

    def begin_unwritable(self: PackedStore, wanted: PackedKey) -> object:
        draft = begin(self, wanted)
        assert draft is not None
        read_only = os.open("/dev/null", os.O_RDONLY)
        os.dup2(read_only, draft.descriptor)
        os.close(read_only)
        return draft

    monkeypatch.setattr(PackedStore, "begin", begin_unwritable)
    answered, was_mapped = answer(KeptWeights(store, "source"))
    assert answered == fresh
    assert not was_mapped
    assert files(store) == []


def test_a_folder_that_cannot_be_made_fails_no_load(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fresh, _ = answer(None)
    answered, was_mapped = answer(KeptWeights(PackedStore(tmp_path / "file" / "packed", smallest_bytes=0), "source"))
    assert answered == fresh
    assert not was_mapped


def test_the_least_recently_used_make_room(tmp_path: Path) -> None:
    store = PackedStore(tmp_path, limit_bytes=4 * 8192, smallest_bytes=0)
    for age, name in enumerate(["newest", "middle", "oldest"]):
        keep(store, key(name, 4096))
        moment = time.time_ns() - age * 10**9
        os.utime(tmp_path / key(name, 4096).name, ns=(moment, moment))
    with store.opened(key("oldest", 4096)) as descriptor:  # which makes it the newest
        assert descriptor is not None
    keep(store, key("large", 3 * 4096))
    assert {path.name for path in files(store)} == {
        key("newest", 4096).name,
        key("oldest", 4096).name,
        key("large", 3 * 4096).name,
    }


@pytest.mark.parametrize("name", ["thesis.txt", "0123456789abcdef0123456789abcdef01234567"])
def test_files_of_others_neither_go_nor_count(tmp_path: Path, name: str) -> None:
    store = PackedStore(tmp_path, limit_bytes=4 * 8192, smallest_bytes=0)
    own = tmp_path / name
    own.write_bytes(bytes(5 * 8192))
    os.utime(own, ns=(0, 0))
    sealed = tmp_path / "a packed file, renamed"
    keep(store, key("moved", 4096))
    (tmp_path / key("moved", 4096).name).rename(sealed)
    os.utime(sealed, ns=(0, 0))
    for number in range(5):
        keep(store, key(str(number), 4096))
        moment = number * 10**9
        os.utime(tmp_path / key(str(number), 4096).name, ns=(moment, moment))
    kept = {key(str(number), 4096).name for number in range(1, 5)}
    assert {path.name for path in files(store)} == {name, sealed.name, *kept}


def test_files_of_other_versions_make_room_too(tmp_path: Path) -> None:
    store = PackedStore(tmp_path, limit_bytes=8192, smallest_bytes=0)
    keep(store, key("old", 4096))
    with (tmp_path / key("old", 4096).name).open("r+b") as file:
        file.seek(4096 + len(b"abacipk"))
        file.write(b"0")
    keep(store, key("new", 4096))
    assert [path.name for path in files(store)] == [key("new", 4096).name]


def test_what_is_larger_than_the_limit_pushes_nothing_out(tmp_path: Path) -> None:
    store = PackedStore(tmp_path, limit_bytes=4 * 8192, smallest_bytes=0)
    keep(store, key("kept", 4096))
    assert store.begin(key("huge", 1 << 20)) is None
    assert [path.name for path in files(store)] == [key("kept", 4096).name]


def test_small_ones_are_not_kept(tmp_path: Path) -> None:
    assert PackedStore(tmp_path).begin(key("small", 4096)) is None


def test_two_who_pack_the_same_leave_one_file(store: PackedStore) -> None:
    drafts = [store.begin(key("same", 4096)) for _ in range(2)]
    for draft in drafts:
        assert draft is not None
        assert draft.seal()
        draft.publish()
    wait_until(lambda: len(files(store)) == 1)
    with store.opened(key("same", 4096)) as descriptor:
        assert descriptor is not None


def test_the_environment_says_where_and_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABACI_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv(SIZE_VARIABLE, "1.5")
    assert packed_store() == PackedStore(tmp_path / "packed", 1_500_000_000)
    monkeypatch.delenv("ABACI_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(SIZE_VARIABLE)
    assert packed_store() == PackedStore(tmp_path / "cache" / "abaci" / "packed", None)
    monkeypatch.setenv(SIZE_VARIABLE, "0")
    assert packed_store() is None


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf", "1e30"])
def test_a_limit_that_is_no_number_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SIZE_VARIABLE, text)
    with pytest.raises(UsageError, match=SIZE_VARIABLE):
        packed_store()


def answer(kept: KeptWeights | None) -> tuple[bytes, bool]:
    """A small model's log-probabilities, and whether its weights were mapped."""
    with opened_model(golden_path(MODEL)) as (spec, source):
        executor = native.NativeExecutor(spec, source, max_step_tokens=64, pool=native.thread_pool(1), kept=kept)
        feeder = StepFeeder(executor, spec, 1, 64)
        tokens = golden_sequences(MODEL)[0].token_ids[:16]
        output = feeder.step([Chunk(0, 0, tokens)])
        was_mapped = executor.weights_are_mapped
        executor.close()
    return output.top_logprobs.tobytes(), was_mapped


def key(description: str, num_bytes: int) -> PackedKey:
    return PackedKey(description, num_bytes)


def keep(store: PackedStore, wanted: PackedKey) -> None:
    draft = store.begin(wanted)
    assert draft is not None
    assert draft.seal()
    draft.publish()
    wait_until((store.folder / wanted.name).exists)


def files(store: PackedStore) -> list[Path]:
    return sorted(store.folder.iterdir()) if store.folder.exists() else []


def only_file(store: PackedStore) -> Path:
    wait_until(lambda: len(files(store)) == 1)
    return files(store)[0]
