"""Files arrive whole, stay with their owner, and are bounded."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from abaci.errors import NotFoundError, PayloadTooLargeError, UsageError
from abaci.server.database import Database
from abaci.server.files import FileLimits, FilePurpose, FileStore, StoredFile, lines_of_file
from abaci.server.stored import ResponseLimits, ResponseStore
from abaci.server.tables import file_parts

PART_BYTES = 256 << 10


@dataclass
class Wall:
    """A wall clock set by hand."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path)
    yield database
    database.close()


def upload(store: FileStore, content: bytes, owner: str = "a", name: str = "f.jsonl", **options: Any) -> StoredFile:
    return store.create(owner, name, FilePurpose.BATCH, io.BytesIO(content), **options)


def content_of(store: FileStore, file: StoredFile) -> bytes:
    pieces: list[bytes] = []
    position = -1
    while found := store.read(file.id, position):
        data, position = found
        pieces.append(data)
    return b"".join(pieces)


def num_parts(database: Database) -> int:
    with database.reading() as connection:
        return connection.execute(select(func.count()).select_from(file_parts)).scalar_one()


@pytest.mark.parametrize("num_bytes", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 40 * PART_BYTES])
def test_what_is_uploaded_comes_back(database: Database, num_bytes: int) -> None:
    store = FileStore(database)
    content = bytes(range(251)) * (num_bytes // 251 + 1)
    file = upload(store, content[:num_bytes])
    assert file.num_bytes == num_bytes
    assert content_of(store, store.get("a", file.id)) == content[:num_bytes]


def test_a_file_is_its_owners_alone(database: Database) -> None:
    store = FileStore(database)
    file = upload(store, b"x")
    for owner in ("", "b"):
        with pytest.raises(NotFoundError):
            store.get(owner, file.id)
        with pytest.raises(NotFoundError):
            store.delete(owner, file.id)
        assert store.list(owner).items == ()
    with pytest.raises(NotFoundError):
        store.list("b", after=file.id)
    store.delete("a", file.id)
    with pytest.raises(NotFoundError):
        store.get("a", file.id)
    assert num_parts(database) == 0


def test_limits_hold_and_a_refused_upload_leaves_nothing(database: Database) -> None:
    store = FileStore(database, FileLimits(owner_bytes=3 * PART_BYTES))
    with pytest.raises(PayloadTooLargeError, match="786,432"):
        upload(store, bytes(3 * PART_BYTES + 1))
    assert num_parts(database) == 0
    upload(store, bytes(2 * PART_BYTES))
    with pytest.raises(PayloadTooLargeError, match="together"):
        upload(store, bytes(2 * PART_BYTES))
    assert num_parts(database) == 2
    upload(store, bytes(2 * PART_BYTES), owner="b")
    upload(store, bytes(PART_BYTES))


@pytest.mark.parametrize("name", ["", "x" * 513, "a\nb", "a\0b", "\ud800"])
def test_names_that_are_none_are_refused(database: Database, name: str) -> None:
    with pytest.raises(UsageError, match="name"):
        upload(FileStore(database), b"", name=name)


def test_lists_come_in_pages_and_both_directions(database: Database) -> None:
    store = FileStore(database)
    ids = [upload(store, b"").id for _ in range(5)]
    first = store.list("a", limit=2)
    assert [file.id for file in first.items] == ids[:2:-1]
    assert first.has_more
    rest = store.list("a", limit=3, after=first.items[-1].id)
    assert [file.id for file in rest.items] == ids[2::-1]
    assert not rest.has_more
    oldest = store.list("a", newest_first=False, after=ids[1])
    assert [file.id for file in oldest.items] == ids[2:]
    assert store.list("a", purpose=FilePurpose.BATCH_OUTPUT).items == ()


def test_files_expire_when_asked_to(database: Database) -> None:
    wall = Wall()
    store = FileStore(database, wall=wall)
    kept, expiring = upload(store, b"x"), upload(store, b"y", keep_seconds=60)
    wall.now += 59
    assert store.delete_expired() == 0
    wall.now += 1
    assert store.delete_expired() == 1
    assert [file.id for file in store.list("a").items] == [kept.id]
    assert expiring.expires_seconds == int(wall.now)


@given(st.lists(st.binary(max_size=5), max_size=8), st.integers(1, 3))
def test_lines_are_found_wherever_parts_end(pieces: list[bytes], parts_per_read: int) -> None:
    content = b"".join(pieces)

    def parts(_connection: object, _file_id: str, position: int) -> list[tuple[int, bytes]]:
        return list(enumerate(pieces))[position + 1 : position + 1 + parts_per_read]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("abaci.server.files._parts_behind", parts)
        lines = list(lines_of_file(None, ""))  # type: ignore[arg-type]
    expected = content.split(b"\n")
    assert lines == (expected if expected[-1] else expected[:-1])


def test_stored_responses_are_replaced_deleted_and_private(database: Database) -> None:
    store = ResponseStore(database)
    store.put("a", "resp_1", {"text": "half \ud800 of a character, and \0"})
    store.put("a", "resp_1", {"text": "ü"})
    assert store.get("a", "resp_1") == {"text": "ü"}
    for wrong in (("b", "resp_1"), ("a", "resp_2")):
        with pytest.raises(NotFoundError):
            store.get(*wrong)
        with pytest.raises(NotFoundError):
            store.delete(*wrong)
    store.delete("a", "resp_1")
    with pytest.raises(NotFoundError):
        store.get("a", "resp_1")


def test_stored_responses_are_bounded_in_number_bytes_and_age(database: Database) -> None:
    wall = Wall()
    store = ResponseStore(database, ResponseLimits(3, 300, 200, 60), wall=wall)

    def kept(owner: str = "a") -> list[int]:
        found = []
        for i in range(10):
            try:
                store.get(owner, f"{owner}{i}")
            except NotFoundError:
                continue
            found.append(i)
        return found

    for i in range(5):
        store.put("a", f"a{i}", {})
    store.put("b", "b0", {})
    assert kept() == [2, 3, 4]
    store.put("a", "a5", {"x": "y" * 150})
    store.put("a", "a6", {"x": "y" * 150})
    assert kept() == [6]
    with pytest.raises(PayloadTooLargeError):
        store.put("a", "a7", {"x": "y" * 200})
    wall.now += 59
    assert kept() == [6]
    wall.now += 1
    assert kept() == kept("b") == []
    store.put("a", "a8", {})
    with database.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM stored_responses").scalar_one() == 1
