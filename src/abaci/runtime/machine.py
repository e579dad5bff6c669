"""The machine under the engine: its name, and how to measure in this process on its processors."""

import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from abaci.engine.threads import ThreadPlan, starting_thread
from abaci.kernels.native import ThreadPool, thread_pool

T = TypeVar("T")


def on_pool(plan: ThreadPlan, work: Callable[[ThreadPool], T]) -> T:
    """Run `work` with the pool of these processors, on a thread of its own: pinned, and gone afterwards.

    Children started later thus inherit nothing of the pinning.
    """

    def run() -> T:
        plan.pin_current_thread(0)
        return work(thread_pool(plan.num_threads, plan.cores if plan.is_pinned else ()))

    with ThreadPoolExecutor(1) as executor:
        with starting_thread("measurements"):
            measuring = executor.submit(run)
        return measuring.result()


def processor_name() -> str:
    """As the system tells it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
