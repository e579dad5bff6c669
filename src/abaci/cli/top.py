"""`abaci top`: what ran here, most used first, and how it went over time."""

import math
from dataclasses import asdict, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abaci.cli.terminal import JsonOption, OfflineOption, print_json, print_text, table
from abaci.errors import UsageError

if TYPE_CHECKING:
    from abaci.runtime.journal import UsedModel
    from abaci.runtime.top import By, TopReport, TopRow

_BLOCKS = " ▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉"
_BAR_CHARACTERS = 10
_CHART_LINES = 6
_MAX_WIDE_PERIODS = 31


def top(
    *,
    by: Annotated[str, typer.Option(metavar="model|family|key", help="What a row stands for.")] = "model",
    since: Annotated[
        str, typer.Option(metavar="DAY", help="From this UTC day on: 2026-01-31, 7d for the last seven days, or all.")
    ] = "7d",
    hub: Annotated[
        bool, typer.Option("--hub", help="Ask the hub how often these models are downloaded: it learns their names.")
    ] = False,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The server's settings.")] = None,
    offline: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show which models ran here, in servers and in programs."""
    report = _report(_by(by), _first_day(since), config)
    if hub:
        report = _with_downloads(report)
    if as_json:
        print_json(asdict(report))
    elif report.rows:
        print_text(_table(report))
        print_text(_chart(report))
    else:
        print_text(f"Nothing has run here since {report.since}.")


def _report(by: "By", since: date | None, config: Path | None) -> "TopReport":
    from abaci import hub
    from abaci.runtime.journal import Journal
    from abaci.runtime.top import report_top

    journal = Journal.of_this_user()
    used = [] if journal is None else list(journal.read(since))
    used += _served(since, config)
    return report_top(used, by, hub.load_catalog(), since=since, until=datetime.now(UTC).date())


def _served(since: date | None, config: Path | None) -> "list[UsedModel]":
    """What servers have booked; looking makes no database where there is none."""
    from abaci.server.config import read_config
    from abaci.server.database import DATABASE_NAME, Database
    from abaci.server.used_models import used_models

    settings = read_config(config)
    if settings.database_url is None and not (settings.state_dir / DATABASE_NAME).exists():
        return []
    database = Database.open(settings.state_dir, settings.database_url)
    try:
        return list(used_models(database, since=since))
    finally:
        database.close()


def _with_downloads(report: "TopReport") -> "TopReport":
    from abaci.hub.network import Network
    from abaci.hub.popularity import download_counts

    repositories = [row.repository for row in report.rows if row.repository is not None]
    counts = download_counts(repositories, Network.from_environment())
    rows = (replace(row, downloads=counts.get(row.repository or "")) for row in report.rows)
    return replace(report, rows=tuple(rows))


def _by(text: str) -> "By":
    from abaci.runtime.top import By

    try:
        return By(text)
    except ValueError:
        raise UsageError(f"--by {text}: not possible", hint=f"Choose one of: {', '.join(By)}.") from None


def _first_day(text: str) -> date | None:
    from abaci.server.usage_report import first_day

    if text == "all":
        return None
    try:
        return first_day(text)
    except ValueError:
        raise UsageError(f"--since {text!r} is not a day", hint="Write 2026-01-31, 7d, or all.") from None


def _table(report: "TopReport") -> str:
    has_downloads = any(row.downloads is not None for row in report.rows)
    header = (report.by.upper(), "REQUESTS", "PROMPT", "CACHED", "OUTPUT", "TOKENS", "", "OVER TIME")
    rows = [header + (("HUB, 30 DAYS",) if has_downloads else ())]
    most = max(sum(row.tokens) for row in report.rows)
    shown = report.rows if len(report.rows) == 1 else (*report.rows, report.total)
    for row in shown:
        bar = "" if row is report.total else _bar(sum(row.tokens), most)
        cells = (*_counts(row), bar, _sparkline(row.tokens))
        downloads = "" if row.downloads is None else f"{row.downloads:,}"
        rows.append(cells + ((downloads,) if has_downloads else ()))
    return table(rows)


def _counts(row: "TopRow") -> tuple[str, ...]:
    numbers = (row.requests, row.prompt_tokens, row.cached_tokens, row.completion_tokens, sum(row.tokens))
    return (row.name, *(f"{number:,}" for number in numbers))


def _bar(value: int, most: int) -> str:
    """A bar in eighths of a character; what is not nothing is seen."""
    eighths = max(1, round(value / most * _BAR_CHARACTERS * 8)) if value else 0
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _sparkline(values: tuple[int, ...]) -> str:
    """A column per period, the highest of the row full."""
    most = max(values) or 1
    return "".join(_block(value / most) for value in values)


def _chart(report: "TopReport") -> str:
    """All tokens over time: columns of blocks, the highest value at the top, the time below."""
    most = max(report.total.tokens) or 1
    label = f"{most:,}"
    width = 2 if len(report.periods) <= _MAX_WIDE_PERIODS else 1
    lines = []
    for level in range(_CHART_LINES - 1, -1, -1):
        blocks = (_block(value * _CHART_LINES / most - level) * width for value in report.total.tokens)
        separated = (" " if width > 1 else "").join(blocks)
        lines.append(f"{label if level == _CHART_LINES - 1 else '':>{len(label)}} ┤{separated}".rstrip())
    unit = "day" if report.period_days == 1 else f"{report.period_days} days"
    lines.append(f"{'':>{len(label)}} └ tokens per {unit}, {report.since} to {report.until} (UTC)")
    return "\n" + "\n".join(lines)


def _block(fill: float) -> str:
    """A character filled from below; what is not nothing is seen."""
    if fill <= 0:
        return _BLOCKS[0]
    return _BLOCKS[min(len(_BLOCKS) - 1, math.ceil(fill * (len(_BLOCKS) - 1)))]
