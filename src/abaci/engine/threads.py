"""How many threads this process may use, on which cores, and whether to pin them there."""

import os
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from abaci.engine.cgroups import group_folders, read_words
from abaci.errors import ThreadLimitError, UsageError

_ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class ThreadPlan:
    """`cores` has one logical processor per thread, each on a physical core of its own while there are enough."""

    cores: tuple[int, ...]
    is_pinned: bool
    limit: str
    """What decided the number: "physical cores", "cpu quota" or "request"."""

    @property
    def num_threads(self) -> int:
        return len(self.cores)

    def pin_current_thread(self, worker: int) -> None:
        """Bind the calling thread to the core of `worker`, if threads are to be pinned and the system lets us."""
        if self.is_pinned:
            with suppress(OSError):  # a sandbox may forbid it; the thread runs all the same
                os.sched_setaffinity(0, {self.cores[worker]})


def plan_threads(requested: int | None = None, *, allowed: Set[int] | None = None, root: Path = _ROOT) -> ThreadPlan:
    """Threads for this process: the smallest of request, allowed physical cores and whole processors of CPU quota.

    Threads are pinned only where they fill the cores that affinity leaves us. Under a quota, or with fewer threads than
    cores, other processes are meant to share these cores, and two that pinned to the same ones would halve each other.

    `allowed` and `root` are for tests: the affinity mask, and where /proc and /sys are. Raises UsageError for a request
    below 1 or above the logical processors allowed.
    """
    allowed = os.sched_getaffinity(0) if allowed is None else allowed
    physical, siblings = _split_siblings(sorted(allowed), root)
    quota = cpu_quota(root)
    is_short = quota is not None and quota < len(physical)
    if requested is not None:
        if not 1 <= requested <= len(allowed):
            raise UsageError(
                f"{requested} threads were asked for, and {len(allowed)} processors are allowed",
                hint=f"Give 1 to {len(allowed)}, or leave it out: a thread for every core is usual.",
            )
        fills_cores = requested == len(physical) and not is_short
        return ThreadPlan((*physical, *siblings)[:requested], fills_cores, "request")
    if quota is not None and is_short:
        return ThreadPlan(physical[: max(1, int(quota))], False, "cpu quota")
    return ThreadPlan(physical, True, "physical cores")


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Processors that the control groups grant per unit of time; None without a limit."""
    quotas = []
    for folder in group_folders("cpu", root):
        version_2 = read_words(folder / "cpu.max")
        version_1 = read_words(folder / "cpu.cfs_quota_us") + read_words(folder / "cpu.cfs_period_us")
        for words in (version_2, version_1):
            if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
                quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


@contextmanager
def starting_thread(purpose: str) -> Iterator[None]:
    """Python's failure to start a thread for `purpose`, a noun, becomes a ThreadLimitError."""
    try:
        yield
    except RuntimeError as error:
        if "start new thread" not in str(error):
            raise
        raise ThreadLimitError(f"the system does not start a thread for {purpose}") from error


def _split_siblings(processors: list[int], root: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The first processor of each physical core, and the others."""
    first: dict[object, int] = {}
    for processor in processors:
        topology = root / f"sys/devices/system/cpu/cpu{processor}/topology"
        place = (*read_words(topology / "physical_package_id"), *read_words(topology / "core_id"))
        first.setdefault(place or processor, processor)
    physical = tuple(first.values())
    return physical, tuple(processor for processor in processors if processor not in physical)
