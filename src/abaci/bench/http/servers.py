"""Servers as processes of ours: started, found, stopped while others are measured, ended.

Each is a command line that listens on loopback; how it is written is all that is known of a server.
"""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from abaci.bench.http.generator import Address, Run, run_load
from abaci.bench.http.workloads import Load
from abaci.bench.process import descendants
from abaci.errors import AbaciError, UsageError

OWN_NAME = "abaci"
_HOST = "127.0.0.1"
_START_SECONDS = 600.0
_POLL_SECONDS = 0.1
_END_SECONDS = 10.0
_STOP_SECONDS = 10.0
_STOP_POLL_SECONDS = 0.002
_LAST_WORDS = 600
_CACHE_GIBIBYTES = 2
_CONTEXT_TOKENS = 4096
_URL = re.compile(rf"http://{re.escape(_HOST)}:(\d+)")


@dataclass(frozen=True, slots=True)
class Plan:
    """What servers are to serve, alike for all."""

    model_path: Path
    num_threads: int
    num_streams: int
    """At most at a time."""
    pythons: Mapping[str, Path]
    """Interpreters of servers that live in an environment of their own."""
    model_paths: Mapping[str, Path]
    """Models of servers that cannot read `model_path`: the same weights in another format."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How a server is started. It prints its URL."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def describe(self) -> str:
        """As one would type it."""
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        return " ".join([*settings, *self.command])


def launch_of(name: str, plan: Plan, state_folder: Path) -> Launch:
    """The command of a server by its name. Raises UsageError for one that is not known."""
    match name:
        case "abaci":
            return _abaci(plan, state_folder)
        case "llama.cpp" | "openvino":
            return _adapter(name, plan)
        case "vllm":
            return _vllm(plan)
    raise UsageError(f"no server is called {name}", hint="Choose one of: llama.cpp, openvino, vllm.")


def _abaci(plan: Plan, state_folder: Path) -> Launch:
    command = [sys.executable, "-m", "abaci", "serve", str(plan.model_paths.get(OWN_NAME, plan.model_path))]
    command += ["--port", "0", "--threads", str(plan.num_threads), "--state-dir", str(state_folder)]
    return Launch(OWN_NAME, tuple(command))


def _adapter(name: str, plan: Plan) -> Launch:
    python = str(plan.pythons.get(name, sys.executable))
    model_path = str(plan.model_paths.get(name, plan.model_path))
    command = [python, "-m", "abaci.bench.http.adapter", name, model_path]
    command += ["--threads", str(plan.num_threads), "--streams", str(plan.num_streams)]
    return Launch(name, (*command, "--context", str(_CONTEXT_TOKENS)))


def _vllm(plan: Plan) -> Launch:
    model_path = plan.model_paths.get("vllm", plan.model_path)
    if not model_path.is_dir():
        raise UsageError(
            f"vllm does not read {model_path.name}",
            hint="--model-for vllm=FOLDER names the same model as safetensors.",
        )
    python = plan.pythons.get("vllm", Path(sys.executable))
    command = [str(python), "-m", "vllm.entrypoints.cli.main", "serve", str(model_path)]
    command += ["--host", _HOST, "--port", str(_free_port()), "--dtype", "bfloat16"]
    command += ["--max-model-len", str(_CONTEXT_TOKENS), "--max-num-seqs", str(plan.num_streams)]
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": str(_CACHE_GIBIBYTES),
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return Launch("vllm", tuple(command), environment)


def _free_port() -> int:
    """For a server that cannot say which port it was given."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class ServerProcess:
    """A running server; a context manager, which ends it and all it started. Raises AbaciError if it does not come up.

    It is ready when it lists its model.
    """

    def __init__(self, launch: Launch) -> None:
        self.name = launch.name
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        environment = {**os.environ, **launch.environment, "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            launch.command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, env=environment
        )
        try:
            self.address = self._find()
            self._stop()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def process_id(self) -> int:
        return self._process.pid

    def run(self, load: Load) -> Run:
        """Hold a load's conversations with it. Before and after it is stopped: it takes nothing of the others' time."""
        _send(self._family(), signal.SIGCONT)
        try:
            return run_load(self.address, load)
        finally:
            self._stop()

    def close(self) -> None:
        """End it. Idempotent."""
        family = self._family() if self._process.poll() is None else []
        self._process.terminate()
        _send(family, signal.SIGCONT)
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _send(family[1:], signal.SIGKILL)  # children that it left behind
        self._log.close()

    def _find(self) -> Address:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise self._failed(f"ended with code {self._process.returncode}")
            match = _URL.search(self._read_log())
            if match is not None and (model := _first_model(urlsplit(match[0]).port or 0)) is not None:
                return Address(_HOST, int(match[1]), model)
            time.sleep(_POLL_SECONDS)
        raise self._failed(f"did not answer within {_START_SECONDS:g} s")

    def _failed(self, what: str) -> AbaciError:
        return AbaciError(f"the server of {self.name} {what}", hint=self._read_log()[-_LAST_WORDS:].strip() or None)

    def _read_log(self) -> str:
        # pread, since the server writes at the position that reading would move
        return os.pread(self._log.fileno(), 1 << 20, 0).decode(errors="replace")

    def _family(self) -> list[int]:
        """Itself, then all it has started."""
        return [self._process.pid, *descendants(self._process.pid)]

    def _stop(self) -> None:
        """Returns when the last of its threads stands still: one that runs stops a little after the signal."""
        family = self._family()
        _send(family, signal.SIGSTOP)
        deadline = time.monotonic() + _STOP_SECONDS
        while any(_runs(process_id) for process_id in family):
            if time.monotonic() > deadline:
                raise AbaciError(
                    f"the server of {self.name} did not stop within {_STOP_SECONDS:g} s",
                    hint="It waits for a disk or a driver; measure it when the machine is less busy.",
                )
            time.sleep(_STOP_POLL_SECONDS)


def _first_model(port: int) -> str | None:
    """What the server calls its model; None while it does not answer."""
    connection = http.client.HTTPConnection(_HOST, port, timeout=5)
    try:
        connection.request("GET", "/v1/models")
        response = connection.getresponse()
        if response.status != 200:
            return None
        name: str = json.load(response)["data"][0]["id"]
        return name
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _runs(process_id: int) -> bool:
    """Whether a thread of it is neither stopped nor ended."""
    for thread in Path(f"/proc/{process_id}/task").glob("*/stat"):
        with suppress(OSError):  # that thread has ended
            if thread.read_text().rpartition(")")[2].split()[0] not in "TtZX":
                return True
    return False


def _send(process_ids: list[int], number: signal.Signals) -> None:
    for process_id in process_ids:
        with suppress(ProcessLookupError):
            os.kill(process_id, number)
