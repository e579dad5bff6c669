"""Reports for people to read. Numbers come in; nothing is computed but their look."""

import os
from collections.abc import Iterator
from itertools import groupby

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from abaci.bench.contender import describe_settings
from abaci.bench.report import QUIET_SHARE, Comparison, Figure, KernelFigure, KernelReport, Machine, Unit
from abaci.kernels.ceilings import Ceilings

_PLAIN_WIDTH = 140


def print_report(report: Comparison | KernelReport) -> None:
    """On standard output; without a terminal as wide as it needs."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=_PLAIN_WIDTH)
    console.print(_comparison(report) if isinstance(report, Comparison) else _kernels(report))


def format_value(value: float, unit: Unit) -> str:
    """A figure in the unit that people read."""
    match unit:
        case Unit.TOKENS_PER_SECOND:
            return f"{value:,.1f} tokens/s"
        case Unit.SECONDS:
            return f"{value:.2f} s"
        case Unit.BYTES:
            return f"{value / 1e6:,.0f} MB"
        case Unit.SHARE:
            return f"{value:.1%}"


def _comparison(report: Comparison) -> RenderableType:
    parts: list[RenderableType] = [
        Text(f"{report.model}, {report.file_bytes / 1e6:,.0f} MB, {report.num_threads} threads", style="bold"),
        *_machine_lines(report.machine, report.ceilings),
    ]
    for name, description in report.contenders.items():
        facts = "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in description.facts.items())
        parts.append(Text(f"{name}: {description.version}; {facts}", style="dim"))
    parts += [_comparison_table(report), *_settings_lines(report), *_noise_lines(report)]
    return Group(*parts)


def _comparison_table(report: Comparison) -> Table:
    names = list(report.contenders)
    table = Table()
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for name in names[1:]:
        table.add_column("ratio" if len(names) == 2 else f"to {name}", justify="right")
    table.add_column("roofline", justify="right")
    table.add_column(f"{names[0]} of memory read", justify="right")
    table.add_column(f"{names[0]} of int8 peak", justify="right")
    for figure in report.figures:
        table.add_row(*_cells(figure, names))
    return table


def _cells(figure: Figure, names: list[str]) -> Iterator[str]:
    by_name = {measurement.contender: measurement for measurement in figure.measurements}
    yield figure.name
    for name in names:
        yield format_value(by_name[name].median, figure.unit) if name in by_name else ""
    for name in names[1:]:
        yield f"{figure.ratios[name]:.2f}x" if name in figure.ratios else ""
    own = figure.measurements[0]
    yield "" if own.roofline is None else f"{own.roofline:,.0f} tokens/s"
    yield "" if own.read_share is None else f"{own.read_share:.0%}"
    yield "" if own.int8_share is None else f"{own.int8_share:.0%}"


def _settings_lines(report: Comparison) -> Iterator[Text]:
    """What each contender was tuned to, workloads of equal settings together."""
    chosen: dict[tuple[str, str], list[str]] = {}
    for figure in report.figures:
        for measurement in figure.measurements:
            if measurement.settings:
                key = (measurement.contender, describe_settings(measurement.settings))
                chosen.setdefault(key, []).append(figure.name)
    for (contender, settings), figures in chosen.items():
        yield Text(f"{contender} was fastest with {settings}: {'; '.join(figures)}", style="dim")


def _noise_lines(report: Comparison) -> Iterator[Text]:
    noisy = [figure for figure in report.figures if figure.neighbours_share > QUIET_SHARE]
    yield Text(f"measured in {report.seconds:.0f} s; a ratio above 1 is in favour of {next(iter(report.contenders))}")
    if noisy:
        worst = max(figure.neighbours_share for figure in noisy)
        names = "; ".join(figure.name for figure in noisy)
        yield Text(f"disturbed: others took up to {worst:.0%} of the processors during: {names}", style="yellow")


def _machine_lines(machine: Machine, ceilings: Ceilings) -> Iterator[Text]:
    yield Text(
        f"{machine.processor}, {machine.num_processors} processors, {machine.memory_bytes / 1e9:.0f} GB", style="dim"
    )
    yield Text(f"ceilings: {_ceilings(ceilings)}", style="dim")


def _ceilings(ceilings: Ceilings) -> str:
    read, peak = ceilings.read_bytes_per_second, ceilings.int8_operations_per_second
    return f"memory read {read / 1e9:.1f} GB/s, int8 {peak / 1e9:,.0f} GOPS"


def _kernels(report: KernelReport) -> RenderableType:
    parts: list[RenderableType] = []
    for target, ceilings in report.ceilings.items():
        parts.append(Text(f"{target}, {report.num_threads} threads; ceilings: {_ceilings(ceilings)}", style="bold"))
        figures = [figure for figure in report.figures if figure.target == target]
        parts.append(_kernel_table(figures))
    parts.append(
        Text("K x N weights times so many rows of activations; GB/s where the weights came from memory, as in a model")
    )
    if report.skipped:
        parts.append(Text(f"skipped, as they take too long here: {'; '.join(report.skipped)}", style="dim"))
    if report.neighbours_share > QUIET_SHARE:
        parts.append(Text(f"disturbed: others took {report.neighbours_share:.0%} of the processors", style="yellow"))
    return Group(*parts)


def _kernel_table(figures: list[KernelFigure]) -> Table:
    table = Table()
    for heading in ("weights", "K", "N", "rows", "GOPS", "of int8 peak", "GB/s", "of memory read"):
        table.add_column(heading, justify="left" if heading == "weights" else "right")
    for _, group in groupby(figures, key=lambda figure: figure.weight_format):
        for figure in group:
            table.add_row(
                figure.weight_format,
                str(figure.columns),
                str(figure.rows),
                str(figure.num_rows),
                f"{figure.operations_per_second / 1e9:,.0f}",
                "" if figure.is_streamed else f"{figure.ceiling_share:.0%}",
                f"{figure.bytes_per_second / 1e9:.1f}" if figure.is_streamed else "",
                f"{figure.ceiling_share:.0%}" if figure.is_streamed else "",
            )
        table.add_section()
    return table
