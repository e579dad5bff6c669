"""What this machine was measured to do, kept between commands.

    ABACI_CACHE_DIR, else XDG_CACHE_HOME/abaci, else ~/.cache/abaci
    └── machines/<key>.json     rates of one processor, its threads, instruction set and version of the program

Measured once, in seconds, as far as a forecast asks for it; a storage format that no model had yet is measured when the
first one has it. A file that cannot be read is measured anew, one that cannot be written costs the next command time.
"""

import hashlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from abaci.engine.engine import Engine, EngineConfig
from abaci.engine.memory import available_memory_bytes
from abaci.engine.threads import ThreadPlan, plan_threads
from abaci.errors import ResourceError
from abaci.generation import GenerationRequest, TokenEvent
from abaci.kernels import _native
from abaci.kernels.batch import PAGE_TOKENS, StepBatch, StepOutput
from abaci.kernels.ceilings import READ_BYTES, Ceilings, measure_ceilings
from abaci.kernels.native import ThreadPool, choose_target
from abaci.kernels.packed_store import cache_folder
from abaci.kernels.rates import PROBE_FORMAT, FormatRates, StepRates, measure_format, measure_step
from abaci.runtime.machine import on_pool, processor_name
from abaci.tensor import WeightFormat
from abaci.version import __version__

_FILE_VERSION: Final = 4
"""Of the file's form, and of kernels whose speed changed within a version of the program."""
_MAX_FILE_BYTES: Final = 1 << 20
_ENGINE_STEPS: Final = 200
_LEAST_READ_BYTES: Final = 1 << 26

Tell = Callable[[str], None]
"""Shows a line to whoever waits."""


