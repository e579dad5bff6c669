"""Measured rates are kept, found again, completed and never believed blindly."""

import json

import pytest

from abaci.kernels.ceilings import Ceilings
from abaci.kernels.rates import FormatRates, StepRates
from abaci.runtime import machine_rates as measured
from abaci.runtime.machine_rates import MachineRates, machine_rates
from abaci.tensor import WeightFormat

RATES = MachineRates(1.0, 0.5, Ceilings(2e10, 1e12), 2e-5, StepRates(5e-6, 1e-9, 0.9, 5e10, 2e11), {})


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Which formats were measured, and whether all else was, instead of measuring."""
    monkeypatch.setenv("ABACI_CACHE_DIR", str(tmp_path))
    calls = []

    def measure(formats, threads, target, known, tell):
        formats = list(formats)
        calls.append((formats, known is None))
        added = {one: FormatRates(1e10 + len(calls), 5e11, 1e10) for one in formats}
        base = known or RATES
        return measured.replace(base, formats={**base.formats, **added})

    monkeypatch.setattr(measured, "measure_rates", measure)
    return calls


def test_a_machine_is_measured_once(calls):
    first = machine_rates([WeightFormat.Q4_K])
    assert machine_rates([WeightFormat.Q4_K]) == first
    assert calls == [([WeightFormat.Q4_K], True)]


def test_a_new_format_is_measured_alone(calls):
    machine_rates([WeightFormat.Q4_K])
    both = machine_rates([WeightFormat.Q4_K, WeightFormat.Q6_K])
    assert calls[1:] == [([WeightFormat.Q6_K], False)]
    assert machine_rates([WeightFormat.Q6_K]) == both


def test_again_measures_everything(calls):
    machine_rates([WeightFormat.Q4_K])
    machine_rates([WeightFormat.Q4_K], again=True)
    assert calls[1:] == [([WeightFormat.Q4_K], True)]


def test_threads_have_rates_of_their_own(calls):
    machine_rates([WeightFormat.Q4_K], num_threads=1)
    machine_rates([WeightFormat.Q4_K], num_threads=2)
    assert len(calls) == 2


@pytest.mark.parametrize("damage", ["", "[]", "{}", "NaN", "nan-rate", "no-rate", "other-machine", "unknown"])
def test_a_damaged_file_is_measured_anew(calls, tmp_path, damage):
    machine_rates([WeightFormat.Q4_K])
    (path,) = (tmp_path / "machines").glob("*.json")
    document = json.loads(path.read_text())
    if damage == "nan-rate":
        document["rates"]["engine_seconds"] = float("nan")
    elif damage == "no-rate":
        document["rates"]["step"]["reading_share"] = 0
    elif damage == "other-machine":
        document["machine"]["processor"] = "abacus"
    elif damage == "unknown":
        document["rates"]["formats"]["Q99"] = {}
    path.write_text(json.dumps(document) if damage.islower() else damage)
    machine_rates([WeightFormat.Q4_K])
    assert [is_first for _, is_first in calls] == [True, True]


def test_a_folder_that_cannot_be_written_to_is_no_error(calls, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ABACI_CACHE_DIR", str(tmp_path / "file"))
    assert machine_rates([WeightFormat.Q4_K]).formats


def test_the_engine_is_timed():
    assert 1e-7 < measured._measure_engine() < 0.1
