"""What is typed or pasted in a conversation, and what it means."""

import io
import os
import pty
import sys
from collections.abc import Callable

import pytest

from abaci.cli.keyboard import Entry, line_reader, read_entry

PASTE_BEGINS, PASTE_ENDS = "\x1b[200~", "\x1b[201~"
READ_TWO_ENTRIES = """
from abaci.cli.keyboard import line_reader, read_entry
read_line = line_reader()
for _ in range(2):
    print("entered", ascii(read_entry(read_line)), flush=True)
"""


def keyboard(*lines: str) -> Callable[[str], str]:
    left = list(lines)

    def read_line(prompt: str) -> str:
        assert prompt == (">>> " if len(left) == len(lines) else "... ")
        return left.pop(0)

    return read_line


@pytest.mark.parametrize(
    "line", ["/help", "/?", "/hlep", "/clear ", " /set seed 1", "/system Be\nbrief.", "/system\tA"]
)
def test_a_slash_and_a_word_is_a_command(line: str) -> None:
    assert Entry.of_line(line) == Entry(line.strip(), is_command=True)


@pytest.mark.parametrize(
    "line",
    [
        "/usr/bin/env: what is this?",
        "/r/python",
        "/",
        "/ what?",
        "// a comment",
        "/3 of it",
        "/dev/null",
        "/tmp.",
        "a /help",
        "def f():\n/clear\n",
    ],
)
def test_what_else_begins_with_a_slash_is_a_message(line: str) -> None:
    assert Entry.of_line(line) == Entry(line.strip(), is_command=False)


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (('"""', "one", "  two", '"""'), "one\n  two"),
        (('"""one', "", 'two"""  '), "one\n\ntwo"),
        (('"""/clear"""',), "/clear"),
        (('"""', "/exit", '"""'), "/exit"),
        (('"""a\nb\n"""',), "a\nb"),
        (('""""""',), ""),
        (('"""', 'x = """a""" + b', '"""'), 'x = """a""" + b'),
    ],
)
def test_quotes_hold_a_message_of_several_lines(lines: tuple[str, ...], text: str) -> None:
    assert read_entry(keyboard(*lines)) == Entry(text, is_command=False)


def test_lines_pasted_at_once_are_one_message() -> None:
    """On a real terminal, as one that marks what is pasted sends it."""
    process_id, descriptor = pty.fork()
    if process_id == 0:
        os.execve(sys.executable, [sys.executable, "-c", READ_TWO_ENTRIES], {**os.environ, "TERM": "xterm"})
    try:
        _read_until(descriptor, b">>> ")
        os.write(descriptor, f"{PASTE_BEGINS}Fix this:\r/clear\r  thanks\r{PASTE_ENDS}\r".encode())
        _read_until(descriptor, b"entered ")
        shown = _read_until(descriptor, b">>> ")
        os.write(descriptor, b"/help\r")
        shown += _read_until(descriptor, b"entered ") + _read_until(descriptor, b"\n")
    finally:
        os.close(descriptor)
        os.waitpid(process_id, 0)
    assert b"Entry(text='Fix this:\\n/clear\\n  thanks', is_command=False)" in shown
    assert b"Entry(text='/help', is_command=True)" in shown


def test_bytes_that_the_locale_does_not_know_are_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = "café\n".encode().decode("ascii", "surrogateescape") + "caf\udce9\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    read_line = line_reader()
    assert read_entry(read_line) == Entry("café", is_command=False)
    with pytest.raises(UnicodeDecodeError):
        read_entry(read_line)


def test_ctrl_c_twice_at_once_is_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """As CPython's input() tells of it, where the second press comes before it has told of the first."""

    def pressed_twice(prompt: str) -> str:
        raise SystemError("returned a result with an exception set") from KeyboardInterrupt()

    monkeypatch.setattr("builtins.input", pressed_twice)
    with pytest.raises(KeyboardInterrupt):
        line_reader()(">>> ")


def _read_until(descriptor: int, end: bytes) -> bytes:
    content = b""
    while not content.endswith(end):
        content += os.read(descriptor, 1)
    return content
