"""What tests compile: each configuration in a folder of build/ that is kept, so only the first run compiles it all."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, environment: Mapping[str, str] = os.environ) -> str:
    """What the command printed; fails with the end of it where the command fails."""
    process = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert process.returncode == 0, process.stdout[-10_000:]
    return process.stdout


def built(name: str, *options: str, target: str = "all") -> Path:
    """The folder build/`name`, where the target is up to date. One process at a time builds in it.

    Without options it must have been configured before.
    """
    folder = ROOT / "build" / name
    folder.mkdir(parents=True, exist_ok=True)
    # cmake and ninja come with the tests' own packages.
    environment = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if options:
            run("cmake", "-G", "Ninja", *options, "-S", ROOT, "-B", folder, environment=environment)
        run("cmake", "--build", folder, "--target", target, environment=environment)
    return folder
