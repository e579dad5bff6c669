"""A process that dies at any step or byte, and many at once: the store keeps its promises."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def run(script: str, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, str(HERE / script), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(HERE)])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout.strip()


@pytest.mark.parametrize(
    ("change", "least_deaths"), [("pull", 40), ("pull-cached", 40), ("remove", 8), ("copy", 4), ("prune", 4)]
)
def test_a_process_may_die_anywhere(change: str, least_deaths: int, tmp_path: Path) -> None:
    assert int(run("crashing_store.py", change, str(tmp_path))) >= least_deaths


def test_many_processes_at_once(tmp_path: Path) -> None:
    assert run("crowded_store.py", str(tmp_path)) == "sound"
