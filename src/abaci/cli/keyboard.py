"""What is typed in a conversation: lines, and what they make, a message or a command. Knows no model."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

LineReader = Callable[[str], str]
"""A line for a prompt. Raises EOFError at the end, KeyboardInterrupt on Ctrl-C."""

QUOTES: Final = '"""'
_PROMPT: Final = ">>> "
_PROMPT_INSIDE_QUOTES: Final = "... "
_COMMAND: Final = re.compile(r"/(?:[a-z]+|\?)(?!\S)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Entry:
    """What was entered at once."""

    text: str
    is_command: bool

    @classmethod
    def of_line(cls, line: str) -> "Entry":
        """A command is a slash and a word of letters, alone or before a blank; /usr/bin is the beginning of a message.

        The line has line feeds where several were pasted at once.
        """
        text = line.strip()
        return cls(text, is_command=_COMMAND.match(text) is not None)


def read_entry(read_line: LineReader) -> Entry:
    """The next line; or, between three quotation marks and three that end a line, a message that may be anything."""
    line = read_line(_PROMPT).strip()
    if not line.startswith(QUOTES):
        return Entry.of_line(line)
    lines = [line.removeprefix(QUOTES)]
    while not lines[-1].rstrip().endswith(QUOTES):
        lines.append(read_line(_PROMPT_INSIDE_QUOTES))
    return Entry("\n".join(lines).rstrip().removesuffix(QUOTES).strip("\n"), is_command=False)


def line_reader() -> LineReader:
    """Where standard output is a file, the answers are for it, and the prompt for whoever types.

    On a terminal lines that are pasted together come as one.
    """
    if not sys.stdout.isatty():
        return _typed_line
    try:
        import readline  # gives input() editing and a history
    except ImportError:  # an interpreter that was built without
        return _edited_line
    readline.parse_and_bind("set enable-bracketed-paste on")
    return _edited_line


def _edited_line(prompt: str) -> str:
    try:
        return _as_utf8(input(prompt))
    except SystemError as error:
        # input() calls the handler of a second Ctrl-C while the exception of the first is set; CPython objects to that.
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise


def _typed_line(prompt: str) -> str:
    sys.stderr.write(prompt)
    sys.stderr.flush()
    return _edited_line("")


def _as_utf8(line: str) -> str:
    """Where the locale is C, bytes that are not ASCII come as surrogates: they are UTF-8, or UnicodeDecodeError."""
    return line.encode(errors="surrogateescape").decode()
