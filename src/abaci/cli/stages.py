"""Progress of work in stages, on standard error: a bar on a terminal, a line every fifth elsewhere."""

import sys
from typing import TYPE_CHECKING

from abaci.cli.terminal import print_line, print_remark

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LINE_STEP_PERCENT = 20


class StageProgress:
    """Implements `abaci.quantize.making.Listener`. A context manager."""

    def __init__(self) -> None:
        self._stage = ""
        self._percent_shown = 0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> "StageProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_bar()

    def advanced(self, stage: str, done: int, total: int) -> None:
        """See `abaci.quantize.making.Listener`."""
        if stage != self._stage:
            self._stop_bar()
            self._stage, self._percent_shown = stage, 0
        if sys.stderr.isatty():
            self._draw(done, total)
            return
        percent = 100 if total == 0 else done * 100 // total
        if percent >= self._percent_shown + _LINE_STEP_PERCENT:
            self._percent_shown = percent - percent % _LINE_STEP_PERCENT
            print_remark(f"{stage}: {percent} %")

    def noticed(self, message: str) -> None:
        """See `abaci.quantize.making.Listener`."""
        self._stop_bar()
        print_line(message)

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(self._stage, total=total)
            self._bar.start()
        if self._task is not None:
            self._bar.update(self._task, completed=done)

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None
