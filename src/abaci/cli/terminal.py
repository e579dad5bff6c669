"""How the command line speaks: results on standard output, everything else on standard error.

What is printed for people may hold words of a model file or a server: the control characters among them, which could
move the cursor or worse, are made visible here, for every verb.
"""

import json
import os
import re
import shutil
import sys
import textwrap
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abaci.cli.streams import takes_any_text
from abaci.errors import AbaciError
from abaci.tensor import CacheType

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_BAR_STEP_PERCENT = 10
_GAP = "  "
_NARROWEST_COLUMN = 8
_NARROWEST_TEXT = 40

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A name (`abaci search`, or org/repo:TYPE of a hub), a .gguf file, or a folder."
    ),
]
QuantizeOption = Annotated[
    str | None, typer.Option(metavar="TYPE", help="Quantise float weights while loading, e.g. to q8_0 or q4_k_m.")
]
KvTypeOption = Annotated[
    CacheType,
    typer.Option(envvar="ABACI_KV_TYPE", help="What the KV cache keeps: int8 takes about half the memory."),
]
LoraOption = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE[=SCALE]", help="A LoRA adapter, GGUF or a PEFT folder; may be given again."),
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="As `abaci list` has it.")]


def forbid_network(wanted: bool) -> None:
    """What `--offline` does: this process and those it starts are told by the environment, as by a user's own."""
    if wanted:
        os.environ["ABACI_OFFLINE"] = "1"


OfflineOption = Annotated[
    bool,
    typer.Option("--offline", callback=forbid_network, help="Use no network; the same as ABACI_OFFLINE=1."),
]


def print_json(value: Any) -> None:
    """A result for programs: one JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=not takes_any_text(sys.stdout)) + "\n")
    sys.stdout.flush()


def print_text(text: str) -> None:
    """A result for people, on standard output. A file or a pipe gets it as it is."""
    sys.stdout.write((without_control_characters(text) if sys.stdout.isatty() else text) + "\n")
    sys.stdout.flush()


def print_line(text: str) -> None:
    """A line or lines beside the result, on standard error."""
    _print_beside(text, None)


def print_remark(text: str) -> None:
    """As `print_line`, dimmed where standard error has colours: it steps back."""
    _print_beside(text, "2")


def print_error(error: AbaciError) -> None:
    """What went wrong in red, and below it what to do."""
    _print_beside(f"error: {error.message}", "31")
    if error.hint is not None:
        print_line(f"hint: {error.hint}")


def _print_beside(text: str, colour: str | None) -> None:
    clean = without_control_characters(text)
    is_coloured = colour is not None and sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    sys.stderr.write(f"\x1b[{colour}m{clean}\x1b[0m\n" if is_coloured else f"{clean}\n")
    sys.stderr.flush()


def without_control_characters(text: str) -> str:
    """The text without carriage returns, and with any other control character but tab and line feed made visible."""
    return _CONTROL_CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r", ""))


def megabytes(num_bytes: int) -> str:
    """A size for people, in millions of bytes."""
    return f"{num_bytes / 1e6:,.0f} MB"


def aligned(rows: list[tuple[str, ...]]) -> str:
    """Rows of cells as text, columns padded to their widest cell."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = (_GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def table(rows: list[tuple[str, ...]]) -> str:
    """As `aligned`, but on a terminal no wider than it: cells of the widest columns go on below."""
    if not sys.stdout.isatty():
        return aligned(rows)
    return aligned(folded(rows, shutil.get_terminal_size().columns))


def folded(rows: list[tuple[str, ...]], num_columns: int) -> list[tuple[str, ...]]:
    """Rows whose cells fit `num_columns` characters together: a cell that does not goes on in further rows.

    The first column, a name to be copied, stays whole, and no other gets narrower than a few characters.
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    room = num_columns - len(_GAP) * (len(widths) - 1)
    while sum(widths) > room and max(widths[1:], default=0) > _NARROWEST_COLUMN:
        widths[widths.index(max(widths[1:]), 1)] -= 1
    return [
        line
        for row in rows
        for line in zip_longest(
            *(textwrap.wrap(cell, width) or [""] for cell, width in zip(row, widths, strict=True)), fillvalue=""
        )
    ]


def wrapped(line: str) -> str:
    """A line as wide as the terminal, what follows indented below it; elsewhere as it is."""
    if not sys.stdout.isatty():
        return line
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.fill(
        line.strip(),
        max(shutil.get_terminal_size().columns, _NARROWEST_TEXT),
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


class DownloadProgress:
    """Shows a download on standard error: a bar on a terminal, a line every tenth elsewhere. A context manager."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._percent_shown = 0

    def __enter__(self) -> "DownloadProgress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advanced(self, source: str, num_bytes: int, total_bytes: int) -> None:
        """See `abaci.hub.DownloadListener`."""
        if sys.stderr.isatty():
            self._draw(source, num_bytes, total_bytes)
            return
        percent = num_bytes * 100 // total_bytes
        if percent < self._percent_shown or percent >= self._percent_shown + _BAR_STEP_PERCENT:
            self._percent_shown = percent - percent % _BAR_STEP_PERCENT
            print_line(f"{self._name}: {percent} % of {megabytes(total_bytes)} ({source})")

    def noticed(self, message: str) -> None:
        """See `abaci.hub.DownloadListener`."""
        if self._bar is None:
            print_line(message)
        else:
            self._bar.console.print(without_control_characters(message), markup=False, highlight=False)

    def _draw(self, source: str, num_bytes: int, total_bytes: int) -> None:
        source = without_control_characters(source)
        if self._bar is None:
            self._bar = _new_bar()
            name = without_control_characters(self._name)
            self._task = self._bar.add_task(name, total=total_bytes, source=source)
            self._bar.start()
        if self._task is not None:
            self._bar.update(self._task, completed=num_bytes, source=source)


def _new_bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[source]}", markup=False),
    )
    return Progress(*columns, console=Console(stderr=True))
