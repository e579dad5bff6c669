"""The machine under the benchmark, for its report."""

import os
import platform

from abaci.bench.report import Machine
from abaci.runtime.machine import processor_name


def describe_machine() -> Machine:
    """As the system tells it."""
    return Machine(
        processor=processor_name(),
        num_processors=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        load_average=os.getloadavg()[0],
    )
