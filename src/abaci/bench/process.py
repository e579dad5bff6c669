"""Contenders in processes of their own, and what the system says of those: memory, and who else was busy."""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Self

from abaci.bench.contender import Description, Options, PythonShare, Settings, Timing
from abaci.bench.protocol import Caller
from abaci.errors import AbaciError
from abaci.tensor import CacheType

_MEMORY_INTERVAL_SECONDS = 0.005
_LAST_WORDS = 400
_BUSY_PROGRAM = "while True: pass"


class ContenderProcess:
    """A Contender in a child process; a context manager, which ends it. Raises AbaciError if it cannot start.

    `environment` is set besides ours.
    """

    def __init__(self, name: str, environment: Mapping[str, str] = MappingProxyType({})) -> None:
        self.name = name
        self.started_seconds = perf_counter()
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "abaci.bench.child", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env={**os.environ, **environment},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._caller = Caller(self._process.stdout, self._process.stdin, self._describe_end)
        try:
            self._caller.call("start")
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

    def open(self, path: str, num_threads: int, kv_type: CacheType = CacheType.F16) -> Description:
        return Description(**self._caller.call("open", path=path, num_threads=num_threads, kv_type=kv_type.value))

    def options(self, num_streams: int, num_new_tokens: int) -> Options:
        options: Options = self._caller.call("options", num_streams=num_streams, num_new_tokens=num_new_tokens)
        return options

    def configure(self, settings: Settings) -> None:
        self._caller.call("configure", settings=dict(settings))

    def prefill(self, token_ids: Sequence[int]) -> Timing:
        return Timing(**self._caller.call("prefill", token_ids=list(token_ids)))

    def decode(self, prompts: Sequence[Sequence[int]], num_tokens: int, limit_seconds: float) -> Timing:
        arguments = {"prompts": [list(prompt) for prompt in prompts], "num_tokens": num_tokens}
        return Timing(**self._caller.call("decode", **arguments, limit_seconds=limit_seconds))

    def first_token(self, path: str, num_threads: int) -> float:
        return float(self._caller.call("first_token", path=path, num_threads=num_threads))

    def python_share(self) -> PythonShare:
        """Only for this engine."""
        return PythonShare(**self._caller.call("python_share"))

    def close(self) -> None:
        """End the process. Idempotent."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _describe_end(self) -> AbaciError:
        code = self._process.wait()
        self._errors.seek(0)
        last_words = self._errors.read()[-_LAST_WORDS:].strip()
        return AbaciError(f"the process of {self.name} ended with code {code}", hint=last_words or None)


@contextmanager
def busy_process(processor: int) -> Iterator[None]:
    """A process that does nothing but keep a processor busy, bound to it."""
    process = subprocess.Popen([sys.executable, "-c", _BUSY_PROGRAM])
    try:
        os.sched_setaffinity(process.pid, {processor})
        yield
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True, slots=True)
class MemoryPeak:
    """Most resident memory that a process had. The parts peak at different times, so they may add up to more."""

    total_bytes: int
    anonymous_bytes: int
    file_backed_bytes: int


class MemoryWatch:
    """Looks at a process's memory every few milliseconds. A context manager; `peak` is valid afterwards."""

    def __init__(self, process_id: int) -> None:
        self._status = Path(f"/proc/{process_id}/status")
        self._peaks: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    @property
    def peak(self) -> MemoryPeak:
        peaks = self._peaks
        return MemoryPeak(
            peaks.get("VmHWM", 0), peaks.get("RssAnon", 0), peaks.get("RssFile", 0) + peaks.get("RssShmem", 0)
        )

    def _watch(self) -> None:
        while not self._stop.wait(_MEMORY_INTERVAL_SECONDS):
            self._look()

    def _look(self) -> None:
        try:
            text = self._status.read_text()
        except OSError:
            return  # it has ended
        for name, num_bytes in memory_of_status(text).items():
            self._peaks[name] = max(self._peaks.get(name, 0), num_bytes)


def memory_of_status(text: str) -> dict[str, int]:
    """The memory lines of a /proc/PID/status, in bytes."""
    fields = (line.split() for line in text.splitlines() if line.startswith(("VmHWM:", "Rss")))
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in fields}


class Neighbours:
    """How much of this machine others took since this was made: other people's processes, and the hypervisor."""

    def __init__(self) -> None:
        self._machine = _machine_seconds()
        self._own = _own_seconds()
        self._begin = perf_counter()

    def share(self) -> float:
        """Of all processors' time, 0 to 1."""
        available = (perf_counter() - self._begin) * (os.cpu_count() or 1)
        taken = (_machine_seconds() - self._machine) - (_own_seconds() - self._own)
        return min(1.0, max(0.0, taken / available))


def _machine_seconds() -> float:
    """Processor time in use since the machine started, all of it, stolen time too (proc(5): fields of "cpu")."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, interrupts, soft_interrupts, stolen = map(int, words[:8])
    return (user + nice + system + interrupts + soft_interrupts + stolen) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """Processor time of this process and of all that descend from it, living and gone."""
    return sum(os.times()[:4]) + sum(map(_seconds_of, descendants(os.getpid())))


def descendants(process_id: int) -> Iterator[int]:
    """Living children of a process, theirs and so on: some servers compute in processes of their own."""
    for task in Path(f"/proc/{process_id}/task").glob("*/children"):
        with suppress(OSError):  # it has ended
            for child in map(int, task.read_text().split()):
                yield child
                yield from descendants(child)


def _seconds_of(process_id: int) -> float:
    try:
        after_name = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    own_and_childrens_ticks = map(int, after_name[11:15])  # of children those that have ended
    return sum(own_and_childrens_ticks) / os.sysconf("SC_CLK_TCK")
