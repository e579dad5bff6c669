"""How an answer looks while it grows: plain text, or markdown drawn as it comes.

A model's text goes to a terminal without its control characters, which could move the cursor or worse.
"""

import math
import re
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

from abaci.cli.terminal import without_control_characters

if TYPE_CHECKING:
    from rich.console import Console
    from rich.segment import Segment

_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})(.*)")
_ROWS_LEFT_FREE = 2
_PAUSE_PER_DRAWING = 4
"""Of the time, at most a fifth goes into drawing: the processors are the model's."""


class SilentWriter:
    """Shows nothing: the answer is printed by other means."""

    def write(self, text: str) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""


class PlainWriter:
    """Text as it comes, with a line end at its end."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._is_terminal = self._stream.isatty()
        self._last = "\n"

    def write(self, text: str) -> None:
        if text:
            self._stream.write(without_control_characters(text) if self._is_terminal else text)
            self._stream.flush()
            self._last = text[-1]

    def finish(self) -> None:
        if self._last != "\n":
            self._stream.write("\n")
            self._stream.flush()


class MarkdownWriter:
    """Markdown on a terminal: whole blocks are printed for good, the growing last one is redrawn in place.

    Of a growing block taller than the screen only the last lines are drawn until it ends.
    """

    def __init__(self, console: "Console", redraw_seconds: float = 0.1) -> None:
        self._console = console
        self._redraw_seconds = redraw_seconds
        self._pause_seconds = 0.0
        self._growing = ""
        self._num_rows = 0
        """Rows of the growing block on the screen, above the cursor."""
        self._drawn_at = -math.inf

    def write(self, text: str) -> None:
        from abaci.cli.markdown import markdown_lines

        *blocks, self._growing = split_blocks(self._growing + without_control_characters(text))
        began_at = time.monotonic()
        if not blocks and began_at < self._drawn_at + self._pause_seconds:
            return
        self._erase()
        for block in blocks:
            self._print(markdown_lines(self._console, block), blank_line=True)
        lines = markdown_lines(self._console, self._growing)[-max(1, self._console.height - _ROWS_LEFT_FREE) :]
        self._print(lines)
        self._num_rows = len(lines)
        self._drawn_at = time.monotonic()
        self._pause_seconds = max(self._redraw_seconds, _PAUSE_PER_DRAWING * (self._drawn_at - began_at))

    def finish(self) -> None:
        from abaci.cli.markdown import markdown_lines

        self._erase()
        lines = markdown_lines(self._console, self._growing)
        self._print(lines, blank_line=bool(lines))
        self._growing = ""

    def _erase(self) -> None:
        """Take back the growing block, and the ^C that a terminal may have echoed below it."""
        up = f"\x1b[{self._num_rows}A" if self._num_rows else ""
        self._console.file.write(f"\r{up}\x1b[J")
        self._num_rows = 0

    def _print(self, lines: list[list["Segment"]], blank_line: bool = False) -> None:
        from rich.segment import Segments

        for line in lines:
            self._console.print(Segments(line), end="")
        if blank_line:
            self._console.print()


def split_blocks(text: str) -> list[str]:
    """Markdown cut where nothing that follows can change what came before; the last piece may still grow.

    A cut lies before a line that follows an empty one, begins with no blank and is outside a code fence: indented lines
    may belong to a list item above.
    """
    blocks: list[str] = []
    lines: list[str] = []
    fence: str | None = None
    for line in text.splitlines(keepends=True):
        after_empty = bool(lines) and not lines[-1].strip()
        if fence is None and after_empty and line[0] not in " \t\n":
            blocks.append("".join(lines))
            lines = []
        lines.append(line)
        fence = _fence_after(line, fence)
    return [*_not_blank(blocks), "".join(lines)]


def _fence_after(line: str, fence: str | None) -> str | None:
    """The code fence that is open after a line: one is closed by at least as many of its marks, and no word."""
    found = _FENCE.match(line)
    if found is None:
        return fence
    marks, words = found.groups()
    if fence is None:
        return marks
    return None if marks.startswith(fence) and not words.strip() else fence


def _not_blank(blocks: Iterable[str]) -> list[str]:
    return [block for block in blocks if block.strip()]