@dataclass(frozen=True, slots=True)
class MachineIdentity:
    """What rates belong to: another value of any field, and they must be measured again."""

    processor: str
    num_threads: int
    cores: tuple[int, ...]
    target: str
    layout: int
    version: str

    @property
    def key(self) -> str:
        """Names its file."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class MachineRates:
    """Measured at `measured_seconds` (Unix time), while `load_average` processes wanted to run."""

    measured_seconds: float
    load_average: float
    ceilings: Ceilings
    engine_seconds: float
    """Of a step in Python: planning, committing, publishing."""
    step: StepRates
    formats: Mapping[WeightFormat, FormatRates]

    @property
    def age_seconds(self) -> float:
        """Since the first of it was measured."""
        return max(0.0, time.time() - self.measured_seconds)


def machine_rates(
    formats: Iterable[WeightFormat],
    *,
    num_threads: int | None = None,
    again: bool = False,
    tell: Tell = lambda line: None,
) -> MachineRates:
    """This machine's rates with at least these storage formats; measures what is not known yet, or all of it `again`.

    Raises UsageError for a number of threads that cannot be, ResourceError where memory is short.
    """
    threads, target = plan_threads(num_threads), choose_target()
    identity = MachineIdentity(
        processor_name(), threads.num_threads, threads.cores, target, _native.LAYOUT_VERSION, __version__
    )
    path = _path(identity)
    known = None if again else _read(path, identity)
    missing = [one for one in dict.fromkeys(formats) if known is None or one not in known.formats]
    if known is not None and not missing:
        return known
    rates = measure_rates(missing, threads, target, known, tell)
    _write(path, identity, rates)
    return rates


def measure_rates(
    formats: Iterable[WeightFormat], threads: ThreadPlan, target: str, known: MachineRates | None, tell: Tell
) -> MachineRates:
    """`known` and these formats; without `known` everything. Raises ResourceError where memory is short."""

    def work(pool: ThreadPool) -> MachineRates:
        rates = known
        if rates is None:
            tell("measuring this machine: memory and processors")
            rates = _measure_machine(pool, target)
        measured = dict(rates.formats)
        for weight_format in formats:
            if weight_format not in measured:
                tell(f"measuring this machine: {weight_format.label}")
                measured[weight_format] = measure_format(pool, target, weight_format)
        return replace(rates, formats=measured)

    try:
        return on_pool(threads, work)
    except MemoryError:
        raise ResourceError("not enough memory to measure this machine", hint="Close other programs.") from None


def _measure_machine(pool: ThreadPool, target: str) -> MachineRates:
    load_average = os.getloadavg()[0]
    probe = measure_format(pool, target, PROBE_FORMAT)
    return MachineRates(
        measured_seconds=time.time(),
        load_average=load_average,
        ceilings=measure_ceilings(pool, target, _read_bytes()),
        engine_seconds=_measure_engine(),
        step=measure_step(pool, target, probe),
        formats={PROBE_FORMAT: probe},
    )


def _read_bytes() -> int:
    """As much memory as the ceiling is measured on, or a quarter of what is available where that is less."""
    pieces = max(1, available_memory_bytes() // 4 // _LEAST_READ_BYTES)
    return min(READ_BYTES, pieces * _LEAST_READ_BYTES)


def _measure_engine() -> float:
    """Seconds of Python per step of one stream: an engine whose executor does nothing."""
    num_pages = -(-2 * _ENGINE_STEPS // PAGE_TOKENS)
    config = EngineConfig(256, num_pages * PAGE_TOKENS, (None,), (num_pages,))
    ended = threading.Event()
    arrivals: list[float] = []

    def take(event: TokenEvent) -> None:
        arrivals.append(time.perf_counter())
        if event.finish_reason is not None:
            ended.set()

    engine = Engine(_IdleExecutor(), config)
    try:
        engine.submit(GenerationRequest("measured", (1, 2, 3), max_tokens=_ENGINE_STEPS, temperature=0.0), take)
        ended.wait()
    finally:
        engine.close()
    return median(after - before for before, after in pairwise(arrivals))


class _IdleExecutor:
    """An executor (`kernels.batch.Executor`) that answers every step at once, always with the same token."""

    def step(self, batch: StepBatch) -> StepOutput:
        rows = len(batch.logit_rows)
        no_ids, no_logprobs = np.empty((rows, 0), np.int32), np.empty((rows, 0), np.float32)
        return StepOutput(np.ones(rows, np.int32), np.zeros(rows, np.float32), no_ids, no_logprobs)

    def page_bytes(self, group: int) -> int:
        return 0

    @property
    def state_bytes(self) -> int:
        return 0

    def allocate_cache(self, num_pages: tuple[int, ...], num_states: int = 0) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def _path(identity: MachineIdentity) -> Path | None:
    try:
        return cache_folder() / "machines" / f"{identity.key}.json"
    except RuntimeError:  # no home
        return None


def _read(path: Path | None, identity: MachineIdentity) -> MachineRates | None:
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_MAX_FILE_BYTES))
        if document["version"] != _FILE_VERSION or document["machine"] != _plain(identity):
            return None
        return _rates_of(document["rates"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _rates_of(fields: Mapping[str, Any]) -> MachineRates:
    labels = {weight_format.label: weight_format for weight_format in WeightFormat}
    return MachineRates(
        measured_seconds=_number(fields["measured_seconds"]),
        load_average=_number(fields["load_average"]),
        ceilings=Ceilings(**_numbers(fields["ceilings"])),
        engine_seconds=_number(fields["engine_seconds"]),
        step=StepRates(**_numbers(fields["step"])),
        formats={labels[label]: FormatRates(**_numbers(rates)) for label, rates in fields["formats"].items()},
    )


def _numbers(fields: Mapping[str, Any]) -> dict[str, float]:
    """Rates: what is divided by is not nothing."""
    numbers = {name: _number(value) for name, value in fields.items()}
    if any(number == 0 for name, number in numbers.items() if name != "value_seconds"):
        raise ValueError("a rate of nothing")
    return numbers


def _number(value: Any) -> float:
    number = float(value)
    if not 0 <= number < 1e18:  # neither NaN nor anything that a machine does
        raise ValueError(f"{value!r} is no rate")
    return number


def _write(path: Path | None, identity: MachineIdentity, rates: MachineRates) -> None:
    """Whole or not at all; a folder that cannot be written to is no error."""
    if path is None:
        return
    plain = asdict(replace(rates, formats={}))
    plain["formats"] = {weight_format.label: asdict(one) for weight_format, one in rates.formats.items()}
    document = {"version": _FILE_VERSION, "machine": _plain(identity), "rates": plain}
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=False) as file:
            json.dump(document, file, indent=2)
        Path(file.name).replace(path)


def _plain(identity: MachineIdentity) -> dict[str, Any]:
    return {**asdict(identity), "cores": list(identity.cores)}
