"""What keys have used, of which model, on which day, with the compute seconds that this took.

Counted in memory and written in one transaction every second, so a killed process loses that second at most.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime
from typing import Final

from sqlalchemy import Connection, func, select

from abaci.errors import AbaciError
from abaci.server import tables
from abaci.server.database import Database, insert_for
from abaci.server.token_seconds import LoadMeter, ModelCounters, TokenSeconds

Clock = Callable[[], float]

NO_KEY: Final = ""
"""Stands for callers without a key of the database."""

_LOG = logging.getLogger("abaci.server")


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """What one request used; recorded once, when it ends. `key_id` is NO_KEY where it came without one."""

    key_id: str
    model: str
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Those of the prompt that were found in the prefix cache."""
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    """Those of the completion that were thought."""
    is_error: bool = False


@dataclass(slots=True)
class UsageTotals:
    """Sums over requests. The fields are the columns of the table."""

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    prompt_seconds: float = 0.0
    completion_seconds: float = 0.0

    def add(self, other: "UsageTotals") -> None:
        """Add every field."""
        for column in TOTALS:
            setattr(self, column, getattr(self, column) + getattr(other, column))

    @property
    def computed_prompt_tokens(self) -> int:
        """Without those that the cache had."""
        return self.prompt_tokens - self.cached_tokens


TOTALS: Final = tuple(total.name for total in fields(UsageTotals))


@dataclass(frozen=True, slots=True)
class UsageKey:
    """Where a request is counted."""

    day: str
    key_id: str
    model: str


class UsageStore:
    """Usage in the database. Synchronous."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, usage: Mapping[UsageKey, UsageTotals], full_load: Mapping[str, TokenSeconds]) -> None:
        """Add to what is there, all or nothing."""
        with self._database.writing() as connection:
            for place, totals in usage.items():
                _add_totals(connection, place, totals)
            for model, seconds in full_load.items():
                _put_full_load(connection, model, seconds)

    def full_load(self) -> dict[str, TokenSeconds]:
        """What was measured at full load, by model."""
        with self._database.reading() as connection:
            rows = connection.execute(select(tables.full_load)).mappings()
            return {
                row["model"]: TokenSeconds(row["prompt_token_seconds"], row["completion_token_seconds"]) for row in rows
            }

    def tokens_of_day(self, day: date) -> dict[str, int]:
        """Tokens, prompt and completion, that each key has used on a UTC day: what limits.Admission.restore wants."""
        columns = tables.usage.c
        tokens = func.sum(columns.prompt_tokens + columns.completion_tokens)
        query = select(columns.key_id, tokens).where(columns.day == day.isoformat()).group_by(columns.key_id)
        with self._database.reading() as connection:
            return {key_id: int(total) for key_id, total in connection.execute(query)}


class UsageMeter:
    """Counts finished requests and writes them down every second.

    `read_counters` gives the counters of every loaded model by the name that records use. `record` may be called from
    any thread; all else belongs to the event loop.
    """

    def __init__(
        self,
        database: Database,
        read_counters: Callable[[], Mapping[str, ModelCounters]],
        *,
        monotonic: Clock = time.monotonic,
        wall: Clock = time.time,
    ) -> None:
        """Reads what was measured earlier; blocks for that. Raises what the database raises."""
        self._database = database
        self._store = UsageStore(database)
        self._read_counters = read_counters
        self._monotonic = monotonic
        self._wall = wall
        self._lock = threading.Lock()
        self._recorded: dict[UsageKey, UsageTotals] = {}
        self._refused: dict[UsageKey, UsageTotals] = {}
        """By the database; they have their seconds already."""
        self._written_full_load = self._store.full_load()
        self._loads = {model: LoadMeter(seconds) for model, seconds in self._written_full_load.items()}

    def record(self, record: UsageRecord) -> None:
        """Count a request that has ended."""
        day = datetime.fromtimestamp(self._wall(), UTC).date().isoformat()
        totals = UsageTotals(
            requests=1,
            errors=int(record.is_error),
            prompt_tokens=record.prompt_tokens,
            cached_tokens=record.cached_tokens,
            completion_tokens=record.completion_tokens,
            reasoning_tokens=record.reasoning_tokens,
        )
        with self._lock:
            _add_all(self._recorded, {UsageKey(day, record.key_id, record.model): totals})

    def load(self, model: str) -> LoadMeter | None:
        """What is measured of a model."""
        return self._loads.get(model)

    async def flush(self) -> None:
        """Write what is not written yet. What the database refuses is kept for the next time, and the error raised."""
        now = self._monotonic()
        for model, counters in self._read_counters().items():
            self._loads.setdefault(model, LoadMeter()).observe(now, counters)
        usage = self._take()
        full_load = {
            model: load.full_load
            for model, load in self._loads.items()
            if load.full_load != self._written_full_load.get(model, TokenSeconds())
        }
        if usage or full_load:
            await self._database.run(self._write, usage, full_load)

    async def run(self, interval_seconds: float = 1.0) -> None:
        """Flush for ever. Cancel it, then `flush` once more, to end."""
        is_failing = False
        while True:
            await asyncio.sleep(interval_seconds)
            try:
                await self.flush()
                is_failing = False
            except AbaciError as error:
                if not is_failing:
                    _LOG.error("usage cannot be written, and is kept in memory: %s", error.message)
                is_failing = True

    def _take(self) -> dict[UsageKey, UsageTotals]:
        """All that is not written yet, every request with its seconds."""
        with self._lock:
            recorded, self._recorded = self._recorded, {}
            refused, self._refused = self._refused, {}
        for place, totals in recorded.items():
            load = self._loads.get(place.model)
            seconds = TokenSeconds() if load is None else load.current
            totals.prompt_seconds = totals.computed_prompt_tokens * (seconds.prompt or 0.0)
            totals.completion_seconds = totals.completion_tokens * (seconds.completion or 0.0)
        _add_all(refused, recorded)
        return refused

    def _write(self, usage: Mapping[UsageKey, UsageTotals], full_load: Mapping[str, TokenSeconds]) -> None:
        """In the database's thread."""
        try:
            self._store.add(usage, full_load)
        except BaseException:
            with self._lock:
                _add_all(self._refused, usage)
            raise
        self._written_full_load = {**self._written_full_load, **full_load}


def _add_all(to: dict[UsageKey, UsageTotals], usage: Mapping[UsageKey, UsageTotals]) -> None:
    for place, totals in usage.items():
        to.setdefault(place, UsageTotals()).add(totals)


def _add_totals(connection: Connection, place: UsageKey, totals: UsageTotals) -> None:
    table = tables.usage
    insert = insert_for(connection, table).values(**asdict(place), **asdict(totals))
    added = {column: table.c[column] + insert.excluded[column] for column in TOTALS}
    connection.execute(insert.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=added))


def _put_full_load(connection: Connection, model: str, seconds: TokenSeconds) -> None:
    table = tables.full_load
    values = {"prompt_token_seconds": seconds.prompt, "completion_token_seconds": seconds.completion}
    insert = insert_for(connection, table).values(model=model, **values)
    connection.execute(insert.on_conflict_do_update(index_elements=[table.c.model], set_=values))
