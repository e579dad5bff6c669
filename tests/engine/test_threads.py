"""Which cores a process may use, read from made-up machines."""

import os
import threading

import pytest

from abaci.engine.threads import ThreadPlan, cpu_quota, plan_threads, starting_thread
from abaci.errors import ThreadLimitError, UsageError


def make_machine(root, cores, files=()):
    """A /proc and /sys: `cores` lists for each logical processor its (package, core)."""
    for processor, (package, core) in enumerate(cores):
        write(root, f"sys/devices/system/cpu/cpu{processor}/topology/physical_package_id", str(package))
        write(root, f"sys/devices/system/cpu/cpu{processor}/topology/core_id", str(core))
    for path, text in files:
        write(root, path, text)
    return root


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")


FOUR_CORES_EIGHT_THREADS = [(0, core) for core in (0, 1, 2, 3, 0, 1, 2, 3)]
VERSION_2 = ("proc/self/cgroup", "0::/user/abaci")
VERSION_1 = ("proc/self/cgroup", "4:memory:/\n2:cpu,cpuacct:/docker/x\n0::/")


def test_one_thread_per_physical_core(tmp_path):
    make_machine(tmp_path, FOUR_CORES_EIGHT_THREADS)
    plan = plan_threads(allowed=set(range(8)), root=tmp_path)
    assert plan == ThreadPlan((0, 1, 2, 3), True, "physical cores")


def test_affinity_limits_and_pins(tmp_path):
    make_machine(tmp_path, FOUR_CORES_EIGHT_THREADS)
    assert plan_threads(allowed={1, 5, 6}, root=tmp_path) == ThreadPlan((1, 6), True, "physical cores")


def test_cores_of_two_packages_are_not_confused(tmp_path):
    make_machine(tmp_path, [(0, 0), (0, 1), (1, 0), (1, 1)])
    assert plan_threads(allowed=set(range(4)), root=tmp_path).num_threads == 4


def test_without_topology_every_processor_counts(tmp_path):
    assert plan_threads(allowed={2, 3}, root=tmp_path).cores == (2, 3)


@pytest.mark.parametrize(
    ("files", "quota", "num_threads"),
    [
        ([VERSION_2, ("sys/fs/cgroup/user/abaci/cpu.max", "250000 100000")], 2.5, 2),
        ([VERSION_2, ("sys/fs/cgroup/user/abaci/cpu.max", "50000 100000")], 0.5, 1),
        ([VERSION_2, ("sys/fs/cgroup/user/abaci/cpu.max", "max 100000")], None, 4),
        (
            [
                VERSION_2,
                ("sys/fs/cgroup/user/abaci/cpu.max", "max 100000"),
                ("sys/fs/cgroup/user/cpu.max", "300000 100000"),
            ],
            3.0,
            3,
        ),
        ([VERSION_2, ("sys/fs/cgroup/user/abaci/cpu.max", "900000 100000")], 9.0, 4),
        (
            [
                VERSION_1,
                ("sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us", "200000"),
                ("sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us", "100000"),
            ],
            2.0,
            2,
        ),
        (
            [
                VERSION_1,
                ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1"),
                ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000"),
            ],
            None,
            4,
        ),
    ],
)
def test_a_quota_limits_and_does_not_pin(tmp_path, files, quota, num_threads):
    make_machine(tmp_path, FOUR_CORES_EIGHT_THREADS, files)
    plan = plan_threads(allowed=set(range(8)), root=tmp_path)
    assert cpu_quota(tmp_path) == quota
    assert plan.num_threads == num_threads
    assert plan.is_pinned == (num_threads == 4)


def test_a_request_decides_and_pins_only_when_it_fills_the_cores(tmp_path):
    make_machine(tmp_path, FOUR_CORES_EIGHT_THREADS)
    plans = {n: plan_threads(n, allowed=set(range(8)), root=tmp_path) for n in (1, 4, 6)}
    assert plans[1] == ThreadPlan((0,), False, "request")
    assert plans[4] == ThreadPlan((0, 1, 2, 3), True, "request")
    assert plans[6] == ThreadPlan((0, 1, 2, 3, 4, 5), False, "request")


def test_under_a_quota_not_even_a_request_pins(tmp_path):
    quota = ("sys/fs/cgroup/user/abaci/cpu.max", "150000 100000")
    make_machine(tmp_path, FOUR_CORES_EIGHT_THREADS, [VERSION_2, quota])
    plan = plan_threads(4, allowed=set(range(8)), root=tmp_path)
    assert plan == ThreadPlan((0, 1, 2, 3), False, "request")


def test_a_core_that_is_not_there_is_no_error():
    ThreadPlan((4095,), True, "request").pin_current_thread(0)


@pytest.mark.parametrize("requested", [0, -1, 9])
def test_an_impossible_request_is_refused(tmp_path, requested):
    with pytest.raises(UsageError, match=f"{requested} threads were asked for, and 8 processors are allowed") as raised:
        plan_threads(requested, allowed=set(range(8)), root=tmp_path)
    assert (raised.value.hint or "").startswith("Give 1 to 8,")


def test_pinning_binds_the_calling_thread_only():
    allowed = os.sched_getaffinity(0)
    core = max(allowed)
    bound = []

    def work():
        ThreadPlan((core,), True, "request").pin_current_thread(0)
        bound.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert bound == [{core}]
    assert os.sched_getaffinity(0) == allowed


def test_a_thread_that_cannot_start_says_what_it_was_for():
    with pytest.raises(ThreadLimitError, match="for loading models") as caught, starting_thread("loading models"):
        raise RuntimeError("can't start new thread")
    assert "ulimit -u" in caught.value.hint


def test_other_errors_of_starting_a_thread_stay_as_they_are():
    with pytest.raises(RuntimeError, match="once"), starting_thread("loading models"):
        raise RuntimeError("threads can only be started once")
