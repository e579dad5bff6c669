"""Batches: many requests in a file, answered in a file, whatever happens to the process in between.

Each line of the input that is not answered yet is a row of its own. One transaction takes that row away, appends the
answer to the output and counts it; so a line has exactly one answer, and after any crash the rows that are left are the
lines still to be run. Synchronous; who runs the lines is `batch_worker`'s business.

    validating -> in_progress -> finalizing -> completed | expired
        |              |  `-> cancelling -> cancelled
        `-> failed     (cancelling may follow validating too)
"""

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, func, select

from abaci.errors import NotFoundError, RateLimitedError, UsageError
from abaci.server import tables
from abaci.server.batch_lines import BatchLimits, BatchLine, LineError, LineReader, unanswered_line
from abaci.server.database import Database
from abaci.server.files import (
    FilePurpose,
    Page,
    StoredFile,
    add_part,
    find_file,
    lines_of_file,
    new_file_id,
    page_of,
    parts_size,
    publish_file,
    row_number,
)

Clock = Callable[[], float]

WINDOW_SECONDS: Final = 24 * 3600

_RETRY_SECONDS: Final = 60.0
_ROWS_PER_STATEMENT: Final = 500
_MAX_METADATA: Final = 16
_MAX_METADATA_KEY: Final = 64
_MAX_METADATA_VALUE: Final = 512


class BatchStatus(StrEnum):
    """Where a batch is; the values are OpenAI's."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


OPEN_STATUSES: Final = (
    BatchStatus.VALIDATING,
    BatchStatus.IN_PROGRESS,
    BatchStatus.FINALIZING,
    BatchStatus.CANCELLING,
)
"""Something is still to be done."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch without its lines. Times are Unix seconds. The files exist once it has ended and if they hold a line."""

    id: str
    owner: str
    endpoint: str
    input_file_id: str
    output_file_id: str
    error_file_id: str
    status: BatchStatus
    metadata: Mapping[str, str] | None
    errors: tuple[LineError, ...]
    num_total: int
    num_completed: int
    num_failed: int
    created_seconds: int
    expires_seconds: int
    started_seconds: int | None
    finalizing_seconds: int | None
    cancelling_seconds: int | None
    ended_seconds: int | None

    @property
    def is_open(self) -> bool:
        """Whether something is still to be done."""
        return self.status in OPEN_STATUSES


class BatchMovedError(Exception):
    """The batch is not in the status it was seen in: somebody else has moved it on. Look again."""


