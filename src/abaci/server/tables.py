"""Every table of a server's database, and how an older database becomes one of today.

Columns of time hold Unix seconds, days are UTC dates as text (2026-01-31). Knows SQL, not what the rows are for.
"""

from collections.abc import Callable
from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    inspect,
    select,
    text,
)

from abaci.errors import UsageError

Migration = Callable[[Connection], None]

_METADATA = MetaData()

_ROW_NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts rows up only in a column of type INTEGER

versions = Table(
    "versions",
    _METADATA,
    Column("name", String(32), primary_key=True),
    Column("number", BigInteger, nullable=False),
)
"""Numbers that go up: `schema` with the layout of these tables, `keys` with every change of a key."""

keys = Table(
    "keys",
    _METADATA,
    Column("number", _ROW_NUMBER, primary_key=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("name", String(128), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("created_seconds", BigInteger, nullable=False),
    Column("revoked_seconds", BigInteger),
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("concurrent_requests", BigInteger),
    Column("tokens_per_day", BigInteger),
    Column("models", Text),
    Column("shares_cache", Boolean, nullable=False),
    Index(
        "keys_valid_name",
        "name",
        unique=True,
        sqlite_where=text("revoked_seconds IS NULL"),
        postgresql_where=text("revoked_seconds IS NULL"),
    ),
)

usage = Table(
    "usage",
    _METADATA,
    Column("day", String(10), primary_key=True),
    Column("key_id", String(64), primary_key=True),
    Column("model", String(512), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("prompt_seconds", Double, nullable=False),
    Column("completion_seconds", Double, nullable=False),
)

full_load = Table(
    "full_load",
    _METADATA,
    Column("model", String(512), primary_key=True),
    Column("prompt_token_seconds", Double),
    Column("completion_token_seconds", Double),
)
"""Seconds of the machine per token in the best minute in which a model kept it busy."""

files = Table(
    "files",
    _METADATA,
    Column("number", _ROW_NUMBER, primary_key=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("owner", String(64), nullable=False),
    Column("name", String(512), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("created_seconds", BigInteger, nullable=False),
    Column("expires_seconds", BigInteger),
    Index("files_owner", "owner", "number"),
)

file_parts = Table(
    "file_parts",
    _METADATA,
    Column("file_id", String(64), primary_key=True),
    Column("position", BigInteger, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)
"""The bytes of a file are its parts in order. The output of a batch grows here line by line before its file exists."""

batches = Table(
    "batches",
    _METADATA,
    Column("number", _ROW_NUMBER, primary_key=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("owner", String(64), nullable=False),
    Column("endpoint", String(128), nullable=False),
    Column("input_file_id", String(64), nullable=False),
    Column("output_file_id", String(64), nullable=False),
    Column("error_file_id", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("metadata", Text),
    Column("errors", Text),
    Column("num_total", BigInteger, nullable=False, default=0),
    Column("num_completed", BigInteger, nullable=False, default=0),
    Column("num_failed", BigInteger, nullable=False, default=0),
    Column("created_seconds", BigInteger, nullable=False),
    Column("expires_seconds", BigInteger, nullable=False),
    Column("started_seconds", BigInteger),
    Column("finalizing_seconds", BigInteger),
    Column("cancelling_seconds", BigInteger),
    Column("ended_seconds", BigInteger),
    Index("batches_owner", "owner", "number"),
    Index("batches_status", "status"),
)

pending_lines = Table(
    "pending_lines",
    _METADATA,
    Column("batch_id", String(64), primary_key=True),
    Column("position", BigInteger, primary_key=True),
    Column("custom_id", Text, nullable=False),
    Column("body", Text, nullable=False),
)
"""Lines of batches that are not answered yet. A line leaves in the transaction that brings its answer."""

stored_responses = Table(
    "stored_responses",
    _METADATA,
    Column("number", _ROW_NUMBER, primary_key=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("owner", String(64), nullable=False),
    Column("created_seconds", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
    Index("stored_responses_owner", "owner", "number"),
)

MIGRATIONS: Final[tuple[Migration, ...]] = ()
"""The one at index i leads from layout i + 1 to layout i + 2. Released ones never change."""


def prepare_schema(connection: Connection, migrations: tuple[Migration, ...] = MIGRATIONS) -> None:
    """Create the tables in an empty database, or lead an older one forward, within the connection's transaction.

    Raises UsageError for a database that a newer version wrote.
    """
    newest = len(migrations) + 1
    if not inspect(connection).has_table(versions.name):
        _METADATA.create_all(connection)
        connection.execute(versions.insert(), [{"name": "schema", "number": newest}, {"name": "keys", "number": 0}])
        return
    found = connection.execute(select(versions.c.number).where(versions.c.name == "schema")).scalar_one()
    if found > newest:
        raise UsageError(
            f"the database has layout {found}, but this version of abaci knows layouts up to {newest}",
            hint="Update abaci, or give it another state folder.",
        )
    if found == newest:
        return
    for migrate in migrations[found - 1 :]:
        migrate(connection)
    connection.execute(versions.update().where(versions.c.name == "schema").values(number=newest))
