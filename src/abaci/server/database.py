"""A server's durable state: one SQLite file, or PostgreSQL by URL, behind transactions that happen whole or not at all.

Everything here is synchronous. A server hands its work to `Database.run`, which does one piece after another in a
thread of its own, so the event loop never waits for a disk. Knows tables only through `tables.prepare_schema`.
"""

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError

from abaci.errors import AbaciError, FileFormatError, ResourceError, UsageError
from abaci.server.tables import MIGRATIONS, Migration, prepare_schema

DATABASE_NAME = "abaci.sqlite3"

_BUSY_SECONDS = 10.0
_IS_READER = "abaci_is_reader"
_POSTGRES_SCHEMA_LOCK = 0x61626163  # any number, as long as every version takes the same
_POSTGRES_TROUBLE = frozenset({"08", "53", "57", "58"})
"""Classes of SQL states: connection lost, out of resources, told to stop, system error."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Failure:
    """What work raised, carried as a value: of a caller who left, asyncio would report an exception as its own."""

    error: BaseException


class Database:
    """Connections to one database whose tables are of today's layout.

    Commits are on the disk when they return. Writers wait for each other, also across processes; readers wait for
    nobody. May be used from any thread.
    """

    def __init__(self, engine: Engine, place: str) -> None:
        """Use `open`."""
        self._engine = engine
        self._place = place
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="abaci-database")

    @classmethod
    def open(cls, state_dir: Path, url: str | None = None, *, migrations: tuple[Migration, ...] = MIGRATIONS) -> Self:
        """The database in `state_dir`, made if it is not there; with a `url`, that one.

        Raises ResourceError (not reachable, not writable, full), FileFormatError (damaged), UsageError (a wrong URL, a
        database of a newer version).
        """
        if url is None or url.startswith("sqlite:"):
            path = _sqlite_path(state_dir, url)
            database = cls(_sqlite_engine(path), str(path))
        else:
            engine = _server_engine(url)
            database = cls(engine, engine.url.render_as_string(hide_password=True))
        try:
            with database.writing() as connection:
                if connection.dialect.name == "postgresql":
                    connection.execute(text(f"SELECT pg_advisory_xact_lock({_POSTGRES_SCHEMA_LOCK})"))
                prepare_schema(connection, migrations)
        except BaseException:
            database.close()
            raise
        return database

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that may change rows: committed at the end, undone by any exception.

        Raises ResourceError where the disk is full or the database cannot be reached, FileFormatError where it is
        damaged.
        """
        with self._translated_errors(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and keeps no writer waiting. Raises as `writing`."""
        with (
            self._translated_errors(),
            self._engine.connect().execution_options(**{_IS_READER: True}) as connection,
            connection.begin(),
        ):
            yield connection

    async def run(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call `work` in the database's thread, after all that was handed in before.

        Cancelling the caller does not stop it: what was handed in is done.
        """

        def attempt() -> _T | _Failure:
            try:
                return work(*args, **kwargs)
            except BaseException as error:
                return _Failure(error)

        outcome = await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._executor, attempt))
        if isinstance(outcome, _Failure):
            raise outcome.error
        return outcome

    def try_lock(self, name: str) -> "DatabaseLock | None":
        """Become the only process with the lock of that name; None while another has it. It ends with its process."""
        if self._engine.dialect.name == "postgresql":
            return _lock_postgres(self._engine, name)
        return _lock_file(Path(f"{self._engine.url.database}.{name}.lock"))

    def close(self) -> None:
        """Finish the work handed in and let go of the database. Idempotent."""
        self._executor.shutdown(wait=True)
        self._engine.dispose()

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, sqlite3.Error) as error:  # SQLAlchemy wraps all but what fails while it connects
            explained = _explain(error, self._place)
            if explained is None:
                raise
            raise explained from error


class DatabaseLock:
    """A lock that is held until `release`."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release = release

    def release(self) -> None:
        """Let others have it. Once only."""
        self._release()


def insert_for(connection: Connection, table: Table) -> "sqlite.Insert | postgresql.Insert":
    """An insert that knows what to do `on_conflict`; the databases spell it alike but share no class for it."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def _sqlite_path(state_dir: Path, url: str | None) -> Path:
    if url is None:
        return state_dir / DATABASE_NAME
    name = make_url(url).database
    if not name or name == ":memory:":
        raise UsageError(
            "a database in memory would forget", hint="Name a file: sqlite:////var/lib/abaci/abaci.sqlite3"
        )
    return Path(name)


def _sqlite_engine(path: Path) -> Engine:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # It holds people's prompts: created here, so that nobody else may read it; SQLite's side files follow suit.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise ResourceError(
            f"{path}: {error.strerror}", hint="Choose a folder that can be written to with ABACI_STATE_DIR."
        ) from error
    engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": _BUSY_SECONDS})
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says, not where Python guesses
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """Writers take the lock at once: one that begins as a reader could find the rows it read changed, and fail."""
    is_reader = connection.get_execution_options().get(_IS_READER, False)
    connection.exec_driver_sql("BEGIN" if is_reader else "BEGIN IMMEDIATE")


def _server_engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() != "postgresql":
            raise UsageError(
                f"{parsed.get_backend_name()} cannot hold the state of a server",
                hint="Use SQLite or PostgreSQL: postgresql://user:password@host/name",
            )
        return create_engine(parsed, pool_pre_ping=True)
    except ArgumentError:
        raise UsageError(
            "the database's URL cannot be read", hint="For example: postgresql://user:password@host/name"
        ) from None
    except ModuleNotFoundError as error:
        raise UsageError(f"PostgreSQL needs {error.name}", hint="Install it: pip install 'abaci[postgres]'") from error


def _lock_file(path: Path) -> DatabaseLock | None:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ResourceError(f"{path}: {error.strerror}", hint="Check who may write there.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return DatabaseLock(lambda: os.close(descriptor))


def _lock_postgres(engine: Engine, name: str) -> DatabaseLock | None:
    """Held by a connection of its own."""
    connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    query = text("SELECT pg_try_advisory_lock(hashtext(:name))").bindparams(name=f"abaci {name}")
    if connection.execute(query).scalar_one():
        return DatabaseLock(connection.invalidate)
    connection.close()
    return None


def _explain(error: DBAPIError | sqlite3.Error, place: str) -> AbaciError | None:
    """What the failure means for people; None where it is a mistake of ours."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, sqlite3.Error):
        return _explain_sqlite(getattr(cause, "sqlite_errorcode", 0) & 0xFF, cause, place)
    assert isinstance(error, DBAPIError)
    state = str(getattr(cause, "sqlstate", None) or "")
    has_connected = bool(state) or type(cause).__name__ != "OperationalError"
    if has_connected and not error.connection_invalidated and state[:2] not in _POSTGRES_TROUBLE:
        return None
    return ResourceError(
        f"{place}: {str(cause).partition(chr(10))[0]}",
        hint="Check the database's URL, that its server runs, and that it has room.",
    )


def _explain_sqlite(code: int, cause: sqlite3.Error, place: str) -> AbaciError | None:
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return ResourceError(f"{place}: {cause}", hint="Make room on the disk; nothing was half written.")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return FileFormatError(
            f"{place} is damaged: {cause}", hint="Put back a copy of it, or move it away to begin with an empty one."
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return ResourceError(
            f"{place}: another process has kept it locked for {_BUSY_SECONDS:g} seconds", hint="Find out which."
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return ResourceError(f"{place}: {cause}", hint="Check who may write there.")
    return None
