"""Tuning, turns and figures, with contenders whose speeds are written down."""

import json
from pathlib import Path
from random import Random

import pytest
from scripted_contender import ScriptedContender

from abaci.bench import comparison
from abaci.bench.abaci_contender import Recording
from abaci.bench.comparison import measure_alternating, tune
from abaci.bench.contender import Timing, describe_settings
from abaci.bench.costs import ModelCosts, costs_of_file
from abaci.bench.report import Figure, Measurement, Unit, as_plain
from abaci.bench.workloads import Decode, Prefill, Tokens
from abaci.errors import AbaciError, ResourceError
from abaci.generation import FinishReason, TokenEvent
from abaci.kernels.ceilings import Ceilings
from abaci.kernels.footprint import Product
from abaci.tensor import WeightFormat


@pytest.fixture
def tokens():
    return Tokens(1000, Random(1))


def ignore(line):
    pass


OPTIONS = {"flash_attention": [True, False], "ubatch_tokens": [512, 256, 1024]}


def test_tuning_finds_the_best_of_each_option(tokens):
    def speed(settings):
        return {512: 10, 256: 12, 1024: 11}[settings["ubatch_tokens"]] + (0 if settings["flash_attention"] else 5)

    contender = ScriptedContender("peer", OPTIONS, speed)
    assert tune(contender, Prefill(64), tokens, ignore) == {"flash_attention": False, "ubatch_tokens": 256}
    assert len(contender.calls) == 4


def test_tuning_keeps_the_likeliest_value_where_nothing_is_better(tokens):
    contender = ScriptedContender("peer", OPTIONS)
    assert tune(contender, Prefill(64), tokens, ignore) == {"flash_attention": True, "ubatch_tokens": 512}


def test_nothing_to_tune_is_warmed_up_all_the_same(tokens):
    contender = ScriptedContender("own")
    told = []
    assert tune(contender, Decode(4, 16), tokens, told.append) == {}
    assert len(contender.calls) == 1
    assert told == ["own: decode, 4 streams, warming up"]


def test_repetitions_take_turns_at_the_best_settings(tokens):
    calls = []
    own = ScriptedContender("own", calls=calls, speed=lambda settings: 300.0)
    peer = ScriptedContender(
        "peer", {"flash_attention": [True, False]}, lambda s: 100.0 if s["flash_attention"] else 150.0, calls
    )
    figure = measure_alternating([own, peer], Prefill(32), 3, tokens, ignore)
    timed = calls[3:]
    assert [name for name, _, _ in timed] == ["own", "peer"] * 3
    assert all(settings == {"flash_attention": False} for name, _, settings in timed if name == "peer")
    assert figure.ratios == pytest.approx({"peer": 2.0})
    assert [len(measurement.samples) for measurement in figure.measurements] == [3, 3]


def test_every_prefill_is_new_and_both_sides_get_the_same(tokens):
    calls = []
    contenders = [ScriptedContender("own", calls=calls), ScriptedContender("peer", calls=calls)]
    measure_alternating(contenders, Prefill(32), 2, tokens, ignore)
    prompts = [prompts for _, prompts, _ in calls[2:]]
    assert prompts[0] == prompts[1] != prompts[2] == prompts[3]


def test_streams_have_different_prompts_away_from_special_tokens(tokens):
    prompts = Decode(16, 8).prompts(tokens)
    assert len({tuple(prompt) for prompt in prompts}) == 16
    assert all(50 <= token_id < 950 for prompt in prompts for token_id in prompt)
    assert {len(prompt) for prompt in prompts} == {128}


def event(request_id, *token_ids, finish_reason=None, error=None):
    return TokenEvent(request_id, 0, token_ids, finish_reason=finish_reason, error=error)


def test_only_whole_steps_that_every_stream_runs_in_count():
    recording = Recording(2)
    recording.add(1.0, event("early", 5))
    recording.add(2.0, event("early", 5))
    recording.add(3.0, event("early", 5))
    recording.add(3.1, event("late", 5))
    for step in (4.0, 5.0):
        recording.add(step, event("early", 5))
        recording.add(step + 0.1, event("late", 5))
    recording.add(6.0, event("early", 5, finish_reason=FinishReason.LENGTH))
    recording.add(6.1, event("late", 5))
    recording.add(7.0, event("late", 5, finish_reason=FinishReason.LENGTH))
    assert recording.wait(0)
    timing = recording.steady_timing()
    assert timing.num_tokens == 4
    assert timing.seconds == pytest.approx(2.0)


def test_a_single_stream_counts_from_its_first_token_to_its_last():
    recording = Recording(1)
    for seconds in (1.0, 1.5, 2.0):
        recording.add(seconds, event("only", 5, finish_reason=FinishReason.LENGTH if seconds == 2.0 else None))
    assert recording.steady_timing() == Timing(2, 1.0)


def test_streams_that_never_run_together_are_an_error():
    recording = Recording(2)
    recording.add(1.0, event("a", 5, finish_reason=FinishReason.LENGTH))
    recording.add(2.0, event("b", 5, finish_reason=FinishReason.LENGTH))
    with pytest.raises(AbaciError, match="never all ran together"):
        recording.steady_timing()


