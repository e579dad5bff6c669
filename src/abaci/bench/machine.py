"""The machine under the benchmark: what it is, and how to measure in this process on its processors."""

import os
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from abaci.bench.report import Machine
from abaci.engine.threads import ThreadPlan
from abaci.kernels.native import ThreadPool, thread_pool

T = TypeVar("T")


def describe_machine() -> Machine:
    """As the system tells it."""
    return Machine(
        processor=_processor_name(),
        num_processors=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        load_average=os.getloadavg()[0],
    )


def on_pool(plan: ThreadPlan, work: Callable[[ThreadPool], T]) -> T:
    """Run `work` with the pool of these processors, on a thread of its own: pinned, and gone afterwards.

    Children started later thus inherit nothing of the pinning.
    """

    def run() -> T:
        plan.pin_current_thread(0)
        return work(thread_pool(plan.num_threads, plan.cores if plan.is_pinned else ()))

    with ThreadPoolExecutor(1) as executor:
        return executor.submit(run).result()


def _processor_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
