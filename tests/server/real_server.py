"""`abaci serve` as a process of its own, with real weights, as users run it."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

START_SECONDS = 60.0
END_SECONDS = 30.0

_URL = re.compile(r"chat: (https?://\S+?)/ ")


class RealServer:
    """A running server process. `environment` has settings as `ABACI_...`."""

    def __init__(
        self,
        model: Path,
        state_dir: Path,
        *,
        port: int = 0,
        max_file_bytes: int | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._command = [sys.executable, "-m", "abaci", "serve", str(model), "--port", str(port)]
        if max_file_bytes is not None:  # as on a full disk
            self._command = ["prlimit", f"--fsize={max_file_bytes}", *self._command]
        self._environment = {
            **os.environ,
            "ABACI_STATE_DIR": str(state_dir),
            "ABACI_CONTEXT": "2048",
            **(environment or {}),
        }
        self._is_ready = threading.Event()
        self.url = ""
        self.log: list[str] = []
        """Everything it said so far."""

    def start(self) -> None:
        """Until it takes requests."""
        self.process = subprocess.Popen(self._command, env=self._environment, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._is_ready.wait(START_SECONDS)
        assert self.url, "".join(self.log)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Until it has ended; its exit code."""
        return self.process.wait(END_SECONDS)

    def kill(self) -> None:
        """End it at once, whatever it is doing."""
        self.process.kill()
        self.process.wait(END_SECONDS)
        self._reader.join(END_SECONDS)
        assert self.process.stderr is not None
        self.process.stderr.close()
        sys.stdout.write("".join(self.log))  # which pytest shows if the test failed

    def client(self, **options: Any) -> httpx.Client:
        """A client of it."""
        return httpx.Client(base_url=self.url, timeout=60.0, trust_env=False, **options)

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        with self.client() as client:
            lines = client.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))

    def _read(self) -> None:
        assert self.process.stderr is not None
        with contextlib.suppress(ValueError):  # closed under our feet at the end
            for line in self.process.stderr:
                self.log.append(line)
                if match := _URL.search(line):
                    self.url = match[1]
                    self._is_ready.set()
        self._is_ready.set()


@contextlib.contextmanager
def real_server(model: Path, state_dir: Path, **options: Any) -> Iterator[RealServer]:
    """A server for as long as the context lasts."""
    server = RealServer(model, state_dir, **options)
    server.start()
    try:
        yield server
    finally:
        server.kill()
