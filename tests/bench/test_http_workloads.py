"""What the loads are made of: lengths, seeds, arrivals."""

from itertools import pairwise
from statistics import mean

import pytest

from abaci.bench.http.text import PromptWriter
from abaci.bench.http.workloads import Arrivals, Prefix, Streams, Turns, Visits


def count_words(text):
    return len(text.split())


def writer(seed="seed"):
    return PromptWriter(count_words, seed)


ALL = (
    Streams(4, 12, 8),
    Arrivals(2.0, 12, 8),
    Prefix(1500, 3, 8, is_shared=True),
    Prefix(1500, 3, 8, is_shared=False),
    Turns(2, 3, 8),
    Visits(3, 40, 2000, (1.0, 2.0)),
)


@pytest.mark.parametrize("workload", ALL, ids=lambda workload: workload.name)
def test_a_seed_makes_the_same_load_and_another_seed_another(workload):
    assert workload.load(writer()) == workload.load(writer())
    assert workload.load(writer()) != workload.load(writer("other"))


@pytest.mark.parametrize("num_tokens", [16, 100, 1500])
def test_prompts_have_about_the_length_asked_for(num_tokens):
    lengths = [count_words(writer(str(seed)).write(num_tokens)) for seed in range(20)]
    assert all(abs(length - num_tokens) <= 6 for length in lengths)


def test_no_two_prompts_begin_alike():
    one = writer()
    assert len({one.write(50)[:12] for _ in range(200)}) == 200


def test_lengths_are_mixed_within_bounds():
    one = writer()
    lengths = [one.draw_length(128, 0.8, 16, 1024) for _ in range(4000)]
    assert min(lengths) >= 16 and max(lengths) == 1024
    assert 120 <= sorted(lengths)[2000] <= 136
    assert mean(lengths) > 150  # a long tail


def test_arrivals_are_random_with_the_rate_asked_for():
    load = Arrivals(4.0, 2000, 8).load(writer())
    times = [conversation.start_seconds for conversation in load.conversations]
    gaps = [end - begin for begin, end in pairwise(times)]
    assert load.num_streams is None
    assert times[0] == 0.0 and min(gaps) > 0
    assert mean(gaps) == pytest.approx(0.25, rel=0.1)
    assert mean(gap > 0.25 for gap in gaps) == pytest.approx(0.368, abs=0.04)  # exponential


def test_a_shared_prefix_is_seen_before_the_clock_starts_and_a_new_one_never():
    shared = Prefix(300, 4, 8, is_shared=True).load(writer())
    beginnings = {conversation.turns[0][:1200] for conversation in (*shared.conversations, *shared.warm_up)}
    assert len(beginnings) == 1 and len(shared.warm_up) == 1
    assert len({conversation.turns[0] for conversation in shared.conversations}) == 4
    new = Prefix(300, 4, 8, is_shared=False).load(writer())
    assert len({conversation.turns[0][:12] for conversation in new.conversations}) == 4 and not new.warm_up


def test_visitors_come_at_their_times_and_ask_for_one_token():
    load = Visits(3, 40, 2000, (1.0, 2.5)).load(writer())
    assert [(visitor.start_seconds, visitor.answer_tokens) for visitor in load.visitors] == [(1.0, 1), (2.5, 1)]
    assert all(count_words(visitor.turns[0]) > 1900 for visitor in load.visitors)
    assert len(load.conversations) == load.num_streams == 3
