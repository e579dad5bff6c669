"""The standard streams made such that verbs can rely on them: they are there, and take any text."""

import codecs
import fcntl
import os
import sys
from typing import TextIO


def prepare_streams() -> None:
    """To be called before any file is opened: the next one would get the number of a standard stream that is closed.

    Where standard output was closed, writing to it raises OSError; where standard error was, remarks go nowhere. A
    character that the encoding of standard output lacks is replaced there.
    """
    for number, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        if _access(number) is None:
            os.open(os.devnull, flags)  # takes the lowest free number; the first two are opened the wrong way round
    if _access(2) == os.O_RDONLY:  # closed, and then taken by a shell for the script that called
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.stdout = sys.stdout or _text_stream(1)
    sys.stderr = sys.stderr or _text_stream(2)
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None and (sys.stdout.errors == "strict" or not takes_any_text(sys.stdout)):
        reconfigure(errors="replace")


def takes_any_text(stream: TextIO) -> bool:
    """Whether every character can be written to it, its encoding being UTF-8."""
    return codecs.lookup(stream.encoding or "utf-8").name == "utf-8"


def _access(number: int) -> int | None:
    """How a descriptor is open, for reading, writing or both; None: it is closed."""
    try:
        return fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
    except OSError:
        return None


def _text_stream(number: int) -> TextIO:
    return open(number, "w", encoding="utf-8", closefd=False)
