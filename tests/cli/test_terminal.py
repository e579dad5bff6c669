"""What a person sees of a download and of an error."""

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abaci.cli.terminal import (
    DownloadProgress,
    aligned,
    folded,
    print_error,
    print_line,
    print_remark,
    print_text,
    table,
    without_control_characters,
)
from abaci.errors import UsageError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error as a terminal; called in a test's body, since pytest sets the stream after the fixtures."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return stream


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with DownloadProgress("tiny:1b") as progress:
        progress.advanced("hub", 0, 2_000_000)
        progress.noticed("hub: cannot be reached")
        progress.advanced("index", 2_000_000, 2_000_000)
    shown = terminal.getvalue()
    assert "hub: cannot be reached\n" in shown.replace("\r", "")
    for part in ("tiny:1b", "0.0/2.0 MB", "2.0/2.0 MB", "index"):
        assert part in shown


def test_nothing_fetched_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with DownloadProgress("tiny:1b"):
        pass
    assert terminal.getvalue() == ""


def test_a_log_gets_a_line_every_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with DownloadProgress("tiny:1b") as progress:
        for num_bytes in range(0, 1001):
            progress.advanced("index", num_bytes * 1000, 1_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "tiny:1b: 10 % of 1 MB (index)"
    assert lines[-1] == "tiny:1b: 100 % of 1 MB (index)"
    assert len(lines) == 10


def test_an_error_is_red_and_its_hint_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    print_error(UsageError("no such thing", hint="try another"))
    assert terminal.getvalue() == "\x1b[31merror: no such thing\x1b[0m\nhint: try another\n"
    monkeypatch.setenv("NO_COLOR", "1")
    print_error(UsageError("no such thing"))
    assert terminal.getvalue().endswith("\nerror: no such thing\n")


def test_a_table_that_is_too_wide_goes_on_below() -> None:
    rows = [("NAME", "LICENCE", "GOOD AT"), ("tiny:1b", "LicenseRef-of-its-own-2024", "chat, code, mathematics")]
    folded_rows = folded(rows, 40)
    assert len(folded_rows) > len(rows)
    assert max(map(len, aligned(folded_rows).splitlines())) <= 40
    assert "".join(row[1] for row in folded_rows[1:]) == "LicenseRef-of-its-own-2024"
    assert " ".join(row[2] for row in folded_rows[1:] if row[2]) == "chat, code, mathematics"
    assert folded(rows, 200) == rows


def test_a_table_keeps_a_row_a_line_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(table([("NAME",), ("x" * 500,)]).splitlines()) == 2


def test_a_column_is_never_folded_to_nothing() -> None:
    assert folded([("a" * 20, "b" * 20)], 5) == [("a" * 20, "b" * 8), ("", "b" * 8), ("", "b" * 4)]


HOSTILE = "a\x1b]0;title\x07b\x9b31m\r\nc\td"
CLEAN = "a\ufffd]0;title\ufffdb\ufffd31m\nc\td"


def test_what_a_file_or_a_server_says_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    print_line(HOSTILE)
    print_remark(HOSTILE)
    print_error(UsageError(HOSTILE, hint=HOSTILE))
    coloured = f"\x1b[2m{CLEAN}\x1b[0m\n\x1b[31merror: {CLEAN}\x1b[0m\n"
    assert terminal.getvalue() == f"{CLEAN}\n{coloured}hint: {CLEAN}\n"
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    print_text(HOSTILE)
    assert screen.getvalue() == f"{CLEAN}\n"


def test_a_bar_shows_no_control_characters_and_no_marks_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with DownloadProgress("[bold]tiny\x1b]0;title\x07") as progress:
        progress.advanced("hub\x1b]1;title\x07", 0, 10)
        progress.noticed("moved\x1b]2;title\x07")
    shown = terminal.getvalue()
    assert "\x1b]" not in shown
    for part in ("[bold]tiny\ufffd]0;title", "hub\ufffd]1;title", "moved\ufffd]2;title"):
        assert part in shown


def test_a_file_gets_a_result_as_it_is_and_a_log_gets_no_control_characters(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    print_text("a\x1b[1m\tb")
    print_line("a\x1b[1m\tb")
    assert capfd.readouterr() == ("a\x1b[1m\tb\n", "a\ufffd[1m\tb\n")


@given(st.text())
def test_clean_text_is_printable(text: str) -> None:
    clean = without_control_characters(text)
    assert not any(
        (ord(character) < 32 and character not in "\t\n") or 127 <= ord(character) < 160 for character in clean
    )
