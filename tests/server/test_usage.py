"""What was used is counted once, priced by what was measured, and survives."""

import asyncio
import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from abaci.errors import ResourceError
from abaci.server.database import Database
from abaci.server.keys import KeyStore
from abaci.server.token_seconds import LoadMeter, ModelCounters, TokenSeconds
from abaci.server.usage import NO_KEY, UsageKey, UsageMeter, UsageRecord, UsageStore, UsageTotals
from abaci.server.usage_report import Dimension, report_as_csv, report_as_json, report_usage

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
RECORD = UsageRecord("key_1", "m", prompt_tokens=100, cached_tokens=40, completion_tokens=10, reasoning_tokens=4)


@dataclass
class Machine:
    """Clocks and counters, set by hand."""

    monotonic: float = 500.0
    wall: float = NOON
    counters: dict[str, ModelCounters] = field(default_factory=dict)

    def meter(self, database: Database) -> UsageMeter:
        return UsageMeter(database, lambda: self.counters, monotonic=lambda: self.monotonic, wall=lambda: self.wall)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path)
    yield database
    database.close()


def flush(meter: UsageMeter) -> None:
    asyncio.run(meter.flush())


def observe(meter: LoadMeter, seconds: int, per_second: ModelCounters, *, start: float = 0.0) -> None:
    """Readings of a model that does the same every second."""
    for second in range(seconds + 1):
        counters = ModelCounters(
            per_second.prompt_tokens * second,
            per_second.completion_tokens * second,
            per_second.prompt_seconds * second,
            per_second.completion_seconds * second,
        )
        meter.observe(start + second, counters)


def test_requests_add_up_by_key_model_and_utc_day(database: Database) -> None:
    machine = Machine()
    meter = machine.meter(database)
    meter.record(RECORD)
    meter.record(replace(RECORD, is_error=True))
    flush(meter)
    meter.record(replace(RECORD, key_id=NO_KEY))
    meter.record(replace(RECORD, model="other"))
    machine.wall += 13 * 3600
    meter.record(RECORD)
    flush(meter)
    flush(meter)
    report = report_usage(database, list(Dimension))
    assert [(row.day, row.key, row.model, row.requests, row.errors) for row in report.rows] == [
        ("2026-03-01", "(no key)", "m", 1, 0),
        ("2026-03-01", "key_1", "m", 2, 1),
        ("2026-03-01", "key_1", "other", 1, 0),
        ("2026-03-02", "key_1", "m", 1, 0),
    ]
    total = report.total
    assert (total.requests, total.prompt_tokens, total.cached_tokens) == (5, 500, 200)
    assert (total.completion_tokens, total.reasoning_tokens) == (50, 20)
    assert UsageStore(database).tokens_of_day(date(2026, 3, 1)) == {NO_KEY: 110, "key_1": 330}


def test_seconds_are_tokens_times_what_a_token_takes(database: Database) -> None:
    machine = Machine()
    meter = machine.meter(database)
    machine.counters["m"] = ModelCounters(60, 10, prompt_seconds=0.6, completion_seconds=0.5)
    meter.record(RECORD)
    meter.record(replace(RECORD, model="never measured"))
    flush(meter)
    usage = report_usage(database, [Dimension.MODEL], hourly_price=3.6)
    row = usage.rows[0]
    assert row.compute_seconds == pytest.approx(60 * 0.01 + 10 * 0.05)
    assert row.cost_dollars == pytest.approx(row.compute_seconds / 1000)
    assert row.dollars_per_million_prompt_tokens == pytest.approx(0.6 / 1000 / 100 * 1e6)
    assert row.dollars_per_million_completion_tokens == pytest.approx(0.5 / 1000 / 10 * 1e6)
    assert row.full_load_dollars_per_million_prompt_tokens is None
    assert usage.rows[1].compute_seconds == 0
    assert usage.rows[1].dollars_per_million_prompt_tokens is None
    without_price = report_usage(database).rows[0]
    assert (without_price.cost_dollars, without_price.dollars_per_million_prompt_tokens) == (None, None)


def test_the_figure_at_full_load_is_beside_it_and_outlives_the_process(database: Database) -> None:
    machine = Machine()
    meter = machine.meter(database)
    for second in range(62):  # a busy minute: 100 prompt tokens and 10 of completions every second
        machine.monotonic = float(second)
        machine.counters["m"] = ModelCounters(100 * second, 10 * second, 0.5 * second, 0.45 * second)
        flush(meter)
    meter = machine.meter(database)
    machine.counters["m"] = ModelCounters(1, 1, 0.02, 0.3)  # loaded anew, and little to do
    meter.record(RECORD)
    flush(meter)
    row = report_usage(database, hourly_price=3600.0).rows[0]
    assert row.dollars_per_million_prompt_tokens == pytest.approx(60 / 100 * 0.02 * 1e6)
    assert row.full_load_dollars_per_million_prompt_tokens == pytest.approx(60 / 100 * 0.005 * 1e6)
    assert row.dollars_per_million_completion_tokens == pytest.approx(0.3 * 1e6)
    assert row.full_load_dollars_per_million_completion_tokens == pytest.approx(0.045 * 1e6)


