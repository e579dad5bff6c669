"""A forecast against a process that is no engine: what is compared with what, and when it holds."""

import os
from dataclasses import dataclass, replace

import pytest
from golden_models import golden_path

from abaci.bench import forecast_check
from abaci.bench.contender import Description, Timing
from abaci.bench.forecast_check import CheckedFigure, check_forecast
from abaci.kernels.ceilings import Ceilings
from abaci.kernels.rates import FormatRates, StepRates
from abaci.runtime.describing import Basis, DescribedModel, describe_file
from abaci.runtime.fit import prefill_seconds
from abaci.runtime.machine_rates import MachineRates


def rates_of(formats, factor):
    every = dict.fromkeys(formats, FormatRates(20e9 * factor, 500e9 * factor, 20e9 * factor))
    step = StepRates(5e-6 / factor, 1e-9 / factor, 0.9, 5e10 * factor, 1e11 * factor)
    return MachineRates(0, 0, Ceilings(25e9 * factor, 1e12), 2e-5 / factor, step, every)


@dataclass
class FakeProcess:
    """Takes half as long again as was forecast for the first round's machine."""

    name: str
    process_id: int = 0
    seconds_per_token: float = 0.0

    def __enter__(self):
        self.process_id = os.getpid()
        return self

    def __exit__(self, *_):
        pass

    def open(self, path, num_threads, kv_type):
        return Description("0", {}, 256)

    def prefill(self, token_ids):
        return Timing(len(token_ids), len(token_ids) * FakeProcess.seconds_per_token)

    def decode(self, prompts, num_tokens, limit_seconds):
        return Timing(num_tokens, 1.0)


def test_every_round_compares_its_own(monkeypatch):
    path = golden_path("llama")
    model = replace(describe_file(path, "llama").footprint, context_length=4096)
    monkeypatch.setattr(forecast_check, "describe_file", lambda *_: DescribedModel("llama", model, Basis.FILE))
    formats = {product.weight_format for product in model.products}
    factors = iter([1.0, 1.0, 4.0])
    monkeypatch.setattr(forecast_check, "measure_rates", lambda *_: rates_of(formats, next(factors)))
    monkeypatch.setattr(forecast_check, "ContenderProcess", FakeProcess)
    forecast = prefill_seconds(model, rates_of(formats, 1.0), 512).total
    monkeypatch.setattr(FakeProcess, "seconds_per_token", 1.5 * forecast / 512)
    monkeypatch.setattr(forecast_check, "_WORKLOADS", forecast_check._WORKLOADS[:1])
    told = []
    checked = check_forecast(path, "llama", num_rounds=3, tell=told.append)
    memory, speed = checked.figures
    assert memory.measured > 1
    assert speed.name == "prefill 512"
    assert speed.ratio == pytest.approx(1.5)
    assert speed.holds is False
    assert len(speed.forecasts) == len(checked.rates) == 3
    assert checked.parts["prefill 512"].total == pytest.approx(forecast)
    assert told == ["memory", "round 1 of 3", "round 2 of 3", "round 3 of 3"]


@pytest.mark.parametrize(("forecast", "holds"), [(1.19, True), (0.81, True), (1.21, False), (0.79, False)])
def test_a_forecast_holds_within_its_tolerance(forecast, holds):
    assert CheckedFigure("speed", "tokens/s", (forecast,), (1.0,), 0.2).holds is holds