class BatchStore:
    """Batches in the database. What belongs to somebody else is not found. `wall` gives Unix seconds."""

    def __init__(self, database: Database, limits: BatchLimits | None = None, *, wall: Clock = time.time) -> None:
        self._database = database
        self._limits = limits or BatchLimits()
        self._wall = wall

    def create(self, owner: str, input_file_id: str, endpoint: str, metadata: Any = None) -> Batch:
        """A batch of the requests in an uploaded file; what is wrong inside the file shows later, in the batch.

        Raises NotFoundError for the file, UsageError for a file of another purpose and for bad metadata,
        RateLimitedError while the owner has too many that have not ended.
        """
        _check_metadata(metadata)
        now = int(self._wall())
        batch_id = f"batch_{secrets.token_hex(16)}"
        row = {
            "id": batch_id,
            "owner": owner,
            "endpoint": endpoint,
            "input_file_id": input_file_id,
            "output_file_id": new_file_id(),
            "error_file_id": new_file_id(),
            "status": BatchStatus.VALIDATING.value,
            "metadata": None if metadata is None else json.dumps(metadata),
            "created_seconds": now,
            "expires_seconds": now + WINDOW_SECONDS,
        }
        with self._database.writing() as connection:
            file = find_file(connection, owner, input_file_id)
            if file.purpose is not FilePurpose.BATCH:
                raise UsageError(
                    f"input_file_id: the file is for {file.purpose.value}",
                    hint="Upload the requests as a file with the purpose batch.",
                )
            if _num_open(connection, owner) >= self._limits.num_open:
                raise RateLimitedError(
                    f"{self._limits.num_open} batches have not ended yet",
                    retry_after_seconds=_RETRY_SECONDS,
                    hint="Wait for one to end, or cancel one.",
                )
            connection.execute(tables.batches.insert().values(**row))
            return _find(connection, owner, batch_id)

    def get(self, owner: str, batch_id: str) -> Batch:
        """Raises NotFoundError."""
        with self._database.reading() as connection:
            return _find(connection, owner, batch_id)

    def list(self, owner: str, *, after: str | None = None, limit: int = 20) -> Page[Batch]:
        """The newest first, from the one behind `after`. Raises NotFoundError for that one."""
        table = tables.batches
        query = select(table).where(table.c.owner == owner)
        with self._database.reading() as connection:
            if after is not None:
                query = query.where(table.c.number < row_number(connection, table, owner, after))
            rows = connection.execute(query.order_by(table.c.number.desc()).limit(limit + 1)).mappings().all()
        return page_of([_batch_of_row(row) for row in rows], limit)

    def cancel(self, owner: str, batch_id: str) -> Batch:
        """Ask for its end; what is answered by then stays. Raises NotFoundError, UsageError if it has ended already."""
        with self._database.writing() as connection:
            batch = _find(connection, owner, batch_id)
            if batch.status in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
                return batch
            if batch.status not in (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS):
                raise UsageError(
                    f"the batch is {batch.status.value} already",
                    hint="There is nothing left to cancel; its files have what was answered.",
                )
            _move(connection, batch, BatchStatus.CANCELLING, cancelling_seconds=int(self._wall()))
            return _find(connection, owner, batch_id)

    def open_batches(self) -> Sequence[Batch]:
        """Batches of all owners with something still to do, oldest first."""
        table = tables.batches
        query = select(table).where(table.c.status.in_(OPEN_STATUSES))
        with self._database.reading() as connection:
            return [_batch_of_row(row) for row in connection.execute(query.order_by(table.c.number)).mappings()]

    def validate(self, batch: Batch) -> None:
        """Read the input of a VALIDATING batch: afterwards all its lines are pending, or it has failed."""
        reader = LineReader(batch.endpoint, self._limits)
        with self._database.writing() as connection:
            try:
                find_file(connection, batch.owner, batch.input_file_id)
            except NotFoundError as error:
                reader.errors.append(LineError("file_not_found", error.message, param="input_file_id"))
                num_lines = 0
            else:
                lines = reader.read(lines_of_file(connection, batch.input_file_id))
                num_lines = _add_pending(connection, batch.id, lines, lambda: bool(reader.errors))
            now = int(self._wall())
            if not reader.errors:
                _move(connection, batch, BatchStatus.IN_PROGRESS, num_total=num_lines, started_seconds=now)
                return
            _delete_pending(connection, batch.id)
            errors = json.dumps([asdict(error) for error in reader.errors])
            _move(connection, batch, BatchStatus.FAILED, errors=errors, ended_seconds=now)

    def pending_positions(self, batch_id: str, after_position: int = -1, limit: int = 1000) -> Sequence[int]:
        """Which lines have no answer, in order, behind a position."""
        lines = tables.pending_lines.c
        query = select(lines.position).where(lines.batch_id == batch_id, lines.position > after_position)
        with self._database.reading() as connection:
            return connection.execute(query.order_by(lines.position).limit(limit)).scalars().all()

    def pending_line(self, batch_id: str, position: int) -> BatchLine | None:
        """A line, or None if it has an answer or its batch has ended."""
        with self._database.reading() as connection:
            found = _pending(connection, batch_id, position - 1, 1)
        return found[0] if found and found[0].position == position else None

    def answer(self, batch: Batch, position: int, result: bytes, *, is_success: bool) -> bool:
        """Keep the answer of a line. False, and nothing kept, if it has one already or the batch has ended."""
        lines, batches = tables.pending_lines, tables.batches
        with self._database.writing() as connection:
            taken = connection.execute(
                lines.delete().where(lines.c.batch_id == batch.id, lines.c.position == position)
            ).rowcount
            if not taken:
                return False
            add_part(connection, batch.output_file_id if is_success else batch.error_file_id, position, result)
            counter = batches.c.num_completed if is_success else batches.c.num_failed
            connection.execute(batches.update().where(batches.c.id == batch.id).values({counter: counter + 1}))
        return True

    def finalize(self, batch: Batch) -> None:
        """Move an IN_PROGRESS batch on, if all of its lines are answered."""
        with self._database.writing() as connection:
            if not _pending(connection, batch.id, -1, 1):
                _move(connection, batch, BatchStatus.FINALIZING, finalizing_seconds=int(self._wall()))

    def complete(self, batch: Batch) -> None:
        """Publish the files of a FINALIZING batch."""
        with self._database.writing() as connection:
            self._end(connection, batch, BatchStatus.COMPLETED)

    def end_cancelled(self, batch: Batch) -> None:
        """Give up the lines that are left of a CANCELLING batch, and publish what was answered."""
        with self._database.writing() as connection:
            _delete_pending(connection, batch.id)
            self._end(connection, batch, BatchStatus.CANCELLED)

    def end_expired(self, batch: Batch) -> None:
        """Tell of every line that is left that its time is over, and publish what was answered."""
        batches = tables.batches
        with self._database.writing() as connection:
            position, num_expired = -1, 0
            while lines := _pending(connection, batch.id, position, _ROWS_PER_STATEMENT):
                for line in lines:
                    result = unanswered_line(
                        line.custom_id, "batch_expired", "not executed before the completion window expired"
                    )
                    add_part(connection, batch.error_file_id, line.position, result)
                position, num_expired = lines[-1].position, num_expired + len(lines)
            _delete_pending(connection, batch.id)
            failed = batches.c.num_failed
            connection.execute(batches.update().where(batches.c.id == batch.id).values({failed: failed + num_expired}))
            self._end(connection, batch, BatchStatus.EXPIRED)

    def _end(self, connection: Connection, batch: Batch, status: BatchStatus) -> None:
        now = int(self._wall())
        _move(connection, batch, status, ended_seconds=now)
        for file_id, kind in ((batch.output_file_id, "output"), (batch.error_file_id, "error")):
            if num_bytes := parts_size(connection, file_id):
                name = f"{batch.id}_{kind}.jsonl"
                publish_file(
                    connection, StoredFile(file_id, batch.owner, name, FilePurpose.BATCH_OUTPUT, num_bytes, now)
                )


