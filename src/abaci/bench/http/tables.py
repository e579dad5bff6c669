"""The report for people: a block of rows per load, a row per server. Nothing is computed here but looks."""

import os
from collections.abc import Iterator
from itertools import groupby

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from abaci.bench.http.report import HttpReport, Latency, LoadResult
from abaci.bench.report import QUIET_SHARE

_PLAIN_WIDTH = 160


def print_http_report(report: HttpReport) -> None:
    """On standard output; without a terminal as wide as it needs."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=_PLAIN_WIDTH)
    console.print(Group(*_head(report), _table(report), *_foot(report)))


def format_seconds(seconds: float) -> str:
    """Milliseconds below a second, seconds above."""
    if seconds < 0.0995:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds * 1e3:.0f} ms" if seconds < 0.9995 else f"{seconds:.2f} s"


def _head(report: HttpReport) -> Iterator[Text]:
    machine = report.machine
    yield Text(f"{report.model}, {report.num_threads} threads, over HTTP", style="bold")
    yield Text(
        f"{machine.processor}, {machine.num_processors} processors, {machine.memory_bytes / 1e9:.0f} GB", style="dim"
    )
    for name, command in report.servers.items():
        yield Text(f"{name}: {command}", style="dim")


def _table(report: HttpReport) -> Table:
    own = next(iter(report.servers))
    table = Table()
    for heading in ("load", "server"):
        table.add_column(heading)
    headings = ["output\ntokens/s", f"{own}\ndoes"]
    headings += [
        f"{what} {percentile}" for what in ("first token", "next token") for percentile in ("p50", "p90", "p99")
    ]
    for heading in (*headings, "errors"):
        table.add_column(heading, justify="right")
    for load, group in groupby(report.results, key=lambda result: result.load):
        results = list(group)
        for number, result in enumerate(results):
            table.add_row("" if number else load, result.server, *_cells(result, results[0]))
        table.add_section()
    return table


def _cells(result: LoadResult, own: LoadResult) -> Iterator[str]:
    speed, own_speed = result.tokens_per_second, own.tokens_per_second
    yield "" if speed is None else f"{speed:,.1f}"
    yield "" if result is own or speed is None or own_speed is None else f"{own_speed / speed:.2f}x"
    yield from _latency_cells(result.first_token)
    yield from _latency_cells(result.inter_token)
    yield f"{result.num_errors} of {result.num_requests}" if result.num_errors else ""


def _latency_cells(latency: Latency | None) -> Iterator[str]:
    if latency is None:
        yield from ("", "", "")
    else:
        yield from (format_seconds(seconds) for seconds in (latency.p50, latency.p90, latency.p99))


def _foot(report: HttpReport) -> Iterator[Text]:
    for result in report.results:
        if result.first_error is not None:
            yield Text(f"{result.server}, {result.load}: {result.first_error}", style="red")
    costs = [cost for result in report.results if (cost := result.generator_seconds_per_token) is not None]
    if costs:
        yield Text(f"the load generator took up to {max(costs) * 1e6:.0f} us of processor time per token", style="dim")
    yield Text(f"measured in {report.seconds:.0f} s")
    if report.neighbours_share > QUIET_SHARE:
        yield Text(f"disturbed: others took {report.neighbours_share:.0%} of the processors", style="yellow")
