"""How an answer looks while it grows: plain text, or markdown drawn as it comes.

A model's text goes to a terminal without its control characters, which could move the cursor or worse.
"""

import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.segment import Segment

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_FENCE = re.compile(r"^ {0,3}(```|~~~)")
_REDRAWS_PER_SECOND = 8
_ROWS_LEFT_FREE = 2


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
    """Markdown on a terminal: whole blocks are printed for good, the growing last one is redrawn in place."""

    def __init__(self, console: "Console") -> None:
        from rich.live import Live

        self._console = console
        self._live = Live(console=console, transient=True, refresh_per_second=_REDRAWS_PER_SECOND)
        self._growing = ""

    def write(self, text: str) -> None:
        if not text:
            return
        shown_before = bool(self._growing)
        *blocks, self._growing = split_blocks(self._growing + without_control_characters(text))
        for block in blocks:
            self._print(block)
        self._live.update(_Tail(self._growing), refresh=not shown_before)
        if not self._live.is_started:
            self._live.start(refresh=True)

    def finish(self) -> None:
        self._live.stop()
        if self._growing.strip():
            self._print(self._growing)
        self._growing = ""

    def _print(self, block: str) -> None:
        from rich.segment import Segments

        for line in _markdown_lines(self._console, self._console.options, block):
            self._console.print(Segments(line), end="")
        self._console.print()


class _Tail:
    """Markdown of which only the last lines are drawn, so that it never outgrows the screen it is redrawn on."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        lines = _markdown_lines(console, options, self._text)
        for line in lines[-max(1, console.height - _ROWS_LEFT_FREE) :]:
            yield from line


def _markdown_lines(console: "Console", options: "ConsoleOptions", text: str) -> list[list["Segment"]]:
    """Drawn lines with their ends, without the empty ones that rich puts around some blocks."""
    from rich.markdown import Markdown

    lines = console.render_lines(Markdown(text), options, pad=False, new_lines=True)
    filled = [index for index, line in enumerate(lines) if any(segment.text.strip() for segment in line)]
    return lines[filled[0] : filled[-1] + 1] if filled else []


def without_control_characters(text: str) -> str:
    """The text without carriage returns, and with any other control character but tab and line feed made visible."""
    return _CONTROL_CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r", ""))


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
    """The code fence that is open after a line."""
    mark = _FENCE.match(line)
    if mark is None:
        return fence
    if fence is None:
        return mark.group(1)
    return None if mark.group(1) == fence else fence


def _not_blank(blocks: Iterable[str]) -> list[str]:
    return [block for block in blocks if block.strip()]
