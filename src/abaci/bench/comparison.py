"""The suite that compares engines: the same work, the same file, in turns, so that all see the same minutes.

Each contender is first tuned to each workload, then repetitions alternate (A B A B ...); figures are medians. While one
runs the others sleep.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from random import Random
from time import perf_counter

from abaci.bench.contender import Contender, Settings, describe_settings
from abaci.bench.costs import ModelCosts, costs_of_file
from abaci.bench.machine import describe_machine
from abaci.bench.process import ContenderProcess, MemoryPeak, MemoryWatch, Neighbours, busy_process
from abaci.bench.report import CeilingSample, Comparison, Figure, Measurement, Unit
from abaci.bench.workloads import Decode, Prefill, Tokens, Workload
from abaci.engine.threads import ThreadPlan, plan_threads
from abaci.kernels.ceilings import Ceilings, measure_ceilings
from abaci.kernels.native import choose_target
from abaci.kernels.packed_store import SIZE_VARIABLE
from abaci.runtime.machine import on_pool
from abaci.tensor import CacheType

Tell = Callable[[str], None]
"""Takes a line on what is being done."""

OWN_NAME = "abaci"
_SETTLE_SECONDS = 0.05
"""Before each measurement: threads of the contender before it have stopped looking for work by then."""
_WARM_UP = Prefill(64)
_READ_CHUNK_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    workloads: tuple[Workload, ...]
    repetitions: int
    starts: int
    """Fresh processes for load to first token."""
    beside_busy: Decode | None
    """What is run beside a busy process."""

    def with_streams(self, numbers: Sequence[int]) -> "Plan":
        """The same with other numbers of streams decoded together."""
        lengths = {load.num_streams: load.num_tokens for load in self.workloads if isinstance(load, Decode)}
        shortest = min(lengths.values())
        prefills = (load for load in self.workloads if isinstance(load, Prefill))
        decodes = (Decode(number, lengths.get(number, shortest)) for number in numbers)
        return replace(self, workloads=(*prefills, *decodes))


FULL_PLAN = Plan(
    workloads=(Prefill(512), Prefill(2048), Decode(1, 128), Decode(4, 64), Decode(16, 32), Decode(32, 32)),
    repetitions=3,
    starts=3,
    beside_busy=Decode(1, 128, limit_seconds=6.0),
)
QUICK_PLAN = Plan(
    workloads=(Prefill(512), Decode(1, 64), Decode(16, 16)),
    repetitions=2,
    starts=1,
    beside_busy=None,
)


def compare(
    path: Path,
    model: str,
    names: Sequence[str],
    plan: Plan,
    *,
    num_threads: int | None = None,
    kv_type: CacheType = CacheType.F16,
    tell: Tell,
) -> Comparison:
    """Measure the contenders `names`, this engine first, on a model file; starts with a float16 cache always.

    Raises AbaciError.
    """
    begin = perf_counter()
    machine = describe_machine()
    threads = plan_threads(num_threads)
    costs = costs_of_file(path)
    with ExitStack() as stack:
        contenders = [stack.enter_context(ContenderProcess(name)) for name in names]
        ceilings = [_sample_ceilings(threads, "before", tell)]
        descriptions = {}
        for contender in contenders:  # before the starts are measured: by then this engine has kept its packed weights
            tell(f"{contender.name}: loading")
            descriptions[contender.name] = contender.open(str(path), threads.num_threads, kv_type)
        tell("reading the file into the page cache")
        _read_through(path)
        starts = _measure_starts(path, names, threads.num_threads, plan.starts, tell)
        tokens = Tokens(min(description.vocab_size for description in descriptions.values()), Random(1))  # noqa: S311
        figures = list(_measure_workloads(contenders, plan, tokens, tell))
        if plan.beside_busy is not None:
            figures.append(_measure_beside_busy(contenders, plan.beside_busy, threads, tokens, tell))
        figures.append(_measure_python(contenders[0], plan.repetitions, tell))
        ceilings.append(_sample_ceilings(threads, "after", tell))
    best = reduce(Ceilings.or_better, (sample.ceilings for sample in ceilings))
    shown = [_with_shares(figure, plan.workloads, costs, best) for figure in figures]
    return Comparison(
        model=model,
        file_bytes=costs.file_bytes,
        num_threads=threads.num_threads,
        machine=machine,
        ceilings=best,
        ceiling_samples=tuple(ceilings),
        contenders=descriptions,
        figures=(*shown, *starts),
        seconds=perf_counter() - begin,
    )


def tune(contender: Contender, workload: Workload, tokens: Tokens, tell: Tell) -> Settings:
    """The settings that run a workload fastest: one option after another, the others kept as they are.

    Without options it is run once all the same, so that nobody comes to the measurement cold.
    """
    options = contender.options(workload.num_streams, workload.step_tokens)
    settings = {name: values[0] for name, values in options.items()}
    trial = workload.trial()
    best_speed = _try(contender, trial, settings, tokens, tell)
    for name, values in options.items():
        for value in values[1:]:
            candidate = {**settings, name: value}
            speed = _try(contender, trial, candidate, tokens, tell)
            if speed > best_speed:
                best_speed, settings = speed, candidate
    return settings


def measure_alternating(
    contenders: Sequence[Contender], workload: Workload, repetitions: int, tokens: Tokens, tell: Tell
) -> Figure:
    """Tokens per second of every contender at its best settings for this workload."""
    chosen = {contender.name: tune(contender, workload, tokens, tell) for contender in contenders}
    for contender in contenders:
        contender.configure(chosen[contender.name])
    samples = _sample_in_turns(contenders, workload, repetitions, tokens, tell)
    return _speed_figure(workload.name, samples, chosen)


def _try(contender: Contender, trial: Workload, settings: Settings, tokens: Tokens, tell: Tell) -> float:
    what = f"trying {describe_settings(settings)}" if settings else "warming up"
    tell(f"{contender.name}: {trial.name}, {what}")
    contender.configure(settings)
    return trial.run(contender, trial.prompts(tokens)).tokens_per_second


@dataclass(frozen=True, slots=True)
class _Samples:
    by_contender: Mapping[str, tuple[float, ...]]
    neighbours_share: float


def _sample_in_turns(
    contenders: Sequence[Contender], workload: Workload, repetitions: int, tokens: Tokens, tell: Tell
) -> _Samples:
    """Decoding keeps its prompts through all repetitions, as they are computed off the clock; prefill never does."""
    rates: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    prompts = workload.prompts(tokens)
    neighbours = Neighbours()
    for repetition in range(repetitions):
        if isinstance(workload, Prefill):
            prompts = workload.prompts(tokens)
        for contender in contenders:
            tell(f"{contender.name}: {workload.name}, {repetition + 1} of {repetitions}")
            time.sleep(_SETTLE_SECONDS)
            rates[contender.name].append(workload.run(contender, prompts).tokens_per_second)
    return _Samples({name: tuple(values) for name, values in rates.items()}, neighbours.share())


def _measure_workloads(contenders: Sequence[Contender], plan: Plan, tokens: Tokens, tell: Tell) -> Iterator[Figure]:
    for contender in contenders:
        _WARM_UP.run(contender, _WARM_UP.prompts(tokens))
    for workload in plan.workloads:
        yield measure_alternating(contenders, workload, plan.repetitions, tokens, tell)


def _measure_beside_busy(
    contenders: Sequence[Contender], workload: Decode, threads: ThreadPlan, tokens: Tokens, tell: Tell
) -> Figure:
    """What is left of undisturbed speed, measured just before, while another process keeps one processor busy.

    Each processor has its turn, as they are not alike: an engine does more than its share of the work on one of them.
    """
    chosen = {contender.name: tune(contender, workload, tokens, tell) for contender in contenders}
    for contender in contenders:
        contender.configure(chosen[contender.name])
    shares: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    neighbours = Neighbours()
    for processor in threads.cores:
        quiet = _sample_in_turns(contenders, workload, 1, tokens, tell)
        with busy_process(processor):
            tell(f"a busy process on processor {processor}")
            busy = _sample_in_turns(contenders, workload, 1, tokens, tell)
        for name, values in shares.items():
            values.append(busy.by_contender[name][0] / quiet.by_contender[name][0])
    return Figure(
        "decode beside a busy process, of undisturbed speed",
        Unit.SHARE,
        is_better_higher=True,
        measurements=tuple(Measurement(name, tuple(values), chosen[name]) for name, values in shares.items()),
        neighbours_share=neighbours.share(),
    )


def _measure_python(contender: ContenderProcess, repetitions: int, tell: Tell) -> Figure:
    """The wall time of a greedy stream in which no step program runs."""
    tell(f"{contender.name}: Python's share")
    neighbours = Neighbours()
    shares = [contender.python_share() for _ in range(repetitions)]
    return Figure(
        "Python's share of a greedy stream",
        Unit.SHARE,
        is_better_higher=False,
        measurements=(
            Measurement(contender.name, tuple(1.0 - share.step_seconds / share.wall_seconds for share in shares), {}),
        ),
        neighbours_share=neighbours.share(),
    )


def _measure_starts(path: Path, names: Sequence[str], num_threads: int, repetitions: int, tell: Tell) -> list[Figure]:
    """Load to first token, in fresh processes; memory in one more each, as looking at it takes time."""
    whole: dict[str, list[float]] = {name: [] for name in names}
    inner: dict[str, list[float]] = {name: [] for name in names}
    neighbours = Neighbours()
    for repetition in range(repetitions):
        for name in names:
            tell(f"{name}: load to first token, {repetition + 1} of {repetitions}")
            with ContenderProcess(name) as contender:
                inner[name].append(contender.first_token(str(path), num_threads))
                whole[name].append(perf_counter() - contender.started_seconds)
    share = neighbours.share()
    first = _measure_first_loads(path, names[0], num_threads, repetitions, tell)
    peaks = {name: _measure_memory(path, name, num_threads, tell) for name in names}
    return [
        _lower_figure("process start to first token", Unit.SECONDS, whole, share),
        _lower_figure("load to first token", Unit.SECONDS, inner, share),
        first,
        _memory_figure("peak memory", {name: peak.total_bytes for name, peak in peaks.items()}),
        _memory_figure("peak memory, anonymous", {name: peak.anonymous_bytes for name, peak in peaks.items()}),
        _memory_figure("peak memory, file-backed", {name: peak.file_backed_bytes for name, peak in peaks.items()}),
    ]


def _measure_first_loads(path: Path, name: str, num_threads: int, repetitions: int, tell: Tell) -> Figure:
    """Load to first token where no packed weights are kept, as the first time."""
    neighbours = Neighbours()
    samples = []
    for repetition in range(repetitions):
        tell(f"{name}: first load, {repetition + 1} of {repetitions}")
        with ContenderProcess(name, {SIZE_VARIABLE: "0"}) as contender:
            samples.append(contender.first_token(str(path), num_threads))
    return _lower_figure("first load to first token", Unit.SECONDS, {name: samples}, neighbours.share())


def _measure_memory(path: Path, name: str, num_threads: int, tell: Tell) -> MemoryPeak:
    tell(f"{name}: peak memory")
    with ContenderProcess(name) as contender:
        with MemoryWatch(contender.process_id) as watch:
            contender.first_token(str(path), num_threads)
        return watch.peak


def _lower_figure(name: str, unit: Unit, samples: Mapping[str, Sequence[float]], neighbours_share: float) -> Figure:
    measurements = tuple(Measurement(contender, tuple(values), {}) for contender, values in samples.items())
    return Figure(name, unit, is_better_higher=False, measurements=measurements, neighbours_share=neighbours_share)


def _memory_figure(name: str, peaks: Mapping[str, int]) -> Figure:
    return _lower_figure(name, Unit.BYTES, {contender: (float(peak),) for contender, peak in peaks.items()}, 0.0)


def _speed_figure(name: str, samples: _Samples, settings: Mapping[str, Settings]) -> Figure:
    return Figure(
        name,
        Unit.TOKENS_PER_SECOND,
        is_better_higher=True,
        measurements=tuple(
            Measurement(contender, rates, settings[contender]) for contender, rates in samples.by_contender.items()
        ),
        neighbours_share=samples.neighbours_share,
    )


def _with_shares(figure: Figure, workloads: Sequence[Workload], costs: ModelCosts, ceilings: Ceilings) -> Figure:
    """The figure with percentages of the ceilings, if it is the speed of a workload."""
    workload = next((workload for workload in workloads if workload.name == figure.name), None)
    if workload is None:
        return figure
    measurements = tuple(
        Measurement(
            one.contender,
            one.samples,
            one.settings,
            read_share=costs.read_share(workload, one.median, ceilings),
            int8_share=costs.int8_share(workload, one.median, ceilings),
        )
        for one in figure.measurements
    )
    return Figure(figure.name, figure.unit, figure.is_better_higher, measurements, figure.neighbours_share)


def _sample_ceilings(threads: ThreadPlan, when: str, tell: Tell) -> CeilingSample:
    tell("measuring the machine's ceilings")
    return CeilingSample(when, on_pool(threads, lambda pool: measure_ceilings(pool, choose_target())))


def _read_through(path: Path) -> None:
    buffer = bytearray(_READ_CHUNK_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
