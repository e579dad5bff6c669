"""SIGTERM ends a command as it would any process, but nothing half written is left behind."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from golden_models import golden_path

WAITING_AT_THE_END_OF_A_FILE = """
import os, sys, time

def wait(descriptor):
    print("written", flush=True)
    time.sleep(60)

os.fsync = wait
from abaci.cli import main
main()
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "SRC", "made.gguf"],
        ["convert", "SRC", "made"],
        ["quantize", "SRC", "made.gguf", "--type", "f32", "--no-measure", "--allow-requantize", "--threads", "1"],
    ],
)
@pytest.mark.parametrize("num_signals", [1, 2])
def test_nothing_half_written_is_left(tmp_path: Path, arguments: list[str], num_signals: int) -> None:
    source = str(golden_path("qwen2"))
    command = [sys.executable, "-c", WAITING_AT_THE_END_OF_A_FILE]
    with subprocess.Popen(
        [*command, *(source if argument == "SRC" else argument for argument in arguments)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        assert any(path.name.endswith(".part") for path in tmp_path.rglob("*"))
        for _ in range(num_signals):
            process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM
    assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())