def test_an_error_of_a_stream_is_raised():
    recording = Recording(1)
    recording.add(1.0, event("a", finish_reason=FinishReason.ERROR, error=ResourceError("no memory")))
    with pytest.raises(ResourceError, match="no memory"):
        recording.wait(0)


def figure_of(first, second, *, is_better_higher):
    measurements = (Measurement("own", first, {}), Measurement("peer", second, {"ubatch_tokens": 512}))
    return Figure("work", Unit.SECONDS, is_better_higher, measurements, 0.0)


def test_a_ratio_above_one_favours_the_first():
    assert figure_of((30.0, 10.0, 20.0), (10.0,), is_better_higher=True).ratios == {"peer": 2.0}
    assert figure_of((1.0,), (4.0,), is_better_higher=False).ratios == {"peer": 4.0}
    assert Figure("alone", Unit.SHARE, False, (Measurement("own", (0.1,), {}),), 0.0).ratios == {}


def test_each_of_several_peers_has_its_ratio():
    measurements = tuple(Measurement(name, (speed,), {}) for name, speed in (("own", 6.0), ("a", 3.0), ("b", 2.0)))
    assert Figure("work", Unit.TOKENS_PER_SECOND, True, measurements, 0.0).ratios == {"a": 2.0, "b": 3.0}


def test_json_has_samples_and_what_follows_from_them():
    plain = json.loads(json.dumps(as_plain(figure_of((1.0, 3.0, 2.0), (4.0,), is_better_higher=False))))
    assert plain["unit"] == "seconds"
    assert plain["ratios"] == {"peer": 2.0}
    assert plain["measurements"][0]["samples"] == [1.0, 3.0, 2.0]
    assert plain["measurements"][0]["median"] == 2.0
    assert plain["measurements"][1]["settings"] == {"ubatch_tokens": 512}


def test_shares_of_the_ceilings():
    body = Product(WeightFormat.Q4_0, 900, 200)
    head = Product(WeightFormat.Q8_0, 100, 100, asked_only=True)
    costs = ModelCosts(file_bytes=0, products=(body, head))
    ceilings = Ceilings(read_bytes_per_second=50_000.0, int8_operations_per_second=30_000.0)
    assert costs.read_share(Decode(4, 8), 100.0, ceilings) == pytest.approx(25 * 1000 / 50_000)
    assert costs.int8_share(Decode(4, 8), 100.0, ceilings) == pytest.approx(300 * 100 / 30_000)
    assert costs.read_share(Prefill(10), 100.0, ceilings) == pytest.approx(10 * 1000 / 50_000)
    assert costs.int8_share(Prefill(10), 100.0, ceilings) == pytest.approx(210 * 100 / 30_000)


def test_streams_that_meet_different_experts_read_more():
    experts = Product(WeightFormat.Q4_K, 250, 100, unmet_bytes=750)
    costs = ModelCosts(file_bytes=0, products=(experts,))
    assert costs.step_bytes(1) == 250
    assert costs.step_bytes(2) == pytest.approx(1000 * (1 - 0.75**2))
    ceilings = Ceilings(read_bytes_per_second=10_000.0, int8_operations_per_second=1.0)
    assert costs.read_share(Decode(2, 8), 16.0, ceilings) == pytest.approx(8 * 437.5 / 10_000)


def test_costs_of_a_real_file(smollm2_path):
    costs = costs_of_file(smollm2_path)
    assert costs.file_bytes == 98_362_432
    mlp = 3 * 1536 * 576
    assert costs.asked_operations == 2 * (49152 * 576 + mlp)
    assert costs.body_operations == 2 * (30 * (2 * 576 * 576 + 2 * 192 * 576 + mlp) - mlp)
    # Q4_1 of 32 outputs: 640 bytes per group of 32 inputs, and 64 per eight groups.
    from_576, from_1536 = 18 * 640 + 3 * 64, 48 * 640 + 6 * 64
    body_bytes = 30 * ((2 * 576 + 2 * 192 + 2 * 1536) // 32 * from_576 + 576 // 32 * from_1536)
    assert costs.step_bytes(1) == body_bytes + 49152 * 576 * 34 // 32


def test_settings_in_words():
    assert describe_settings({"flash_attention": True, "ubatch_tokens": 512}) == "flash attention on, ubatch tokens 512"


def test_first_loads_find_no_packed_weights(monkeypatch):
    environments = []

    class Child:
        def __init__(self, name, environment):
            environments.append(environment)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def first_token(self, path, num_threads):
            return 0.5 * len(environments)

    monkeypatch.setattr(comparison, "ContenderProcess", Child)
    figure = comparison._measure_first_loads(Path("a.gguf"), "abaci", 2, 3, ignore)
    assert environments == [{"ABACI_PACKED_CACHE_GB": "0"}] * 3
    assert (figure.measurements[0].samples, figure.ratios) == ((0.5, 1.0, 1.5), {})
