"""The `abaci` command: one file per verb, each parses, builds and calls. Heavy imports happen inside the verbs."""

import os
import sys
from typing import NoReturn

from abaci.version import __version__


def main() -> None:
    """Entry point of `abaci` and `python -m abaci`."""
    # Answered before anything is loaded; typer knows the flag for the help.
    if sorted(sys.argv[1:]) in (["--version"], ["--json", "--version"]):
        print(f'{{"version": "{__version__}"}}' if "--json" in sys.argv else f"abaci {__version__}")  # noqa: T201
        return
    # Numpy's own thread pool is never used here, and starting it takes a tenth of a second.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from abaci.cli.app import app

        app(prog_name="abaci")
    except KeyboardInterrupt:
        _leave(130)
    except SystemExit as end:
        _leave(end.code)


def _leave(code: str | int | None) -> NoReturn:
    """End the process at once: taking a loaded model apart, object by object, takes longer than many an answer."""
    exit_code = code if isinstance(code, int) else int(code is not None)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # nobody reads it any more, or there is no room; the verb has said so if it could
            exit_code = exit_code or 1
    os._exit(exit_code)
