"""`abaci fit`: will a model run here, and how fast? Before anything is fetched."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abaci.cli.terminal import (
    JsonOption,
    KvTypeOption,
    ModelArgument,
    OfflineOption,
    aligned,
    megabytes,
    print_json,
    print_line,
    print_remark,
    print_text,
)
from abaci.tensor import CacheType

if TYPE_CHECKING:
    from abaci.bench.forecast_check import ForecastCheck
    from abaci.runtime.describing import DescribedModel
    from abaci.runtime.fit import MemoryForecast, SpeedForecast
    from abaci.runtime.machine_rates import MachineRates

_SECONDS_PER_DAY = 86400.0
_MOST_DISTURBED = 0.05
_BUSY_LOAD = 0.5


def fit(
    model: ModelArgument,
    *,
    context: Annotated[
        int | None, typer.Option(envvar="ABACI_CONTEXT", min=1, help="Tokens of context; else 8192, or the model's.")
    ] = None,
    kv_type: KvTypeOption = CacheType.F16,
    threads: Annotated[
        int | None, typer.Option(envvar="ABACI_THREADS", help="Threads; else all cores this process may use.")
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Measure this machine again.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Run the model and compare: it must be here.")] = False,
    offline: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Forecast a model's memory and speed here, before it is fetched."""
    from abaci.hub.network import Network
    from abaci.runtime.describing import describe_model
    from abaci.runtime.fit import Memory, Verdict, forecast_memory, forecast_speed
    from abaci.runtime.machine_rates import machine_rates

    if check:
        _check(model, threads, kv_type, as_json)
        return
    described = describe_model(model, Network.from_environment(), kv_type)
    memory = forecast_memory(described.footprint, context, Memory.of_this_machine())
    formats = {product.weight_format for product in described.footprint.products}
    if memory.verdict is Verdict.TOO_LARGE:
        rates, speed = None, None
    else:
        rates = machine_rates(formats, num_threads=threads, again=measure, tell=print_remark)
        speed = forecast_speed(described.footprint, rates, memory.context_length)
    if as_json:
        print_json(_as_json(described, memory, speed, rates))
    else:
        print_text(_as_text(described, memory, speed, rates))


def _check(model: str, threads: int | None, kv_type: CacheType, as_json: bool) -> None:
    from abaci import hub
    from abaci.bench.forecast_check import check_forecast

    resolved = hub.resolve(model, download=False)
    checked = check_forecast(
        resolved.path,
        resolved.name,
        num_threads=threads,
        kv_type=kv_type,
        tell=print_remark,
    )
    if as_json:
        print_json(_check_as_json(checked))
        return
    rows: list[tuple[str, ...]] = [("", "FORECAST", "MEASURED", "", "FORECAST / MEASURED", "")]
    for one in checked.figures:
        within = f"within {one.tolerance:.0%}" if one.holds else f"off by more than {one.tolerance:.0%}"
        rows.append((one.name, f"{one.forecast:,.1f}", f"{one.measured:,.1f}", one.unit, f"{one.ratio:.2f}", within))
    print_text(aligned(rows))
    for name, parts in checked.parts.items():
        shares = ", ".join(f"{part} {seconds * 1e3:,.2f} ms" for part, seconds in asdict(parts).items())
        print_remark(f"{name}, forecast: {shares}")
    print_remark(f"others had {checked.neighbours_share:.0%} of the processors' time")
    if checked.neighbours_share > _MOST_DISTURBED:
        print_line("warning: the machine was busy; figures of a disturbed run say little")


def _check_as_json(checked: "ForecastCheck") -> dict[str, Any]:
    rates = [
        {**asdict(replace(one, formats={})), "formats": {key.label: asdict(rate) for key, rate in one.formats.items()}}
        for one in checked.rates
    ]
    figures = [{**asdict(one), "ratio": one.ratio, "holds": one.holds} for one in checked.figures]
    parts = {name: asdict(one) for name, one in checked.parts.items()}
    return {**asdict(replace(checked, rates=())), "figures": figures, "parts": parts, "rates": rates}


def _as_json(
    described: "DescribedModel",
    memory: "MemoryForecast",
    speed: "SpeedForecast | None",
    rates: "MachineRates | None",
) -> dict[str, Any]:
    return {
        "model": described.name,
        "basis": described.basis.name.lower(),
        "memory": {**asdict(memory), "total_bytes": memory.total_bytes, "verdict": memory.verdict.name.lower()},
        "speed": None if speed is None else asdict(speed),
        "machine": None
        if rates is None
        else {"age_seconds": rates.age_seconds, "load_average": rates.load_average, **asdict(rates.ceilings)},
    }


def _as_text(
    described: "DescribedModel",
    memory: "MemoryForecast",
    speed: "SpeedForecast | None",
    rates: "MachineRates | None",
) -> str:
    rows: list[tuple[str, ...]] = [
        ("model", described.name),
        ("known from", described.basis.value),
        ("weights", megabytes(memory.weight_bytes)),
        ("cache", f"{megabytes(memory.cache_bytes)} for {memory.context_length:,} tokens"),
        ("workspace", megabytes(memory.workspace_bytes)),
        ("process", megabytes(memory.process_bytes)),
        ("total", megabytes(memory.total_bytes)),
        ("available", f"{megabytes(memory.memory.available_bytes)} of {megabytes(memory.memory.total_bytes)}"),
        ("verdict", _verdict(memory)),
    ]
    if speed is not None:
        prompt = f"{speed.prefill_tokens_per_second:,.0f} tokens/s of a prompt of {speed.prompt_tokens}"
        rows += [
            ("reading", prompt),
            ("writing", f"{speed.decode_tokens_per_second:,.1f} tokens/s"),
            ("", f"{speed.decode_at_end_tokens_per_second:,.1f} tokens/s at the end of the context"),
        ]
    if rates is not None:
        rows.append(("measured", _measured(rates)))
    return aligned(rows)


def _verdict(memory: "MemoryForecast") -> str:
    from abaci.runtime.fit import Verdict

    largest = f"a context of {memory.largest_context:,} tokens at most" if memory.largest_context else ""
    match memory.verdict:
        case Verdict.FITS:
            return f"fits; with {largest}"
        case Verdict.NOT_NOW:
            return f"does not fit now; with {largest}" if largest else "does not fit now: close other programs"
        case Verdict.TOO_LARGE:
            return f"too large for this machine; fits with {largest}" if largest else "too large for this machine"


def _measured(rates: "MachineRates") -> str:
    days = rates.age_seconds / _SECONDS_PER_DAY
    age = "today" if days < 1 else f"{days:.0f} days ago"
    busy = ", while others were busy" if rates.load_average > _BUSY_LOAD else ""
    return (
        f"{age}{busy}: memory {rates.ceilings.read_bytes_per_second / 1e9:,.1f} GB/s, "
        f"int8 {rates.ceilings.int8_operations_per_second / 1e9:,.0f} GOPS (--measure does it again)"
    )
