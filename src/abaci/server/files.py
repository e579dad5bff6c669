"""Files that clients upload and batches leave: kept in the database, seen by their owner only.

A file's bytes are parts in order, so that an upload arrives whole or not at all, and the output of a batch can grow
line by line before its file exists. Synchronous; knows nothing of HTTP or of what stands in a file.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO, Final, Generic, TypeVar

from sqlalchemy import Connection, RowMapping, Table, func, select

from abaci.errors import NotFoundError, PayloadTooLargeError, UsageError
from abaci.server import tables
from abaci.server.database import Database

_PART_BYTES: Final = 256 << 10
_PARTS_PER_READ: Final = 32
_MAX_NAME_CHARACTERS: Final = 512

_T = TypeVar("_T")

Clock = Callable[[], float]


class FilePurpose(StrEnum):
    """What a file is for; the values are OpenAI's."""

    BATCH = "batch"
    BATCH_OUTPUT = "batch_output"


@dataclass(frozen=True, slots=True)
class FileLimits:
    """How much may be kept. One upload is as large as a body may be: `max_body_bytes` of the settings."""

    owner_bytes: int = 1 << 30
    """Of all files of one owner, what batches left included."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file without its bytes. Times are Unix seconds."""

    id: str
    owner: str
    name: str
    purpose: FilePurpose
    num_bytes: int
    created_seconds: int
    expires_seconds: int | None = None
    """From then on it may be deleted. None: it is kept."""


@dataclass(frozen=True, slots=True)
class Page(Generic[_T]):
    """Some of a list, and whether there are more behind them."""

    items: tuple[_T, ...]
    has_more: bool


class FileStore:
    """Files in the database. What belongs to somebody else is not found. `wall` gives Unix seconds."""

    def __init__(self, database: Database, limits: FileLimits | None = None, *, wall: Clock = time.time) -> None:
        self._database = database
        self._limits = limits or FileLimits()
        self._wall = wall

    def create(
        self, owner: str, name: str, purpose: FilePurpose, content: BinaryIO, *, keep_seconds: int | None = None
    ) -> StoredFile:
        """Keep a file, deleted after `keep_seconds` if given; `content` is read to its end.

        Raises PayloadTooLargeError beyond the limits, UsageError for a name that is none, what the database raises.
        """
        if not 1 <= len(name) <= _MAX_NAME_CHARACTERS or not name.isprintable():
            raise UsageError(
                "the file's name is missing, too long or not printable",
                hint=f"Name it in 1 to {_MAX_NAME_CHARACTERS} printable characters.",
            )
        file_id = new_file_id()
        now = int(self._wall())
        with self._database.writing() as connection:
            room_bytes = self._limits.owner_bytes - _owned_bytes(connection, owner)
            num_bytes = self._write_parts(connection, file_id, content, room_bytes)
            file = StoredFile(
                file_id, owner, name, purpose, num_bytes, now, None if keep_seconds is None else now + keep_seconds
            )
            publish_file(connection, file)
        return file

    def get(self, owner: str, file_id: str) -> StoredFile:
        """Raises NotFoundError."""
        with self._database.reading() as connection:
            return find_file(connection, owner, file_id)

    def list(
        self,
        owner: str,
        *,
        purpose: FilePurpose | None = None,
        after: str | None = None,
        limit: int = 10_000,
        newest_first: bool = True,
    ) -> Page[StoredFile]:
        """Files in the order of their making, from the one behind `after`. Raises NotFoundError for that one."""
        table = tables.files
        query = select(table).where(table.c.owner == owner)
        if purpose is not None:
            query = query.where(table.c.purpose == purpose.value)
        with self._database.reading() as connection:
            if after is not None:
                number = row_number(connection, table, owner, after)
                query = query.where(table.c.number < number if newest_first else table.c.number > number)
            order = table.c.number.desc() if newest_first else table.c.number
            rows = connection.execute(query.order_by(order).limit(limit + 1)).mappings().all()
        return page_of([_file_of_row(row) for row in rows], limit)

    def read(self, file_id: str, after_position: int = -1) -> tuple[bytes, int] | None:
        """The next bytes of a file behind a position, and the position to go on from; None at its end.

        Whoever asks has found the file with `get`.
        """
        with self._database.reading() as connection:
            parts = _parts_behind(connection, file_id, after_position)
        return (b"".join(data for _, data in parts), parts[-1][0]) if parts else None

    def delete(self, owner: str, file_id: str) -> None:
        """Raises NotFoundError. A batch that has read the file does not miss it."""
        with self._database.writing() as connection:
            find_file(connection, owner, file_id)
            _delete(connection, [file_id])

    def delete_expired(self) -> int:
        """Delete files whose time has come; how many."""
        table = tables.files
        with self._database.reading() as connection:
            is_over = table.c.expires_seconds <= int(self._wall())
            expired = list(connection.execute(select(table.c.id).where(is_over)).scalars())
        if expired:
            with self._database.writing() as connection:
                _delete(connection, expired)
        return len(expired)

    def _write_parts(self, connection: Connection, file_id: str, content: BinaryIO, room_bytes: int) -> int:
        num_bytes = position = 0
        while data := content.read(_PART_BYTES):
            num_bytes += len(data)
            if num_bytes > room_bytes:
                raise PayloadTooLargeError(
                    f"all files together would be larger than {self._limits.owner_bytes:,} bytes",
                    hint="Delete files that are not needed any more.",
                )
            add_part(connection, file_id, position, data)
            position += 1
        return num_bytes


