"""The pool of threads at the ends of what it is asked for: many phases, large steps, forks, threads refused."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from packing import packed_matrix

from abaci.kernels import _native, native
from abaci.tensor import WeightFormat

Floats = NDArray[np.float32]

SILU = 0
SECONDS = 60


class Recorded:
    """A step program whose tokens are rows of a table, as it is written; `run` gives what stands in a slot."""

    def __init__(self, table: Floats, max_tokens: int) -> None:
        matrix = packed_matrix(WeightFormat.F32, *table.shape, table.view(np.uint8))
        assert matrix is not None
        self._table, (self._num_rows, self._columns) = matrix, table.shape
        self.program = _native.StepProgram(native.thread_pool(2), native.targets()[0], max_tokens, self._num_rows, [0])

    def embedded(self, rows_per_token: int = 1) -> int:
        slot = self.program.add_slot(self._columns, rows_per_token)
        self.program.embed(self._table, 1.0, slot)
        return slot

    def run(self, slot: int, token_ids: NDArray[np.int32], rows: list[int]) -> Floats:
        program = self.program
        program.head(slot, self._table, None)
        program.add_cache_layer(0, 1, 32, True)
        program.allocate_cache([1])
        pages = np.zeros((1, -(-len(token_ids) // _native.PAGE_TOKENS)), np.int32)
        offsets, first = np.array([0, len(token_ids)], np.int32), np.zeros(1, np.int32)
        hidden = np.empty((len(rows), self._columns), np.float32)
        none = np.empty(0, np.int32)
        program.step(
            token_ids, offsets, first, (pages,), none, none, none, none, none, none, none, none,
            np.array(rows, np.int32), hidden, none,
        )  # fmt: skip
        return hidden


def test_a_program_may_have_any_number_of_phases() -> None:
    num_additions = 9_000  # more than twice the phases that a pool has room for
    recorded = Recorded(np.ones((2, 32), np.float32), max_tokens=1)
    one, total = recorded.embedded(), recorded.embedded()
    for _ in range(num_additions):
        recorded.program.add(total, one, total)
    assert recorded.run(total, np.zeros(1, np.int32), [0]).tolist() == [[1.0 + num_additions] * 32]


def test_the_gated_activation_takes_any_number_of_rows() -> None:
    num_tokens, rows_per_token = 65_536, 17  # more rows than the pool can tell pieces apart
    recorded = Recorded(np.ones((2, 32), np.float32), num_tokens)
    slot = recorded.embedded(rows_per_token)
    recorded.program.gated(slot, slot, 0, slot, SILU, False)
    found = recorded.run(slot, np.zeros(num_tokens, np.int32), [0, num_tokens // 2, num_tokens - 1])
    ones = np.ones(32, np.float32)
    expected = _native.Kernels(native.targets()[0]).gated(ones, ones, SILU)
    assert found.tolist() == [expected.tolist()] * 3


@pytest.mark.parametrize("num_tokens", [1, 5, 40])
def test_the_gated_activation_treats_every_part_of_every_row(num_tokens: int) -> None:
    table = np.random.default_rng(num_tokens).normal(size=(num_tokens, 2_528)).astype(np.float32)
    recorded = Recorded(table, num_tokens)
    slot = recorded.embedded()
    recorded.program.gated(slot, slot, 0, slot, SILU, False)
    rows = list(range(num_tokens))
    found = recorded.run(slot, np.array(rows, np.int32), rows)
    kernels = _native.Kernels(native.targets()[0])
    assert found.tolist() == [kernels.gated(row, row, SILU).tolist() for row in table]


def run(script: str) -> str:
    """What a process of its own printed, which must end well."""
    process = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout
    return process.stdout


FORKING = """
import os, sys, time, threading
import numpy as np
from abaci.kernels import _native, native

def quantise(pool, rows=64):
    values = np.ones((rows, 4096), np.float32)
    return _native.quantise_weights(pool, native.targets()[0], "Q8_0", values, None).tobytes()

def in_child(work):
    child = os.fork()
    if child == 0:
        work()
        sys.exit(7)  # and not os._exit: objects of the parent's are destroyed as well
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

pool = native.thread_pool(3)
expected = quantise(pool)
"""


def test_a_forked_child_computes_with_threads_of_its_own() -> None:
    script = """
def child():
    before = len(os.listdir("/proc/self/task"))
    assert quantise(native.thread_pool(3)) == expected
    assert len(os.listdir("/proc/self/task")) == before + 2
    assert native.thread_pool(3) is native.thread_pool(3)

in_child(child)
assert native.thread_pool(3) is pool
assert quantise(pool) == expected
"""
    run(FORKING + script)


def test_a_child_forked_while_the_pool_works_does_not_wait_for_it() -> None:
    script = """
stop = threading.Event()
def work():
    while not stop.is_set():
        quantise(pool, 2048)

def child():
    assert quantise(native.thread_pool(3)) == expected

worker = threading.Thread(target=work)
worker.start()
for _ in range(10):
    time.sleep(0.02)
    in_child(child)
stop.set()
worker.join()
"""
    run(FORKING + script)


def test_the_parents_pool_is_refused_in_a_child() -> None:
    script = """
def child():
    try:
        quantise(pool)
    except ValueError as error:
        assert "forked child" in str(error)
    else:
        raise AssertionError("it ran")

in_child(child)
"""
    run(FORKING + script)


def test_the_childs_threads_are_not_taken_for_those_of_the_parents_pool() -> None:
    """The child's threads may get the identities that the parent's had."""
    script = """
def child():
    global pool
    own = native.start_pool(3)
    expected = quantise(own)
    native._pool_of_process.cache_clear()
    del pool
    assert quantise(own) == expected
    del own

in_child(child)
"""
    run(FORKING + script)


def test_threads_that_the_system_refuses_are_an_error_that_says_what_to_do() -> None:
    script = """
import resource
from abaci.errors import ResourceError
from abaci.kernels import native

pages = int(open("/proc/self/statm").read().split()[0])
room = pages * resource.getpagesize() + (96 << 20)  # for some stacks of threads, not for all
limit = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (room, limit[1]))
try:
    native.thread_pool(256)
except ResourceError as error:
    resource.setrlimit(resource.RLIMIT_AS, limit)
    print(type(error).__name__, error, error.hint)
assert native.thread_pool(2).num_threads == 2
"""
    printed = run(script)
    assert "ThreadLimitError" in printed
    assert "256 threads" in printed
    assert "ulimit -u" in printed
