"""Stands for pip: `download` copies wheels from the folder in SCRIPTED_PIP, `config list` gives its `config`."""

import os
import shutil
import sys
from pathlib import Path


def main() -> None:
    folder = Path(os.environ["SCRIPTED_PIP"])
    if sys.argv[1:] == ["config", "list"]:
        sys.stdout.write((folder / "config").read_text())
        return
    assert sys.argv[1] == "download"
    assert {"--only-binary=:all:", "--no-deps"} <= set(sys.argv)
    with (folder / "asked").open("a") as log:
        log.write(sys.argv[-1] + "\n")
    wheel = folder / f"{sys.argv[-1]}.whl"
    if not wheel.exists():
        sys.exit(f"WARNING: trying again\nERROR: no matching distribution for {sys.argv[-1]}")
    temporary = Path(os.environ["TMPDIR"]) / "fetched.whl"
    shutil.copy(wheel, temporary)
    shutil.move(temporary, Path(sys.argv[sys.argv.index("--dest") + 1]) / "part-1.0-py3-none-any.whl")


main()