def new_file_id() -> str:
    """An id that no file has."""
    return f"file-{secrets.token_hex(16)}"


def add_part(connection: Connection, file_id: str, position: int, data: bytes) -> None:
    """Put bytes at their place in a file; a place can be taken once only."""
    connection.execute(tables.file_parts.insert().values(file_id=file_id, position=position, data=data))


def publish_file(connection: Connection, file: StoredFile) -> None:
    """Make a file of the parts that stand under its id."""
    row = {name: getattr(file, name) for name in StoredFile.__slots__}
    connection.execute(tables.files.insert().values(**row | {"purpose": file.purpose.value}))


def parts_size(connection: Connection, file_id: str) -> int:
    """Bytes of all parts under an id."""
    parts = tables.file_parts.c
    return int(
        connection.execute(
            select(func.coalesce(func.sum(func.length(parts.data)), 0)).where(parts.file_id == file_id)
        ).scalar_one()
    )


def find_file(connection: Connection, owner: str, file_id: str) -> StoredFile:
    """Raises NotFoundError for what is not there and for what belongs to somebody else."""
    table = tables.files
    row = connection.execute(select(table).where(table.c.id == file_id, table.c.owner == owner)).mappings().first()
    if row is None:
        raise NotFoundError(f"there is no file {file_id[:100]!r}", hint="GET /v1/files lists them.")
    return _file_of_row(row)


def lines_of_file(connection: Connection, file_id: str) -> Iterator[bytes]:
    """The lines of a file without their ends, read as they are needed."""
    rest = b""
    position = -1
    while parts := _parts_behind(connection, file_id, position):
        position = parts[-1][0]
        *lines, rest = (rest + b"".join(data for _, data in parts)).split(b"\n")
        yield from lines
    if rest:
        yield rest


def row_number(connection: Connection, table: Table, owner: str, row_id: str) -> int:
    """Where in a list of rows with owner and id one stands. Raises NotFoundError."""
    query = select(table.c.number).where(table.c.id == row_id, table.c.owner == owner)
    number: int | None = connection.execute(query).scalar()
    if number is None:
        raise NotFoundError(
            f"after: there is nothing with the id {row_id[:100]!r}",
            hint="Send the last_id of the page before, or leave it out to begin at the first.",
        )
    return number


def page_of(found: Sequence[_T], limit: int) -> Page[_T]:
    """A page of what was found, which is one item more than asked for if there are more."""
    return Page(tuple(found[:limit]), len(found) > limit)


def _parts_behind(connection: Connection, file_id: str, position: int) -> Sequence[tuple[int, bytes]]:
    parts = tables.file_parts.c
    query = select(parts.position, parts.data).where(parts.file_id == file_id, parts.position > position)
    rows = connection.execute(query.order_by(parts.position).limit(_PARTS_PER_READ))
    return [(found, bytes(data)) for found, data in rows]


def _owned_bytes(connection: Connection, owner: str) -> int:
    files = tables.files.c
    return int(
        connection.execute(select(func.coalesce(func.sum(files.num_bytes), 0)).where(files.owner == owner)).scalar_one()
    )


def _delete(connection: Connection, file_ids: Sequence[str]) -> None:
    connection.execute(tables.file_parts.delete().where(tables.file_parts.c.file_id.in_(file_ids)))
    connection.execute(tables.files.delete().where(tables.files.c.id.in_(file_ids)))


def _file_of_row(row: RowMapping) -> StoredFile:
    values = {name: row[name] for name in StoredFile.__slots__}
    return StoredFile(**values | {"purpose": FilePurpose(row["purpose"])})
