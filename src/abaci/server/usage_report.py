"""Usage as people want to see it: by key, model and day, with what it cost, as values, JSON or CSV.

Dollars come from the hourly price of the machine and the measured seconds per token (`token_seconds`).
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import RowMapping, select

from abaci.server import tables
from abaci.server.database import Database
from abaci.server.token_seconds import TokenSeconds
from abaci.server.usage import TOTALS, UsageStore, UsageTotals

_SECONDS_PER_HOUR = 3600.0
_MILLION = 1_000_000


class Dimension(StrEnum):
    """What a report can tell apart."""

    KEY = "key"
    MODEL = "model"
    DAY = "day"


_COLUMNS: Final = {Dimension.DAY: "day", Dimension.KEY: "key_id", Dimension.MODEL: "model"}


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One line of a report. What the report does not tell apart is None; dollars need a price and measured seconds."""

    day: str | None
    key: str | None
    key_id: str | None
    model: str | None
    requests: int
    errors: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    compute_seconds: float
    cost_dollars: float | None
    dollars_per_million_prompt_tokens: float | None
    dollars_per_million_completion_tokens: float | None
    full_load_dollars_per_million_prompt_tokens: float | None
    """What a million of these tokens, as many of them cached, would have cost at full load."""
    full_load_dollars_per_million_completion_tokens: float | None


@dataclass(frozen=True, slots=True)
class UsageReport:
    """Usage since a UTC day (None: ever), in rows by `by`, and all of it in one."""

    since: str | None
    by: tuple[Dimension, ...]
    hourly_price: float | None
    rows: tuple[UsageRow, ...]
    total: UsageRow


def report_usage(
    database: Database,
    by: Sequence[Dimension] = (Dimension.KEY, Dimension.MODEL),
    *,
    since: date | None = None,
    key_id: str | None = None,
    hourly_price: float | None = None,
) -> UsageReport:
    """Usage by any dimensions, of one key or of all; `hourly_price` is the machine's, in dollars. Synchronous."""
    columns = tables.usage.c
    query = select(tables.usage)
    if since is not None:
        query = query.where(columns.day >= since.isoformat())
    if key_id is not None:
        query = query.where(columns.key_id == key_id)
    full_load = UsageStore(database).full_load()
    groups: dict[tuple[str | None, ...], _Group] = {}
    total = _Group()
    with database.reading() as connection:
        names = {key: name for key, name in connection.execute(select(tables.keys.c.id, tables.keys.c.name))}
        for row in connection.execute(query).mappings():
            place = tuple(row[column] if kind in by else None for kind, column in _COLUMNS.items())
            for group in (groups.setdefault(place, _Group()), total):
                group.add(row, full_load)
    ordered = sorted(groups.items(), key=lambda item: tuple(part or "" for part in item[0]))
    return UsageReport(
        since=None if since is None else since.isoformat(),
        by=tuple(by),
        hourly_price=hourly_price,
        rows=tuple(group.row(place, names, hourly_price) for place, group in ordered),
        total=total.row((None, None, None), names, hourly_price),
    )


def first_day(text: str, max_days: int = 99_999) -> date:
    """A UTC day (`2026-01-31`), or the first of the last so many (`7d`). Raises ValueError for anything else."""
    if (match := re.fullmatch(r"([1-9][0-9]{0,4})d", text)) and int(match[1]) <= max_days:
        return datetime.now(UTC).date() - timedelta(days=int(match[1]) - 1)
    return date.fromisoformat(text)


def report_as_json(report: UsageReport) -> dict[str, Any]:
    """The report as a JSON document."""
    return asdict(report)


def report_as_csv(report: UsageReport) -> str:
    """The rows as CSV with a header; what is not known is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [column.name for column in fields(UsageRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _harmless(value) for name, value in asdict(row).items()} for row in report.rows)
    return out.getvalue()


def _harmless(value: object) -> object:
    """Text that a spreadsheet would take for a formula becomes plain text: a key's name is anyone's choice."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


@dataclass(slots=True)
class _Group:
    """Rows of the table that are one row of a report."""

    totals: UsageTotals = field(default_factory=UsageTotals)
    full_load_prompt_seconds: float | None = 0.0
    full_load_completion_seconds: float | None = 0.0

    def add(self, row: RowMapping, full_load: Mapping[str, TokenSeconds]) -> None:
        totals = UsageTotals(**{column: row[column] for column in TOTALS})
        self.totals.add(totals)
        best = full_load.get(row["model"], TokenSeconds())
        self.full_load_prompt_seconds = _plus(self.full_load_prompt_seconds, totals.computed_prompt_tokens, best.prompt)
        self.full_load_completion_seconds = _plus(
            self.full_load_completion_seconds, totals.completion_tokens, best.completion
        )

    def row(self, place: Sequence[str | None], names: Mapping[str, str], hourly_price: float | None) -> UsageRow:
        day, key_id, model = place
        totals = self.totals
        seconds = totals.prompt_seconds + totals.completion_seconds

        def per_million(kind_seconds: float | None, num_tokens: int) -> float | None:
            dollars = _dollars(kind_seconds, hourly_price)
            return None if dollars is None or not num_tokens or not kind_seconds else dollars / num_tokens * _MILLION

        return UsageRow(
            day=day,
            key=None if key_id is None else names.get(key_id, key_id or "(no key)"),
            key_id=key_id,
            model=model,
            requests=totals.requests,
            errors=totals.errors,
            prompt_tokens=totals.prompt_tokens,
            cached_tokens=totals.cached_tokens,
            completion_tokens=totals.completion_tokens,
            reasoning_tokens=totals.reasoning_tokens,
            compute_seconds=seconds,
            cost_dollars=_dollars(seconds, hourly_price),
            dollars_per_million_prompt_tokens=per_million(totals.prompt_seconds, totals.prompt_tokens),
            dollars_per_million_completion_tokens=per_million(totals.completion_seconds, totals.completion_tokens),
            full_load_dollars_per_million_prompt_tokens=per_million(
                self.full_load_prompt_seconds, totals.prompt_tokens
            ),
            full_load_dollars_per_million_completion_tokens=per_million(
                self.full_load_completion_seconds, totals.completion_tokens
            ),
        )


def _dollars(seconds: float | None, hourly_price: float | None) -> float | None:
    return None if seconds is None or hourly_price is None else seconds / _SECONDS_PER_HOUR * hourly_price


def _plus(seconds: float | None, num_tokens: int, token_seconds: float | None) -> float | None:
    """None once any tokens have no known cost."""
    if not num_tokens:
        return seconds
    return None if seconds is None or token_seconds is None else seconds + num_tokens * token_seconds
