"""The kernel suite on tiny shapes, and the random weights it runs on."""

import numpy as np
import pytest

from abaci.bench import kernel_suite
from abaci.bench.kernel_suite import KernelPlan, full_plan, measure_kernels, plan_of_file, quick_plan
from abaci.kernels.ceilings import Ceilings
from abaci.kernels.dequantise import dequantise
from abaci.kernels.random_weights import random_blocks
from abaci.tensor import WeightFormat


@pytest.mark.parametrize("weight_format", WeightFormat)
def test_random_weights_are_finite_and_varied(weight_format):
    blocks = random_blocks(weight_format, 64)
    assert blocks.shape == (64, weight_format.block_bytes)
    values = dequantise(weight_format, (64, weight_format.block_size), memoryview(blocks.tobytes()))
    assert np.isfinite(values).all()
    assert len(np.unique(values)) > 8


def test_every_product_is_measured(monkeypatch):
    monkeypatch.setattr(kernel_suite, "_STREAMED_BYTES", 1 << 18)
    monkeypatch.setattr(kernel_suite, "_SAMPLE_SECONDS", 1e-4)
    monkeypatch.setattr(kernel_suite, "NUM_ROWS", (1, 3, 8))
    monkeypatch.setattr(kernel_suite, "measure_ceilings", lambda pool, target: Ceilings(1e10, 1e12))
    monkeypatch.setattr(kernel_suite, "measure_read_bandwidth", lambda pool, target: 1e10)
    targets = full_plan().targets
    formats = (WeightFormat.Q4_0, WeightFormat.Q6_K, WeightFormat.F16)
    told = []
    plan = KernelPlan(targets, formats, ((96, 64), (64, 256)))
    report = measure_kernels(plan, num_threads=1, tell=told.append)
    measured = {(one.target, one.weight_format, one.columns, one.num_rows) for one in report.figures}
    assert measured == {
        (target, weight_format.label, columns, num_rows)
        for target in targets
        for weight_format in formats
        for columns in (64, 256)
        for num_rows in (1, 3, 8)
        if columns % weight_format.block_size == 0
    }
    assert not report.skipped
    assert all(one.seconds > 0 and one.operations_per_second > 0 for one in report.figures)
    assert any("Q6_K" in line for line in told)


def test_what_would_take_too_long_is_named(monkeypatch):
    monkeypatch.setattr(kernel_suite, "_STREAMED_BYTES", 1 << 18)
    monkeypatch.setattr(kernel_suite, "_LONGEST_SECONDS", 0.0)
    monkeypatch.setattr(kernel_suite, "NUM_ROWS", (8, 16))
    monkeypatch.setattr(kernel_suite, "measure_ceilings", lambda pool, target: Ceilings(1e10, 1e12))
    plan = KernelPlan(("portable",), (WeightFormat.Q8_0,), ((32, 64),))
    report = measure_kernels(plan, num_threads=1, tell=lambda line: None)
    assert [one.num_rows for one in report.figures] == [8]
    assert report.skipped == ("portable Q8_0 16 x 64 x 32",)


def test_a_file_narrows_the_suite_to_its_formats(smollm2_path):
    plan = plan_of_file(smollm2_path)
    assert plan.formats == (WeightFormat.Q4_1, WeightFormat.Q8_0)
    assert quick_plan(plan).targets == plan.targets[:1]
