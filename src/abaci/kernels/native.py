"""The native executor: packs a model's weights, records its decoder into a C++ step program, runs steps.

Numpy only moves data here; every number is computed in csrc.
"""

import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abaci.errors import FileFormatError, ThreadLimitError, UsageError
from abaci.kernels import _native
from abaci.kernels.batch import BIAS, HISTORY, LOGIT_ROW, PAGE_TOKENS, StepBatch, StepOutput
from abaci.kernels.emitting import Emitter
from abaci.kernels.packed_store import KeptWeights
from abaci.kernels.packing import DAMAGED_HINT, PackedWeights, no_memory
from abaci.kernels.weights import TensorSource
from abaci.models.spec import ModelSpec
from abaci.tensor import CacheType

TARGET_VARIABLE = "ABACI_TARGET"
"""Environment variable that forces an instruction set."""

_CACHE_NUMBERS = {cache_type: number for number, cache_type in enumerate(CacheType)}

ThreadPool = _native.ThreadPool


def targets() -> list[str]:
    """Instruction sets this processor can run, best first."""
    return _native.targets()


def choose_target(name: str | None = None) -> str:
    """`name`, else what ABACI_TARGET says, else the best. Raises UsageError for one this processor lacks."""
    wanted = name or os.environ.get(TARGET_VARIABLE) or targets()[0]
    if wanted not in targets():
        raise UsageError(
            f"this processor cannot run the target {wanted!r}", hint=f"Choose one of: {', '.join(targets())}."
        )
    return wanted


def thread_pool(num_threads: int, processors: tuple[int, ...] = ()) -> ThreadPool:
    """The process's one pool for these processors; models share it. Empty `processors`: threads are not pinned.

    A forked child gets a pool of its own, as none of its parent's threads live in it. Raises ThreadLimitError.
    """
    return _pool_of_process(os.getpid(), num_threads, processors)


@cache
def _pool_of_process(process_id: int, num_threads: int, processors: tuple[int, ...]) -> ThreadPool:
    return start_pool(num_threads, processors)


def start_pool(num_threads: int, processors: tuple[int, ...] = ()) -> ThreadPool:
    """A pool that nobody shares. Raises ThreadLimitError where the system refuses its threads, and ResourceError."""
    try:
        return ThreadPool(num_threads, processors)
    except MemoryError as error:
        raise no_memory("the threads that compute", error) from error
    except RuntimeError as error:  # of the system: all that is wrong with what is asked for is a ValueError
        raise ThreadLimitError(f"the system does not start {num_threads} threads that compute: {error}") from error


def pin_current_thread(processor: int) -> bool:
    """Bind the calling thread to a processor; False where the system refuses."""
    return _native.pin_current_thread(processor)


