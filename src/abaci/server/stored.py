"""Answers kept for later requests to go on from: documents by id, seen by their owner only, bounded in number and age.

Synchronous; what stands in a document is its writer's business.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, select

from abaci.errors import NotFoundError, PayloadTooLargeError
from abaci.server import tables
from abaci.server.database import Database

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class ResponseLimits:
    """How much is kept; beyond it the oldest go."""

    num_per_owner: int = 1000
    bytes_per_owner: int = 256 << 20
    document_bytes: int = 16 << 20
    age_seconds: int = 30 * 24 * 3600


class ResponseStore:
    """Documents in the database. What belongs to somebody else is not found. `wall` gives Unix seconds."""

    def __init__(self, database: Database, limits: ResponseLimits | None = None, *, wall: Clock = time.time) -> None:
        self._database = database
        self._limits = limits or ResponseLimits()
        self._wall = wall

    def put(self, owner: str, response_id: str, document: Mapping[str, Any]) -> None:
        """Keep a document, in place of an earlier one of that id. Raises PayloadTooLargeError."""
        text = json.dumps(document)
        if len(text) > self._limits.document_bytes:
            raise PayloadTooLargeError(
                f"the response is larger than the {self._limits.document_bytes:,} bytes that are stored",
                hint="Send store: false, or a shorter input.",
            )
        with self._database.writing() as connection:
            _delete(connection, owner, response_id)
            connection.execute(
                tables.stored_responses.insert().values(
                    id=response_id, owner=owner, created_seconds=int(self._wall()), document=text
                )
            )
            self._make_room(connection, owner)

    def get(self, owner: str, response_id: str) -> dict[str, Any]:
        """Raises NotFoundError."""
        table = tables.stored_responses.c
        is_it = (table.id == response_id) & (table.owner == owner) & (table.created_seconds > self._oldest())
        with self._database.reading() as connection:
            text = connection.execute(select(table.document).where(is_it)).scalar()
        if text is None:
            raise _not_found(response_id)
        document: dict[str, Any] = json.loads(text)
        return document

    def delete(self, owner: str, response_id: str) -> None:
        """Raises NotFoundError."""
        with self._database.writing() as connection:
            if not _delete(connection, owner, response_id):
                raise _not_found(response_id)

    def _oldest(self) -> int:
        return int(self._wall()) - self._limits.age_seconds

    def _make_room(self, connection: Connection, owner: str) -> None:
        """Drop what is too old, whoever's it is, and the owner's oldest beyond what may be kept."""
        table = tables.stored_responses
        connection.execute(delete(table).where(table.c.created_seconds <= self._oldest()))
        newest_first = table.c.number.desc()
        kept_bytes = func.sum(func.length(table.c.document)).over(order_by=newest_first)
        place = func.row_number().over(order_by=newest_first)
        ranked = (
            select(table.c.number, place.label("place"), kept_bytes.label("kept_bytes"))
            .where(table.c.owner == owner)
            .subquery()
        )
        is_beyond = (ranked.c.place > self._limits.num_per_owner) | (ranked.c.kept_bytes > self._limits.bytes_per_owner)
        connection.execute(delete(table).where(table.c.number.in_(select(ranked.c.number).where(is_beyond))))


def _delete(connection: Connection, owner: str, response_id: str) -> bool:
    table = tables.stored_responses.c
    deleted = connection.execute(
        delete(tables.stored_responses).where(table.id == response_id, table.owner == owner)
    ).rowcount
    return deleted > 0


def _not_found(response_id: str) -> NotFoundError:
    return NotFoundError(
        f"there is no stored response {response_id[:100]!r}", hint="It may be too old, or was sent with store: false."
    )
