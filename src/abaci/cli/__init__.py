"""The `abaci` command: one file per verb, each parses, builds and calls. Heavy imports happen inside the verbs."""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from abaci.cli.streams import prepare_streams
from abaci.version import __version__


class _Terminated(SystemExit):
    """SIGTERM as an exception: what is under way cleans up. Event loops let a SystemExit through, and no other."""


def main() -> None:
    """Entry point of `abaci` and `python -m abaci`."""
    prepare_streams()
    # Answered before anything is loaded; typer knows the flag for the help.
    if sorted(sys.argv[1:]) in (["--version"], ["--json", "--version"]):
        print(f'{{"version": "{__version__}"}}' if "--json" in sys.argv else f"abaci {__version__}")  # noqa: T201
        _leave(0)
    # Numpy's own thread pool is never used here, and starting it takes a tenth of a second.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminated)
    try:
        from abaci.cli.app import app

        app(prog_name="abaci")
    except KeyboardInterrupt:
        _leave(130)
    except _Terminated:
        _die_of(signal.SIGTERM)
    except SystemExit as end:
        _leave(end.code)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # `timeout` sends it twice; cleaning up is not interrupted
    raise _Terminated


def _die_of(number: signal.Signals) -> NoReturn:
    """As if it had never been caught: who sent the signal looks for that."""
    _flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)


def _leave(code: str | int | None) -> NoReturn:
    """End the process at once: taking a loaded model apart, object by object, takes longer than many an answer."""
    exit_code = code if isinstance(code, int) else int(code is not None)
    is_flushed = _flush()
    os._exit(exit_code or int(not is_flushed))


def _flush() -> bool:
    is_flushed = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # nobody reads it any more, or there is no room; the verb has said so if it could
            is_flushed = False
    return is_flushed
