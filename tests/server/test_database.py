"""The database: whole transactions, every failure in words, older layouts led forward."""

import asyncio
import gc
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, select, text

from abaci.errors import FileFormatError, ResourceError, UsageError
from abaci.server.database import DATABASE_NAME, Database
from abaci.server.tables import file_parts, versions


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "state")
    yield database
    database.close()


def add_part(connection: Connection, position: int, data: bytes = b"x") -> None:
    connection.execute(file_parts.insert().values(file_id="f", position=position, data=data))


def num_parts(database: Database) -> int:
    with database.reading() as connection:
        return connection.execute(select(func.count()).select_from(file_parts)).scalar_one()


def test_it_is_made_private_durable_and_only_once(tmp_path: Path) -> None:
    for _ in range(2):
        database = Database.open(tmp_path / "a" / "state")
        with database.reading() as connection:
            assert connection.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
            assert connection.execute(text("PRAGMA synchronous")).scalar_one() == 2
        database.close()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a" / "state").iterdir()}
    assert modes == dict.fromkeys(modes, 0o600)
    assert DATABASE_NAME in modes


def test_an_exception_undoes_the_whole_transaction(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.writing() as connection:
        add_part(connection, 0)
        raise ZeroDivisionError
    assert num_parts(database) == 0


def test_a_full_disk_leaves_whole_transactions_only(database: Database) -> None:
    with database.reading() as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
    with pytest.raises(ResourceError, match="full") as raised, database.writing() as connection:
        connection.execute(text(f"PRAGMA max_page_count = {pages + 20}"))
        for position in range(100):
            add_part(connection, position, bytes(10_000))
    assert "room" in str(raised.value.hint)
    assert num_parts(database) == 0
    with database.writing() as connection:
        add_part(connection, 0)
    assert num_parts(database) == 1


@pytest.mark.parametrize("damage", [b"not a database at all" * 100, None])
def test_a_damaged_file_is_named(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / DATABASE_NAME
    if damage is None:  # a file that begins well
        Database.open(tmp_path).close()
        content = path.read_bytes()
        damage = content[:100] + os.urandom(len(content) - 100)
    path.write_bytes(damage)
    with pytest.raises(FileFormatError, match=DATABASE_NAME):
        Database.open(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="file"):
        Database.open(tmp_path / "file" / "state")


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/name", "sqlite://"])
def test_a_wrong_url_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError):
        Database.open(tmp_path, url)


def test_a_url_may_name_an_sqlite_file(tmp_path: Path) -> None:
    path = tmp_path / "what? a%20name" / "own.db"
    path.parent.mkdir()
    Database.open(tmp_path / "unused", f"sqlite:///{path.parent.parent}/other.db").close()
    assert (tmp_path / "other.db").exists()
    Database.open(path.parent).close()
    assert (path.parent / DATABASE_NAME).exists()


def test_an_older_layout_is_led_forward_step_by_step_and_a_newer_one_refused(tmp_path: Path) -> None:
    def add_one(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE one (a INTEGER)"))

    def add_two(connection: Connection) -> None:
        connection.execute(text("ALTER TABLE one ADD COLUMN b INTEGER"))

    def fail(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE half (a INTEGER)"))
        raise ZeroDivisionError

    Database.open(tmp_path, migrations=()).close()
    with pytest.raises(ZeroDivisionError):
        Database.open(tmp_path, migrations=(add_one, fail))
    database = Database.open(tmp_path, migrations=(add_one, add_two))
    with database.writing() as connection:
        connection.execute(text("INSERT INTO one (a, b) VALUES (1, 2)"))
        assert connection.execute(select(versions.c.number).where(versions.c.name == "schema")).scalar_one() == 3
        assert not connection.dialect.has_table(connection, "half")
    database.close()
    Database.open(tmp_path, migrations=(add_one, add_two)).close()
    with pytest.raises(UsageError, match="layout 3"):
        Database.open(tmp_path, migrations=(add_one,))


def test_readers_wait_for_no_writer(database: Database) -> None:
    with database.writing() as writer:
        add_part(writer, 0)
        assert num_parts(database) == 0
    assert num_parts(database) == 1


def test_writers_wait_for_each_other(database: Database) -> None:
    def add_slowly(first: int) -> None:
        with database.writing() as connection:
            count = connection.execute(select(func.count()).select_from(file_parts)).scalar_one()
            time.sleep(0.05)
            add_part(connection, count)

    threads = [threading.Thread(target=add_slowly, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert num_parts(database) == 4


def test_a_lock_that_is_never_given_back_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abaci.server.database._BUSY_SECONDS", 0.05)
    database = Database.open(tmp_path)
    other = sqlite3.connect(tmp_path / DATABASE_NAME)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(ResourceError, match="locked"), database.writing():
        pass
    other.close()
    database.close()


def test_processes_may_make_it_at_the_same_time(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from abaci.server.database import Database
Database.open(Path({str(tmp_path)!r})).close()
"""
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]


async def _run_in_order(database: Database) -> None:
    thread_names: list[str] = []

    def work(position: int) -> int:
        thread_names.append(threading.current_thread().name)
        with database.writing() as connection:
            add_part(connection, position)
        return position

    assert await asyncio.gather(*(database.run(work, position) for position in range(5))) == [0, 1, 2, 3, 4]
    assert len(set(thread_names)) == 1
    assert threading.current_thread().name not in thread_names
    with pytest.raises(ZeroDivisionError):
        await database.run(lambda: 1 // 0)


def test_work_runs_in_order_in_the_databases_own_thread(database: Database) -> None:
    asyncio.run(_run_in_order(database))
    assert num_parts(database) == 5


def test_a_failure_nobody_waits_for_is_no_fault_of_a_loop_that_ends(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    is_left = threading.Event()

    def fail() -> None:
        is_left.wait()
        raise ZeroDivisionError

    async def leave() -> None:
        caller = asyncio.create_task(database.run(fail))
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    is_left.set()
    database._executor.submit(int).result()  # by now the loop has been handed the failure
    loop.call_soon(loop.stop)
    loop.run_forever()  # and takes it, with no turn left to look at it
    loop.close()
    gc.collect()
    assert not caplog.records


def test_a_process_killed_in_a_transaction_leaves_nothing_of_it(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from abaci.server.database import Database
from abaci.server.tables import file_parts
database = Database.open(Path({str(tmp_path)!r}))
for position in range(3):
    with database.writing() as connection:
        connection.execute(file_parts.insert().values(file_id="f", position=position, data=b"x"))
        if position == 2:
            os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    database = Database.open(tmp_path)
    assert num_parts(database) == 2
    database.close()
