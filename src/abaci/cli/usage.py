"""`abaci usage`: what keys have used, of which model, on which day, and what it cost."""

from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abaci.cli.terminal import JsonOption, print_json, print_line, print_text, table
from abaci.errors import UsageError

if TYPE_CHECKING:
    from abaci.server.usage_report import UsageReport, UsageRow

_COUNT_HEADER = ("REQUESTS", "ERRORS", "PROMPT", "CACHED", "OUTPUT", "SECONDS")
_PRICE_HEADER = ("COST $", "$/M PROMPT", "$/M OUTPUT", "FULL LOAD $/M PROMPT", "FULL LOAD $/M OUTPUT")


class By(StrEnum):
    """What to tell apart."""

    KEY = "key"
    MODEL = "model"
    DAY = "day"


def usage(
    *,
    by: Annotated[
        list[By] | None,
        typer.Option(
            metavar="key|model|day", help="Rows by key, model or day; may be given several times. Else key and model."
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="DAY", help="From this UTC day on: 2026-01-31, or 7d for the last seven days.")
    ] = None,
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Of this key only: its name or id.")] = None,
    hourly_price: Annotated[
        float | None, typer.Option(metavar="DOLLARS", min=0, help="What the machine costs in an hour.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The server's settings.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the rows as CSV.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what the server's keys used, and what it cost. A running server writes its figures every second."""
    from abaci.server.usage_report import report_as_csv, report_as_json

    if as_csv and as_json:
        raise UsageError("--csv and --json exclude each other", hint="Leave one of them out.")
    report = _report([By.KEY, By.MODEL] if by is None else by, since, key, hourly_price, config)
    if as_json:
        print_json(report_as_json(report))
    elif as_csv:
        print_text(report_as_csv(report).rstrip("\n"))
    elif report.rows:
        print_text(_table(report))
    else:
        print_line("no server has counted anything; what ran without one: abaci top")


def _report(
    by: list[By], since: str | None, key: str | None, price: float | None, config: Path | None
) -> "UsageReport":
    from abaci.server.config import read_config
    from abaci.server.database import Database
    from abaci.server.keys import KeyStore
    from abaci.server.usage_report import Dimension, report_usage

    first_day = None if since is None else _first_day(since)
    settings = read_config(config, {"hourly_price": price})
    database = Database.open(settings.state_dir, settings.database_url)
    try:
        return report_usage(
            database,
            [Dimension(kind) for kind in by],
            since=first_day,
            key_id=None if key is None else KeyStore(database).find(key).id,
            hourly_price=settings.hourly_price,
        )
    finally:
        database.close()


def _first_day(text: str) -> date:
    from abaci.server.usage_report import first_day

    try:
        return first_day(text)
    except ValueError:
        raise UsageError(f"--since {text!r} is not a day", hint="Write 2026-01-31, or 7d.") from None


def _table(report: "UsageReport") -> str:
    dimensions = [name for name in ("day", "key", "model") if name in report.by]
    header = [*(name.upper() for name in dimensions), *_COUNT_HEADER]
    has_price = report.hourly_price is not None
    if has_price:
        header += _PRICE_HEADER
    rows = [_cells(row, dimensions, has_price) for row in report.rows]
    if len(rows) > 1:
        total = _cells(report.total, dimensions, has_price)
        rows.append(("all", *total[1:]) if dimensions else total)
    return table([tuple(header), *rows])


def _cells(row: "UsageRow", dimensions: list[str], has_price: bool) -> tuple[str, ...]:
    names = (str(getattr(row, name) or "") for name in dimensions)
    counts = (row.requests, row.errors, row.prompt_tokens, row.cached_tokens, row.completion_tokens)
    cells = (*names, *(f"{count:,}" for count in counts), f"{row.compute_seconds:,.1f}")
    if not has_price:
        return cells
    dollars = (
        row.cost_dollars,
        row.dollars_per_million_prompt_tokens,
        row.dollars_per_million_completion_tokens,
        row.full_load_dollars_per_million_prompt_tokens,
        row.full_load_dollars_per_million_completion_tokens,
    )
    return (*cells, *("-" if amount is None else f"{amount:,.4f}" for amount in dollars))