def published_files(database: Database, batches: Sequence[Batch]) -> frozenset[str]:
    """Ids of the outputs and errors of batches that are files by now. Synchronous."""
    ids = [file_id for batch in batches for file_id in (batch.output_file_id, batch.error_file_id)]
    with database.reading() as connection:
        return frozenset(connection.execute(select(tables.files.c.id).where(tables.files.c.id.in_(ids))).scalars())


def _find(connection: Connection, owner: str, batch_id: str) -> Batch:
    table = tables.batches
    row = connection.execute(select(table).where(table.c.id == batch_id, table.c.owner == owner)).mappings().first()
    if row is None:
        raise NotFoundError(f"there is no batch {batch_id[:100]!r}", hint="GET /v1/batches lists them.")
    return _batch_of_row(row)


def _num_open(connection: Connection, owner: str) -> int:
    batches = tables.batches.c
    return connection.execute(
        select(func.count()).where(batches.owner == owner, batches.status.in_(OPEN_STATUSES))
    ).scalar_one()


def _move(connection: Connection, batch: Batch, status: BatchStatus, **values: Any) -> None:
    """Change the status, if it is still the one that was seen; otherwise undo the transaction."""
    table = tables.batches
    is_as_seen = (table.c.id == batch.id) & (table.c.status == batch.status.value)
    moved = connection.execute(table.update().where(is_as_seen).values(status=status.value, **values)).rowcount
    if not moved:
        raise BatchMovedError


def _add_pending(
    connection: Connection, batch_id: str, lines: Iterator[BatchLine], has_failed: Callable[[], bool]
) -> int:
    """Insert lines as they are read, as long as they are needed; how many were."""
    num_lines = 0
    rows: list[dict[str, Any]] = []
    for line in lines:
        if has_failed():
            rows = []
            continue
        rows.append({"batch_id": batch_id, **asdict(line)})
        num_lines += 1
        if len(rows) == _ROWS_PER_STATEMENT:
            connection.execute(tables.pending_lines.insert(), rows)
            rows = []
    if rows:
        connection.execute(tables.pending_lines.insert(), rows)
    return num_lines


def _pending(connection: Connection, batch_id: str, after_position: int, limit: int) -> list[BatchLine]:
    table = tables.pending_lines
    query = select(table).where(table.c.batch_id == batch_id, table.c.position > after_position)
    rows = connection.execute(query.order_by(table.c.position).limit(limit)).mappings()
    return [BatchLine(row["position"], row["custom_id"], row["body"]) for row in rows]


def _delete_pending(connection: Connection, batch_id: str) -> None:
    connection.execute(tables.pending_lines.delete().where(tables.pending_lines.c.batch_id == batch_id))


def _check_metadata(metadata: Any) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict) or len(metadata) > _MAX_METADATA:
        raise UsageError(
            f"metadata is no object of at most {_MAX_METADATA} entries", hint='For example {"project": "night run"}.'
        )
    for key, value in metadata.items():
        if not isinstance(value, str) or len(key) > _MAX_METADATA_KEY or len(value) > _MAX_METADATA_VALUE:
            raise UsageError(
                "an entry of metadata is too long, or not text",
                hint=f"Keep keys to {_MAX_METADATA_KEY} characters, and values to texts of {_MAX_METADATA_VALUE}.",
            )


def _batch_of_row(row: RowMapping) -> Batch:
    values = {column.name: row[column.name] for column in fields(Batch)}
    values["status"] = BatchStatus(row["status"])
    values["metadata"] = None if row["metadata"] is None else json.loads(row["metadata"])
    values["errors"] = tuple(LineError(**error) for error in json.loads(row["errors"] or "[]"))
    return Batch(**values)
