"""A forecast held against what happens: memory and speed of one model on this machine.

Rates and workloads are measured in turns, so that a machine that is slow for a minute is slow for both: each round
compares a forecast from its own rates with its own measurement. What counts is the median of the rounds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from types import MappingProxyType
from typing import Final

from abaci.bench.process import ContenderProcess, MemoryWatch, Neighbours
from abaci.bench.workloads import Decode, Prefill, Tokens
from abaci.engine.threads import plan_threads
from abaci.kernels.footprint import Footprint
from abaci.kernels.native import choose_target
from abaci.runtime.describing import describe_file
from abaci.runtime.fit import Memory, StepSeconds, decode_seconds, forecast_memory, prefill_seconds
from abaci.runtime.machine_rates import MachineRates, measure_rates
from abaci.tensor import CacheType

NUM_ROUNDS: Final = 5
MEMORY_TOLERANCE: Final = 0.05
SPEED_TOLERANCE: Final = 0.20
_MEMORY_CONTEXT: Final = 2048
_DECODE_PROMPT: Final = 128
_DECODE_TOKENS: Final = 64


_WORKLOADS: Final = (Prefill(512), Prefill(2048), Decode(1, _DECODE_TOKENS))
_FORECASTS: Final[Mapping[str, tuple[int, Callable[[Footprint, MachineRates], StepSeconds]]]] = MappingProxyType(
    {
        "prefill 512": (512, lambda model, rates: prefill_seconds(model, rates, 512)),
        "prefill 2048": (2048, lambda model, rates: prefill_seconds(model, rates, 2048)),
        "decode, 1 stream": (
            1,
            lambda model, rates: decode_seconds(model, rates, _DECODE_PROMPT + _DECODE_TOKENS // 2),
        ),
    }
)
"""Tokens, and the seconds they take."""


@dataclass(frozen=True, slots=True)
class CheckedFigure:
    """One quantity, forecast and measured in every round."""

    name: str
    unit: str
    forecasts: tuple[float, ...]
    measurements: tuple[float, ...]
    tolerance: float

    @property
    def forecast(self) -> float:
        return median(self.forecasts)

    @property
    def measured(self) -> float:
        return median(self.measurements)

    @property
    def ratio(self) -> float:
        """Forecast over measurement: the median of the rounds."""
        return median(forecast / measured for forecast, measured in zip(self.forecasts, self.measurements, strict=True))

    @property
    def holds(self) -> bool:
        """Whether the forecast is as close as it promises to be."""
        return abs(self.ratio - 1) <= self.tolerance


@dataclass(frozen=True, slots=True)
class ForecastCheck:
    """Of one model. `neighbours_share` of the processors' time was others' meanwhile."""

    model: str
    num_threads: int
    figures: tuple[CheckedFigure, ...]
    parts: Mapping[str, StepSeconds]
    """Of each speed, what the forecast of the median round is made of."""
    rates: tuple[MachineRates, ...]
    """Of each round."""
    neighbours_share: float


def check_forecast(
    path: Path,
    model: str,
    *,
    num_threads: int | None = None,
    kv_type: CacheType = CacheType.F16,
    num_rounds: int = NUM_ROUNDS,
    tell: Callable[[str], None],
) -> ForecastCheck:
    """Forecast and run a model that is here. Raises AbaciError."""
    threads, neighbours = plan_threads(num_threads), Neighbours()
    footprint = describe_file(path, model, kv_type).footprint
    formats = tuple(dict.fromkeys(product.weight_format for product in footprint.products))
    tell("memory")
    figures = [_check_memory(path, footprint, threads.num_threads, kv_type)]
    rates: list[MachineRates] = []
    speeds: dict[str, list[float]] = {}
    with ContenderProcess("abaci") as process:
        tokens = Tokens(process.open(str(path), threads.num_threads, kv_type).vocab_size, Random(1))  # noqa: S311
        for number in range(num_rounds):
            tell(f"round {number + 1} of {num_rounds}")
            rates.append(measure_rates(formats, threads, choose_target(), None, lambda line: None))
            for workload in _WORKLOADS:
                if max(workload.step_tokens, _DECODE_PROMPT + _DECODE_TOKENS) < footprint.context_length:
                    timing = workload.run(process, workload.prompts(tokens))
                    speeds.setdefault(workload.name, []).append(timing.tokens_per_second)
    parts: dict[str, StepSeconds] = {}
    for name, measured in speeds.items():
        num_tokens, forecast = _FORECASTS[name]
        rounds = [forecast(footprint, one) for one in rates]
        forecasts = tuple(num_tokens / seconds.total for seconds in rounds)
        figures.append(CheckedFigure(name, "tokens/s", forecasts, tuple(measured), SPEED_TOLERANCE))
        parts[name] = sorted(rounds, key=lambda seconds: seconds.total)[len(rounds) // 2]
    return ForecastCheck(model, threads.num_threads, tuple(figures), parts, tuple(rates), neighbours.share())


def _check_memory(path: Path, footprint: Footprint, num_threads: int, kv_type: CacheType) -> CheckedFigure:
    """A process that loads the model and runs one sequence to the end of a context."""
    context = min(_MEMORY_CONTEXT, footprint.context_length)
    with ContenderProcess("abaci") as process, MemoryWatch(process.process_id) as watch:
        vocab_size = process.open(str(path), num_threads, kv_type).vocab_size
        process.prefill(Tokens(vocab_size, Random(2)).draw(context - 1))  # noqa: S311
    forecast = forecast_memory(footprint, context, Memory.of_this_machine()).total_bytes
    return CheckedFigure(
        f"memory, context {context}", "MB", (forecast / 1e6,), (watch.peak.total_bytes / 1e6,), MEMORY_TOLERANCE
    )