def test_only_a_busy_minute_is_full_load() -> None:
    meter = LoadMeter()
    observe(meter, 59, ModelCounters(100, 10, 0.5, 0.5))
    assert meter.full_load == TokenSeconds()
    observe(meter, 200, ModelCounters(100, 10, 0.4, 0.4), start=1000)
    assert meter.full_load == TokenSeconds()
    assert meter.current.prompt == pytest.approx(0.004)
    observe(meter, 61, ModelCounters(100, 10, 0.5, 0.5), start=2000)
    assert meter.full_load.prompt == pytest.approx(0.005)


def test_a_kind_that_hardly_occurs_tells_no_cost() -> None:
    meter = LoadMeter()
    observe(meter, 70, ModelCounters(1, 100, 0.01, 0.98))
    assert meter.full_load == TokenSeconds(None, pytest.approx(0.0098))  # type: ignore[arg-type]


def test_the_best_minute_stays() -> None:
    meter = LoadMeter()
    observe(meter, 70, ModelCounters(0, 100, 0, 1.0))
    observe(meter, 70, ModelCounters(0, 50, 0, 1.0), start=100)
    assert meter.current.completion == pytest.approx(0.02)
    assert meter.full_load.completion == pytest.approx(0.01)


def test_what_the_database_refuses_is_written_later_and_once(database: Database) -> None:
    machine = Machine(counters={"m": ModelCounters(10, 10, 1.0, 1.0)})
    meter = machine.meter(database)
    meter.record(RECORD)
    with database.writing() as connection:
        connection.execute(text("ALTER TABLE usage RENAME TO hidden"))
    for _ in range(2):
        with pytest.raises(Exception, match="usage"):
            flush(meter)
    with database.writing() as connection:
        connection.execute(text("ALTER TABLE hidden RENAME TO usage"))
    machine.counters["m"] = ModelCounters(20, 20, 20.0, 20.0)
    meter.record(RECORD)
    flush(meter)
    total = report_usage(database).total
    assert total.requests == 2
    assert total.compute_seconds == pytest.approx((60 + 10) * 0.1 + (60 + 10) * 1.0)


def test_a_database_that_fails_does_not_end_the_counting(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Machine().meter(database)
    add = UsageStore.add
    failures = [ResourceError("full"), ResourceError("full")]

    def fail_twice(store: UsageStore, *args: object) -> None:
        if failures:
            raise failures.pop()
        add(store, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(UsageStore, "add", fail_twice)

    async def run() -> None:
        running = asyncio.create_task(meter.run(0.01))
        meter.record(RECORD)
        async with asyncio.timeout(5):
            while report_usage(database).total.requests == 0:
                await asyncio.sleep(0.01)
        running.cancel()

    asyncio.run(run())
    assert report_usage(database).total.requests == 1


def test_two_processes_may_write_the_same_row(tmp_path: Path, database: Database) -> None:
    program = f"""
from pathlib import Path
from abaci.server.database import Database
from abaci.server.usage import UsageKey, UsageStore, UsageTotals
store = UsageStore(Database.open(Path({str(tmp_path)!r})))
for _ in range(50):
    store.add({{UsageKey("2026-03-01", "key_1", "m"): UsageTotals(requests=1)}}, {{}})
"""
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert report_usage(database).total.requests == 100


def test_a_killed_process_loses_only_what_was_not_flushed(tmp_path: Path, database: Database) -> None:
    program = f"""
import asyncio, os, signal
from pathlib import Path
from abaci.server.database import Database
from abaci.server.usage import UsageMeter, UsageRecord
meter = UsageMeter(Database.open(Path({str(tmp_path)!r})), dict)
for _ in range(7):
    meter.record(UsageRecord("key_1", "m", 3, 0, 4))
asyncio.run(meter.flush())
meter.record(UsageRecord("key_1", "m", 3, 0, 4))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert report_usage(database).total.requests == 7


def put(database: Database, day: str, key_id: str, model: str = "m") -> None:
    UsageStore(database).add({UsageKey(day, key_id, model): UsageTotals(1, 0, 10, 0, 5, 0, 1.0, 1.0)}, {})


def test_reports_tell_apart_what_is_asked_for(database: Database) -> None:
    key, _ = KeyStore(database).create("team")
    for day in ("2026-03-01", "2026-03-02"):
        for key_id in (key.id, NO_KEY):
            put(database, day, key_id)
    assert [(row.key, row.requests) for row in report_usage(database, [Dimension.KEY]).rows] == [
        ("(no key)", 2),
        ("team", 2),
    ]
    assert [row.day for row in report_usage(database, [Dimension.DAY], since=date(2026, 3, 2)).rows] == ["2026-03-02"]
    assert report_usage(database, [], key_id=key.id).rows[0].requests == 2
    assert report_usage(database, since=date(2027, 1, 1)).rows == ()


def test_csv_and_json_hold_the_same_and_csv_no_formulas(database: Database) -> None:
    key, _ = KeyStore(database).create("=HYPERLINK(1)")
    put(database, "2026-03-01", key.id, 'model, "quoted"')
    report = report_usage(database, hourly_price=2.0)
    (row,) = csv.DictReader(io.StringIO(report_as_csv(report)))
    document = json.loads(json.dumps(report_as_json(report)))
    assert row["key"] == "'=HYPERLINK(1)"
    assert row["model"] == document["rows"][0]["model"] == 'model, "quoted"'
    assert float(row["cost_dollars"]) == document["total"]["cost_dollars"] == pytest.approx(2 / 1800)
    assert row["full_load_dollars_per_million_prompt_tokens"] == ""
    assert document["by"] == ["key", "model"]
