"""Forecasts, with fixed rates: the arithmetic itself."""

from dataclasses import replace

import pytest

from abaci.errors import UsageError
from abaci.kernels.ceilings import Ceilings
from abaci.kernels.footprint import Footprint, LayerAttention, Product
from abaci.kernels.rates import FormatRates, StepRates
from abaci.runtime.fit import Memory, Verdict, decode_seconds, forecast_memory, forecast_speed, prefill_seconds
from abaci.runtime.machine_rates import MachineRates
from abaci.tensor import WeightFormat

MIB = 1 << 20

MODEL = Footprint(
    weight_bytes=400 * MIB,
    vector_bytes=0,
    row_bytes=50_000,
    logit_row_bytes=400_000,
    page_bytes=(32 * 12_000,),
    windows=(None,),
    state_bytes=0,
    products=(
        Product(WeightFormat.Q4_K, 300_000_000, 1_000_000_000),
        Product(WeightFormat.Q8_0, 100_000_000, 200_000_000, asked_only=True),
    ),
    attention=(LayerAttention(None, 1000, 500),) * 10,
    num_operations=100,
    values_per_token=100_000,
    vocab_size=100_000,
    context_length=32_768,
)
RATES = MachineRates(
    measured_seconds=0.0,
    load_average=0.0,
    ceilings=Ceilings(20e9, 1e12),
    engine_seconds=20e-6,
    step=StepRates(
        operation_seconds=5e-6,
        value_seconds=1e-9,
        reading_share=0.8,
        decode_attention_per_second=50e9,
        prefill_attention_per_second=100e9,
    ),
    formats={WeightFormat.Q4_K: FormatRates(15e9, 500e9, 15e9), WeightFormat.Q8_0: FormatRates(20e9, 600e9, 20e9)},
)
ROOMY = Memory(16 << 30, 32 << 30)


def decode(model, position):
    return decode_seconds(model, RATES, position).total


def prefill(model, num_tokens):
    return prefill_seconds(model, RATES, num_tokens).total


def test_a_decoded_token_reads_every_weight_and_its_past():
    reading = (300e6 / 15e9 + 100e6 / 20e9) / 0.8
    other = 100 * 5e-6 + 100_000 * 1e-9 + 20e-6
    attention = 10 * 1000 * 1000 / 50e9  # ten layers, a thousand positions; 500 bytes each at 20 GB/s take longer
    assert decode(MODEL, 0) == pytest.approx(reading + other, rel=1e-3)
    assert decode(MODEL, 999) == pytest.approx(reading + other + max(attention, 10 * 1000 * 500 / 20e9))


def test_attention_takes_the_slower_of_computing_and_reading():
    many_heads = replace(MODEL, attention=(LayerAttention(None, 100_000, 500),))
    far = decode(many_heads, 9999) - decode(many_heads, 0)
    assert far == pytest.approx(9999 * 100_000 / 50e9)


def test_a_window_ends_the_growth():
    windowed = replace(MODEL, attention=(LayerAttention(512, 1000, 500),))
    assert decode(windowed, 511) == decode(windowed, 20_000)
    assert decode(windowed, 400) < decode(windowed, 511)


def test_a_prompt_multiplies_all_but_the_head_for_every_token():
    products = 512 * 1e9 / 500e9 + 100e6 / 20e9 / 0.8
    attention = 10 * 1000 * (512 * 513 / 2) / 100e9
    other = 100 * 5e-6 + 512 * 100_000 * 1e-9 + 20e-6
    assert prefill(MODEL, 512) == pytest.approx(products + attention + other)


def test_a_long_prompt_is_its_steps():
    head = 100e6 / 20e9 / 0.8
    whole = prefill(MODEL, 1024) - head
    first = prefill(MODEL, 512) - head
    further_positions = 10 * 1000 * 512 * 512 / 100e9
    assert whole == pytest.approx(2 * first + further_positions)


def test_a_short_prompt_takes_at_least_what_reading_takes():
    assert prefill(MODEL, 1) == pytest.approx(decode(MODEL, 0), rel=1e-3)


def test_windows_in_a_prompt_are_counted_position_by_position():
    windowed = replace(MODEL, attention=(LayerAttention(100, 1000, 500),))
    plain = replace(MODEL, attention=())
    seen = sum(min(position + 1, 100) for position in range(700))
    difference = prefill(windowed, 700) - prefill(plain, 700)
    assert difference == pytest.approx(seen * 1000 / 100e9)


