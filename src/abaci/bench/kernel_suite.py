"""The suite of matrix kernels: every weight format, instruction set and number of rows, on random weights."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from abaci.bench.machine import describe_machine
from abaci.bench.process import Neighbours
from abaci.bench.report import KernelFigure, KernelReport
from abaci.engine.threads import plan_threads
from abaci.formats.gguf import GgufCheckpoint
from abaci.kernels import _native
from abaci.kernels.ceilings import Ceilings, measure_ceilings, measure_int8_peak, measure_read_bandwidth
from abaci.kernels.random_weights import pack_random
from abaci.runtime.machine import on_pool
from abaci.tensor import WeightFormat

SHAPES = ((4864, 896), (896, 4864), (151936, 896))
"""(rows, columns) of a small model's projections, and of its head."""
NUM_ROWS = (1, 4, 16, 128, 512)
_STREAMED_ROWS = 4
"""Up to so many rows the weights must come from memory, as they do in a model."""
_STREAMED_BYTES = 768 << 20
_SAMPLES = 5
_SAMPLE_SECONDS = 0.05
_LONGEST_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class KernelPlan:
    """What to measure."""

    targets: tuple[str, ...]
    formats: tuple[WeightFormat, ...]
    shapes: tuple[tuple[int, int], ...] = SHAPES


def full_plan() -> KernelPlan:
    """Every instruction set that this processor can run, and every format."""
    return KernelPlan(tuple(_native.targets()), tuple(WeightFormat))


def quick_plan(plan: KernelPlan) -> KernelPlan:
    """Of these, the best instruction set alone."""
    return replace(plan, targets=plan.targets[:1])


def plan_of_file(path: Path) -> KernelPlan:
    """Every instruction set, on the formats that a model's matrices have. Raises as `GgufCheckpoint.open` does."""
    with GgufCheckpoint.open(path) as checkpoint:
        found = {tensor.format for tensor in checkpoint.tensors.values() if len(tensor.shape) > 1}
    return KernelPlan(tuple(_native.targets()), tuple(one for one in WeightFormat if one in found))


def measure_kernels(plan: KernelPlan, *, num_threads: int | None, tell: Callable[[str], None]) -> KernelReport:
    """Measure every kernel of a plan, in this process. Needs about 2 GB of memory. Raises UsageError."""
    begin = perf_counter()
    machine, threads, neighbours = describe_machine(), plan_threads(num_threads), Neighbours()

    def ceilings_now() -> dict[str, Ceilings]:
        tell("measuring the machine's ceilings")
        return on_pool(threads, lambda pool: {target: measure_ceilings(pool, target) for target in plan.targets})

    before = ceilings_now()
    figures: list[KernelFigure] = []
    skipped: list[str] = []
    for weight_format in plan.formats:
        tell(f"{weight_format.label}: {len(plan.targets)} instruction sets, {len(plan.shapes)} shapes")
        results = on_pool(threads, lambda pool: list(_measure_format(pool, plan, weight_format)))  # noqa: B023
        figures += [result for result in results if isinstance(result, KernelFigure)]
        skipped += [result for result in results if isinstance(result, str)]
    after = ceilings_now()
    return KernelReport(
        num_threads=threads.num_threads,
        machine=machine,
        ceilings={target: before[target].or_better(after[target]) for target in plan.targets},
        figures=tuple(figures),
        skipped=tuple(skipped),
        neighbours_share=neighbours.share(),
        seconds=perf_counter() - begin,
    )


def _measure_format(
    pool: _native.ThreadPool, plan: KernelPlan, weight_format: WeightFormat
) -> Iterator[KernelFigure | str]:
    """Figures, and what was skipped. Few rows run on one tall matrix that no cache holds, for all shapes alike.

    Rows of 896 values are none of whole K-quant blocks of 256; files of such models hold other formats there.
    """
    widths = sorted({columns for _, columns in plan.shapes})
    for columns in (columns for columns in widths if columns % weight_format.block_size == 0):
        row_bytes = columns // weight_format.block_size * weight_format.block_bytes
        tall = pack_random(pool, weight_format, -(-_STREAMED_BYTES // row_bytes), columns)
        streamed = [(tall, num_rows) for num_rows in NUM_ROWS if num_rows <= _STREAMED_ROWS]
        yield from _measure_each(pool, plan.targets, weight_format, streamed)
        del tall, streamed
        for rows in (rows for rows, width in plan.shapes if width == columns):
            matrix = pack_random(pool, weight_format, rows, columns)
            cached = [(matrix, num_rows) for num_rows in NUM_ROWS if num_rows > _STREAMED_ROWS]
            yield from _measure_each(pool, plan.targets, weight_format, cached)


def _measure_each(
    pool: _native.ThreadPool,
    targets: Sequence[str],
    weight_format: WeightFormat,
    products: Sequence[tuple[_native.Matrix, int]],
) -> Iterator[KernelFigure | str]:
    random = np.random.default_rng(1)
    for target in targets:
        kernels = _native.Kernels(target)
        seconds_per_row = 0.0
        bandwidth = 0.0
        for matrix, num_rows in products:
            if seconds_per_row * num_rows > _LONGEST_SECONDS:
                yield f"{target} {weight_format.label} {num_rows} x {matrix.columns} x {matrix.rows}"
                continue
            activations = random.standard_normal((num_rows, matrix.columns), dtype=np.float32)
            is_streamed = num_rows <= _STREAMED_ROWS
            if is_streamed and not bandwidth:  # once for a matrix: it takes as long as a figure
                bandwidth = measure_read_bandwidth(pool, target)
            samples, ceilings = [], []
            for seconds in _sample(kernels, matrix, activations, pool):
                samples.append(seconds)
                ceilings.append(bandwidth if is_streamed else measure_int8_peak(pool, target))
            seconds_per_row = min(samples) / num_rows
            yield KernelFigure(
                target=target,
                weight_format=weight_format.label,
                rows=matrix.rows,
                columns=matrix.columns,
                num_rows=num_rows,
                is_streamed=is_streamed,
                samples_seconds=tuple(samples),
                ceilings_per_second=tuple(ceilings),
                matrix_bytes=_native.packed_bytes(matrix.format, matrix.rows, matrix.columns),
            )


def _sample(
    kernels: _native.Kernels, matrix: _native.Matrix, activations: NDArray[np.float32], pool: _native.ThreadPool
) -> Iterator[float]:
    """Seconds per product, activations quantised once for all of a sample's products as a step does."""
    once = kernels.matmul(matrix, activations, pool, 1)[1]
    repeats = max(1, int(_SAMPLE_SECONDS / once))
    num_samples = _SAMPLES if once < _LONGEST_SECONDS / _SAMPLES else 1
    for _ in range(num_samples):
        yield kernels.matmul(matrix, activations, pool, repeats)[1] / repeats
