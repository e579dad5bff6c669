"""What is piped in: joined to the prompt, never waited for without end, and made text."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from io import RawIOBase
from pathlib import Path

import pytest

from abaci.cli import piped
from abaci.cli.piped import question_of
from abaci.errors import UsageError


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[RawIOBase]:
    """The writing end of a pipe that is standard input."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as stream, os.fdopen(write_end, "wb", buffering=0) as writer:
        monkeypatch.setattr(sys, "stdin", stream)
        yield writer


@pytest.fixture
def piping(pipe: RawIOBase) -> Callable[[bytes], None]:
    def write(content: bytes) -> None:
        pipe.write(content)
        pipe.close()

    return write


@pytest.mark.parametrize(
    ("prompt", "content", "question"),
    [
        (None, b"What is\nthis?", "What is\nthis?"),
        ("What is the code?", b"It is 7341.\n", "What is the code?\n\nIt is 7341.\n"),
        ("Hi", b"", "Hi"),
        ("Hi", b" \n", "Hi"),
        (None, b"a\r\nb\rc", "a\nb\nc"),
        (None, "é\x00".encode(), "é\x00"),
    ],
)
def test_what_is_asked(piping: Callable[[bytes], None], prompt: str | None, content: bytes, question: str) -> None:
    piping(content)
    assert question_of(prompt) == question


def test_a_slow_writer_is_waited_for_and_the_wait_is_told(
    pipe: RawIOBase, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(piped, "_REMARK_SECONDS", 0.05)

    def write() -> None:
        time.sleep(0.3)
        pipe.write(b"first ")
        time.sleep(0.1)
        pipe.write(b"second")
        pipe.close()

    writer = threading.Thread(target=write)
    writer.start()
    assert question_of("Hi") == "Hi\n\nfirst second"
    writer.join()
    assert capsys.readouterr().err == "waiting for standard input; there is none with: < /dev/null\n"


def test_a_pipe_that_stays_open_and_silent_holds_nothing_up(
    pipe: RawIOBase, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(piped, "_REMARK_SECONDS", 0.02)
    monkeypatch.setattr(piped, "_MOST_SECONDS", 0.05)
    assert question_of("Hi") == "Hi"
    assert "warning: nothing came through standard input" in capsys.readouterr().err


def test_a_file_adds_to_the_prompt_unless_a_loop_is_reading_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "list"
    path.write_text("one\ntwo\n")
    with path.open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert question_of("Hi") == "Hi\n\none\ntwo\n"
    with path.open() as stream:
        os.lseek(stream.fileno(), 4, os.SEEK_SET)
        monkeypatch.setattr(sys, "stdin", stream)
        assert question_of("Hi") == "Hi"


def test_a_device_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/zero").open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert question_of("Hi") == "Hi"


def test_without_standard_input_there_is_the_prompt_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert (question_of("Hi"), question_of(None)) == ("Hi", "")


def test_a_terminal_asks_for_a_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    main, terminal = os.openpty()
    with os.fdopen(terminal) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert (question_of("Hi"), question_of(None)) == ("Hi", None)
    os.close(main)


def test_lines_that_are_not_utf8_are_read_as_latin1_and_it_is_said(
    piping: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    piping("naïve ".encode() + b"diff\n+caf\xe9\n")
    assert question_of(None) == "naïve diff\n+café\n"
    assert capsys.readouterr().err == (
        "warning: standard input is not UTF-8: byte 0xe9 at 16; 1 of 2 lines is read as Latin-1\n"
    )


def test_an_argument_that_is_not_utf8_is_read_too(
    piping: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    piping(b"")
    assert question_of(os.fsdecode(b"caf\xe9")) == "café"
    assert "the prompt is not UTF-8: byte 0xe9 at 3" in capsys.readouterr().err


def test_what_is_no_text_is_refused(piping: Callable[[bytes], None]) -> None:
    piping("héllo".encode("utf-16"))
    with pytest.raises(UsageError, match="standard input is not UTF-8: byte 0xff at 0") as refused:
        question_of(None)
    assert "iconv" in str(refused.value.hint)


def test_more_than_any_context_holds_is_refused(
    piping: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(piped, "_MOST_BYTES", 10)
    piping(b"x" * 11)
    with pytest.raises(UsageError, match="standard input"):
        question_of("Hi")