def test_experts_that_are_not_met_cost_memory_and_no_time():
    sparse = replace(MODEL, weight_bytes=10 * MODEL.weight_bytes)
    assert forecast_speed(sparse, RATES, 4096) == forecast_speed(MODEL, RATES, 4096)
    assert forecast_memory(sparse, 4096, ROOMY).weight_bytes == 10 * MODEL.weight_bytes


def test_speed_speaks_of_the_context_that_there_is():
    speed = forecast_speed(MODEL, RATES, 100)
    assert speed.prompt_tokens == 100
    assert speed.decode_tokens_per_second == speed.decode_at_end_tokens_per_second


def test_memory_is_the_sum_of_its_parts():
    forecast = forecast_memory(MODEL, 4096, ROOMY)
    assert forecast.cache_bytes == 4096 // 32 * MODEL.page_bytes[0]
    assert forecast.workspace_bytes == 512 * 50_000 + 400_000
    assert forecast.total_bytes == (
        forecast.weight_bytes + forecast.cache_bytes + forecast.workspace_bytes + forecast.process_bytes
    )
    assert forecast.verdict is Verdict.FITS
    assert forecast.largest_context == MODEL.context_length


def test_the_usual_context_is_assumed_where_the_model_has_it():
    assert forecast_memory(MODEL, None, ROOMY).context_length == 8192
    assert forecast_memory(replace(MODEL, context_length=2048), None, ROOMY).context_length == 2048
    with pytest.raises(UsageError, match="32768"):
        forecast_memory(MODEL, 40_000, ROOMY)


def test_verdicts_follow_memory():
    needed = forecast_memory(MODEL, 4096, ROOMY).total_bytes
    more = needed + 200 * MIB
    assert forecast_memory(MODEL, 4096, Memory(more, 2 * more)).verdict is Verdict.FITS
    assert forecast_memory(MODEL, 4096, Memory(needed - 1, 2 * more)).verdict is Verdict.NOT_NOW
    assert forecast_memory(MODEL, 4096, Memory(needed - 1, needed - 1)).verdict is Verdict.TOO_LARGE


def test_the_largest_context_is_the_last_that_fits():
    memory = Memory(700 * MIB, 700 * MIB)
    largest = forecast_memory(MODEL, 512, memory).largest_context
    assert largest % 32 == 0
    assert 512 < largest < MODEL.context_length
    assert forecast_memory(MODEL, largest, memory).verdict is Verdict.FITS
    assert forecast_memory(MODEL, largest + 32, memory).verdict is Verdict.TOO_LARGE
    assert forecast_memory(MODEL, 512, Memory(100 * MIB, 100 * MIB)).largest_context == 0


def test_pages_behind_a_window_are_limited_by_what_the_cache_gives_them():
    windowed = replace(MODEL, windows=(512,), context_length=1 << 20)
    near, far = (forecast_memory(windowed, tokens, ROOMY).cache_bytes for tokens in (1 << 19, 1 << 20))
    assert near == far < forecast_memory(replace(MODEL, context_length=1 << 20), 1 << 19, ROOMY).cache_bytes


def test_a_prompt_meets_more_experts_than_a_token():
    """Two of eight for one token; of 512 tokens nearly none is left out, and reading them all may take longest."""
    met = Product(WeightFormat.Q4_K, 250_000_000, 1_000_000, unmet_bytes=750_000_000)
    sparse = replace(MODEL, products=(met,), attention=())
    one, whole = 0.25e9 / 15e9 / 0.8, 1e9 / 15e9 / 0.8
    assert decode_seconds(sparse, RATES, 0).products == pytest.approx(one)
    assert prefill_seconds(sparse, RATES, 1).products == pytest.approx(one)
    assert prefill_seconds(sparse, RATES, 2).products == pytest.approx(whole * (1 - 0.75**2))
    assert prefill_seconds(sparse, RATES, 512).products == pytest.approx(whole)


def test_states_of_fixed_size_belong_to_a_conversation():
    with_states = replace(MODEL, state_bytes=5_000_000)
    added = forecast_memory(with_states, 4096, ROOMY).cache_bytes - forecast_memory(MODEL, 4096, ROOMY).cache_bytes
    assert added == 5_000_000
