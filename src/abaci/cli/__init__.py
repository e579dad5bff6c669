"""The `abaci` command: one file per verb, each parses, builds and calls. Heavy imports happen inside the verbs."""

import sys


def main() -> None:
    """Entry point of `abaci` and `python -m abaci`."""
    try:
        from abaci.cli.app import app
    except KeyboardInterrupt:
        sys.exit(130)
    app(prog_name="abaci")