class NativeExecutor:
    """Runs steps of one model (`kernels.batch.Executor`).

    Packs every tensor that `spec` names, one after another, letting go of the source's pages as it goes;
    `progress(bytes packed, bytes in all)` is called after each. With `kept`, what was packed once is mapped.
    With `observes`, squares of every matrix's inputs are added up.
    Keys and values are kept as `cache_type`.
    Weights that memory does not hold `must_map`. Raises FileFormatError for scales that are not finite, ResourceError
    where memory is short, or the disk for weights that must be mapped.
    """

    def __init__(
        self,
        spec: ModelSpec,
        source: TensorSource,
        *,
        max_step_tokens: int,
        pool: ThreadPool,
        target: str | None = None,
        progress: Callable[[int, int], None] | None = None,
        kept: KeptWeights | None = None,
        must_map: bool = False,
        observes: bool = False,
        cache_type: CacheType = CacheType.F16,
    ) -> None:
        _check_layout()
        self.spec = spec
        self.target = choose_target(target)
        self._groups = spec.cache_groups()
        self._weights = PackedWeights(spec, source, pool, progress, kept, must_map=must_map)
        self._no_top = np.empty(0, np.int32), np.empty(0, np.float32)
        try:
            program = _native.StepProgram(
                pool,
                self.target,
                max_step_tokens,
                spec.vocab_size,
                [group.window or 0 for group in self._groups],
                _CACHE_NUMBERS[cache_type],
            )
            emitter = Emitter(program, spec, self._weights, observes)
            emitter.emit()
        except MemoryError as error:
            raise no_memory("the workspace of a step", error) from error
        self._program: _native.StepProgram | None = program
        self._observations = emitter.observations

    def observed(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]:
        """Of all steps so far, by matrix: sums of squares of its inputs, (experts, columns), and rows that each saw.

        Plain matrices have one row of sums. The output and what multiplies head by head are not observed.
        """
        program = self._running()
        return {name: program.observed(index) for name, index in self._observations.items()}

    def kernels(self) -> Mapping[str, str]:
        """For each weight format of the model's matrices, the kernel that runs it."""
        kernels = {
            weight_format.label: f"{self.target} {'int8' if weight_format.is_quantised else 'float'}"
            for weight_format in sorted(self._weights.formats, key=lambda weight_format: weight_format.label)
        }
        for rows in self._weights.file_tables.values():
            kernels.setdefault(rows.format.label, "rows from the file")
        return kernels

    def page_bytes(self, group: int) -> int:
        """Bytes that one page of a cache group takes, all its layers together."""
        return self._running().page_bytes(group)

    def workspace_bytes(self) -> int:
        """Bytes of activations and cache, as reserved."""
        return self._running().workspace_bytes()

    @property
    def weight_bytes(self) -> int:
        """Bytes of packed weights."""
        return self._weights.num_bytes

    @property
    def weights_are_mapped(self) -> bool:
        """Whether they are pages of a file, which the system counts as available."""
        return self._weights.are_mapped

    @property
    def state_bytes(self) -> int:
        """Bytes of one sequence's state, all layers that have one together."""
        return self._running().state_bytes()

    def allocate_cache(self, num_pages: tuple[int, ...], num_states: int = 0) -> None:
        """Make room for that many pages per group and that many states; once, before the first step."""
        try:
            self._running().allocate_cache(num_pages, num_states)
        except MemoryError as error:
            raise no_memory("the key-value cache", error) from error

    def step(self, batch: StepBatch) -> StepOutput:
        """Run one step.

        Raises ValueError for a batch whose arrays contradict each other, the model or the cache; FileFormatError for a
        row of the embedding that cannot be read from its file or is damaged there.
        """
        rows = len(batch.logit_rows)
        token_ids = np.empty(rows, np.int32)
        logprobs = np.empty(rows, np.float32)
        widest = int(batch.logit_rows["num_top"].max()) if rows else 0
        if widest > 0:
            top_ids = np.full((rows, widest), -1, np.int32)
            top_logprobs = np.full((rows, widest), -np.inf, np.float32)
        else:
            top_ids, top_logprobs = np.empty((rows, 0), np.int32), np.empty((rows, 0), np.float32)
        hidden = np.empty((len(batch.hidden_rows), self.spec.hidden_size), np.float32)
        try:
            self._running().step(
                batch.token_ids,
                batch.sequence_offsets,
                batch.first_positions,
                batch.page_tables,
                batch.logit_rows,
                batch.history,
                batch.bias,
                batch.masks,
                token_ids,
                logprobs,
                top_ids,
                top_logprobs,
                batch.hidden_rows,
                hidden,
                batch.states,
            )
        except RuntimeError as error:  # nothing else fails inside a step than reading the file
            raise FileFormatError(str(error), hint=DAMAGED_HINT) from error
        return StepOutput(token_ids, logprobs, top_ids, top_logprobs, hidden)

    def close(self) -> None:
        """Release weights and cache."""
        self._program = None
        self._weights.clear()

    def _running(self) -> _native.StepProgram:
        if self._program is None:
            raise ValueError("the executor is closed")
        return self._program


def _check_layout() -> None:
    """The arrays of `batch` are read by C++ as structs: both sides must agree byte for byte."""
    sizes: dict[str, tuple[int, Any]] = {
        "LOGIT_ROW": (_native.LOGIT_ROW_BYTES, LOGIT_ROW.itemsize),
        "HISTORY": (_native.HISTORY_BYTES, HISTORY.itemsize),
        "BIAS": (_native.BIAS_BYTES, BIAS.itemsize),
        "PAGE_TOKENS": (_native.PAGE_TOKENS, PAGE_TOKENS),
    }
    for name, (compiled, declared) in sizes.items():
        assert compiled == declared, f"{name}: the extension has {compiled}, Python {declared}; rebuild it"
