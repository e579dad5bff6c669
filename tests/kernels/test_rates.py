"""What is measured of a machine is positive, finite and of a believable size."""

import math
from dataclasses import astuple

from abaci.kernels import native, rates
from abaci.tensor import WeightFormat


def test_rates_are_measured(monkeypatch):
    monkeypatch.setattr(rates, "_STREAMED_BYTES", 1 << 20)
    monkeypatch.setattr(rates, "_SMALL_BYTES", 1 << 19)
    monkeypatch.setattr(rates, "_SAMPLE_SECONDS", 1e-4)
    monkeypatch.setattr(rates, "_FAR_POSITION", 640)
    monkeypatch.setattr(rates, "_USUAL_LAYERS", 2)
    pool, target = native.thread_pool(1), native.choose_target()
    products = rates.measure_format(pool, target, rates.PROBE_FORMAT)
    step = rates.measure_step(pool, target, products)
    for value in (*astuple(products), *astuple(step)):
        assert math.isfinite(value)
    assert all(value > 1e6 for value in astuple(products))
    assert 1e-8 < step.operation_seconds < 1e-2
    assert step.value_seconds >= 0
    assert 0 < step.reading_share <= 1


def test_every_format_can_be_measured(monkeypatch):
    monkeypatch.setattr(rates, "_STREAMED_BYTES", 1 << 18)
    monkeypatch.setattr(rates, "_SMALL_BYTES", 1 << 17)
    monkeypatch.setattr(rates, "_SAMPLE_SECONDS", 1e-5)
    monkeypatch.setattr(rates, "_BATCH_ROWS", 64)
    pool, target = native.thread_pool(1), native.choose_target()
    for weight_format in WeightFormat:
        assert rates.measure_format(pool, target, weight_format).stream_bytes_per_second > 0


def test_a_small_model_is_read_as_small_matrices_are():
    of_format = rates.FormatRates(20e9, 500e9, 45e9)
    sizes = 1 << 20, 48 << 20, 96 << 20, 192 << 20, 4 << 30
    assert [round(of_format.bytes_per_second(size) / 1e9, 3) for size in sizes] == [45, 45, 30, 20, 20]
