"""What comes through standard input: joined to a prompt, and made text. Knows no model and no flag."""

import os
import select
import stat
import sys
from io import UnsupportedOperation

from abaci.cli.terminal import print_line, print_remark
from abaci.errors import UsageError

_MOST_BYTES = 64 << 20
"""No model's context holds the tokens of so much text."""
_REMARK_SECONDS = 2.0
_MOST_SECONDS = 30.0
_WAITING = "waiting for standard input; there is none with: < /dev/null"


def question_of(prompt: str | None) -> str | None:
    """The prompt, a blank line, and what is piped in; one of them where the other is missing; else None.

    None: standard input is a terminal and there is no prompt. A pipe that stays open without a word, as a program that
    starts this one may leave it, does not hold back a prompt for ever. Raises UsageError.
    """
    asked = None if prompt is None else _text(os.fsencode(prompt), "the prompt")
    if sys.stdin is None:
        return asked or ""
    if sys.stdin.isatty() or (asked is not None and not (_may_add() and _speaks())):
        return asked
    piped = _text(_all_bytes(), "standard input")
    if asked is None:
        return piped
    return f"{asked}\n\n{piped}" if piped.strip() else asked


def _may_add() -> bool:
    """Whether it is a pipe, a socket or a file: a device such as /dev/null adds nothing to a prompt.

    Nor does a file of which something has been read: it is the list that a loop of the shell goes through.
    """
    try:
        descriptor = sys.stdin.fileno()
    except UnsupportedOperation:  # a stand-in without one
        return False
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.lseek(descriptor, 0, os.SEEK_CUR) == 0
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _speaks() -> bool:
    """Whether there is something to read within reasonable time, be it the end."""
    if _is_readable(_REMARK_SECONDS):
        return True
    print_remark(_WAITING)
    if _is_readable(_MOST_SECONDS - _REMARK_SECONDS):
        return True
    print_line(f"warning: nothing came through standard input in {_MOST_SECONDS:.0f} s; the prompt is asked without it")
    return False


def _is_readable(seconds: float) -> bool:
    return bool(select.select([sys.stdin.fileno()], [], [], seconds)[0])


def _all_bytes() -> bytes:
    content = sys.stdin.buffer.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise UsageError(
            f"more than {_MOST_BYTES >> 20} MiB come through standard input", hint="Give a part of it, as with: head"
        )
    return content


def _text(content: bytes, place: str) -> str:
    """As UTF-8; a line that is not, as Latin-1, with a warning. Line ends become line feeds."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        text = _mixed_text(content, place, error.start)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _mixed_text(content: bytes, place: str, first_wrong: int) -> str:
    where = f"{place} is not UTF-8: byte {content[first_wrong]:#04x} at {first_wrong}"
    if b"\0" in content:
        raise UsageError(where, hint="It is no text, or UTF-16, which can be converted: iconv -f utf-16 -t utf-8")
    lines = content.splitlines(keepends=True)
    texts = [_utf8_or_none(line) for line in lines]
    num_wrong = texts.count(None)
    print_line(
        f"warning: {where}; {num_wrong} of {len(lines)} lines {'is' if num_wrong == 1 else 'are'} read as Latin-1"
    )
    return "".join(line.decode("latin-1") if text is None else text for line, text in zip(lines, texts, strict=True))


def _utf8_or_none(line: bytes) -> str | None:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return None
