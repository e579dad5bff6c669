"""Tenants that share an engine: who is served when, seen in the tokens of each step, which stand for time."""

import random
import time
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paged_fake import VOCAB_SIZE
from test_scheduling import CONTEXT, FULL, Bench, a_request, assert_nothing_is_held

from abaci.engine import lane as lanes
from abaci.engine.scheduler import (
    BACKGROUND_TOKENS,
    QUIET_BACKGROUND_TOKENS,
    QUIET_SECONDS,
    Scheduler,
    SchedulerConfig,
)
from abaci.generation import FinishReason
from abaci.kernels.batch import PAGE_TOKENS

FIXED_TOKENS = 8
"""What a step costs beside its tokens, in tokens."""


class Clock:
    """Drives a bench and measures in tokens computed, as if each took equally long."""

    def __init__(self, bench):
        self.bench = bench
        self.now = 0
        self.submitted = {}
        self.first_token = {}
        self.last_token = {}
        self.gaps = {}
        self.ended = {}

    def submit(self, request, at=None):
        self.submitted[request.request_id] = self.now if at is None else at
        self.bench.submit(request)

    def step(self):
        events = self.bench.step()
        self.now += FIXED_TOKENS + sum(self.bench.plans[-1].counts)
        for event in events:
            name = event.request_id
            if event.token_ids:
                self.first_token.setdefault(name, self.now)
                self.gaps.setdefault(name, []).append(self.now - self.last_token.get(name, self.now))
                self.last_token[name] = self.now
            if event.finish_reason:
                self.ended[name] = self.now

    def waited(self, name):
        return self.first_token[name] - self.submitted[name]


def unique_prompt(number, length):
    return [random.Random(number * 1000 + i).randrange(97) for i in range(length)]


def victim_waits(flood):
    """Times to first token of a tenant that asks now and then, with others' requests beside."""
    clock = Clock(Bench(num_pages=400, max_sequences=16, max_step_tokens=128))
    for request in flood:
        clock.submit(request)
    for _ in range(12):
        clock.step() if clock.bench.scheduler.has_work else None
    arrivals = random.Random(1)
    names = []
    for number in range(12):
        begin = clock.now + arrivals.randrange(300, 900)
        while clock.now < begin and clock.bench.scheduler.has_work:
            clock.step()
        clock.now = max(clock.now, begin) if not clock.bench.scheduler.has_work else clock.now
        request = a_request(f"v{number}", unique_prompt(5000 + number, 200), max_tokens=10, tenant="victim")
        clock.submit(request, at=begin)
        names.append(request.request_id)
        while request.request_id not in clock.ended:
            clock.step()
    return sorted(clock.waited(name) for name in names)


def flood_of(count, **others):
    return [a_request(f"f{i}", unique_prompt(i, 60), max_tokens=40, tenant="flood", **others) for i in range(count)]


def test_a_flood_hardly_delays_the_first_token_of_another_tenant():
    alone, flooded = victim_waits([]), victim_waits(flood_of(600))
    assert flooded[-2] <= 1.5 * alone[-2]


def test_a_flood_of_one_tenant_delays_its_own():
    flood = flood_of(300)
    waits = victim_waits([replace(request, tenant="victim") for request in flood])
    assert waits[-1] > 10_000


def test_background_hardly_delays_anybody():
    alone, beside = victim_waits([]), victim_waits(flood_of(300, is_background=True))
    assert beside[-2] <= 1.1 * alone[-2]


def test_background_hardly_slows_streams():
    gaps = []
    for count in (0, 200):
        clock = Clock(Bench(num_pages=400, max_sequences=32, max_step_tokens=128))
        for request in flood_of(count, is_background=True):
            clock.submit(request)
        for number in range(20):
            clock.submit(a_request(f"s{number}", [number], max_tokens=60, tenant="stream"))
        while any(f"s{number}" not in clock.ended for number in range(20)):
            clock.step()
        gaps.append(sorted(gap for name in clock.gaps if name[0] == "s" for gap in clock.gaps[name][1:]))
    assert gaps[1][len(gaps[1]) // 2] <= 1.1 * gaps[0][len(gaps[0]) // 2]
    assert gaps[1][-1] <= 1.1 * gaps[0][-1]


def test_background_uses_what_is_left_and_comes_to_its_end():
    bench = Bench(max_sequences=64, max_step_tokens=64, num_pages=200)
    bench.submit(a_request())
    bench.finish()
    batch = [a_request(f"b{i}", unique_prompt(i, 10), max_tokens=20, is_background=True) for i in range(80)]
    for request in batch:
        bench.submit(request)
    for _ in range(20):
        bench.step()
        assert sum(bench.plans[-1].counts) == BACKGROUND_TOKENS
    assert len(bench.plans[-1].sequences) == BACKGROUND_TOKENS, "background runs together as well"
    bench.seconds += QUIET_SECONDS
    for _ in range(20):
        bench.step()
        assert sum(bench.plans[-1].counts) == QUIET_BACKGROUND_TOKENS
    bench.finish().assert_as_expected(*batch)


def test_background_gives_its_pages_and_its_places_to_others():
    bench = Bench(num_pages=12, max_sequences=2, max_step_tokens=64)
    batch = [a_request(f"b{i}", unique_prompt(i, 100), max_tokens=60, is_background=True) for i in range(2)]
    for request in batch:
        bench.submit(request)
    for _ in range(20):
        bench.step()
    urgent = [a_request(f"u{i}", unique_prompt(9 + i, 150), max_tokens=30) for i in range(2)]
    for request in urgent:
        bench.submit(request)
    bench.finish().assert_as_expected(*batch, *urgent)
    ends = [event.request_id for event in bench.events if event.finish_reason]
    assert set(ends[:2]) == {"u0", "u1"}
    assert bench.scheduler.counters.preemptions >= 2


def test_a_prompt_at_most_doubles_the_time_between_a_streams_tokens():
    clock = Clock(Bench(num_pages=200, max_sequences=32, max_step_tokens=512))
    for number in range(16):
        clock.submit(a_request(f"s{number}", [number], max_tokens=60))
    for _ in range(5):
        clock.step()
    before = clock.gaps["s0"][-1]
    clock.submit(a_request("p", range(240), max_tokens=2))
    while "p" not in clock.first_token:
        clock.step()
        assert clock.gaps["s0"][-1] <= 2 * before


def test_pieces_of_a_prompt_become_shorter_as_its_tokens_become_dearer():
    doubling = 40
    bench = Bench(num_pages=200, max_sequences=32, max_step_tokens=512)
    bench.scheduler = Scheduler(SchedulerConfig(CONTEXT, VOCAB_SIZE, 32, 512, doubling), bench.cache)
    bench.submit(a_request("s", [1], max_tokens=60))
    bench.step()
    prompt = a_request("p", range(240), max_tokens=2)
    bench.submit(prompt)
    costs = []
    while not bench.tokens("p"):
        bench.step()
        start, count = bench.plans[-1].starts[-1], bench.plans[-1].counts[-1]
        costs.append(sum(1 + position / doubling for position in range(start, start + count)))
        assert 8 <= count <= 16 or start + count == 240
        assert costs[-1] <= 1.25 * 16 * (1 + 8 / doubling) or count <= 8
    assert bench.plans[-2].counts[-1] == 8
    bench.finish().assert_as_expected(prompt)


def test_places_are_shared_without_waiting_for_long_answers():
    clock = Clock(Bench(num_pages=200, max_sequences=8, max_step_tokens=64))
    flood = [a_request(f"f{i}", [i], max_tokens=200, tenant="flood") for i in range(40)]
    for request in flood:
        clock.submit(request)
    for _ in range(10):
        clock.step()
    assert clock.bench.scheduler.num_running == 8
    others = [a_request(f"o{i}", [i, i], max_tokens=5, tenant=f"other{i}") for i in range(3)]
    for request in others:
        clock.submit(request)
    for _ in range(3):
        clock.step()
    assert {"o0", "o1", "o2"} <= clock.first_token.keys()
    clock.bench.finish().assert_as_expected(*flood, *others)


def test_tenants_that_always_ask_get_equally_many_tokens():
    bench = Bench(num_pages=400, max_sequences=12, max_step_tokens=64)
    for tenant, count, length in (("a", 100, 200), ("b", 300, 20), ("c", 200, 60)):
        for index in range(count):
            name = f"{tenant}{index}"
            bench.submit(a_request(name, unique_prompt(hash(name) % 9999, length), max_tokens=20, tenant=tenant))
    served = dict.fromkeys("abc", 0)
    for _ in range(150):
        bench.step()
        plan = bench.plans[-1]
        for sequence, count in zip(plan.sequences, plan.counts, strict=True):
            served[sequence.request.tenant] += count
    assert max(served.values()) < 1.3 * min(served.values())


def test_a_tenant_that_was_away_does_not_own_the_machine_when_it_returns(monkeypatch):
    monkeypatch.setattr(lanes, "SAVED_TOKENS", 100)
    bench = Bench(num_pages=200, max_sequences=8, max_step_tokens=64)
    for index in range(400):
        bench.submit(a_request(f"busy{index}", unique_prompt(index, 60), max_tokens=3, tenant="busy"))
    for _ in range(100):
        bench.step()
    for index in range(100):
        bench.submit(a_request(f"back{index}", unique_prompt(900 + index, 60), max_tokens=3, tenant="back"))
    served = {"busy": 0, "back": 0}
    for _ in range(40):
        bench.step()
        plan = bench.plans[-1]
        for sequence, count in zip(plan.sequences, plan.counts, strict=True):
            served[sequence.request.tenant] += count
    assert served["busy"] > 0.4 * served["back"]


def test_priority_orders_the_requests_of_one_tenant_only():
    bench = Bench(max_sequences=1, max_step_tokens=64)
    for name, tenant, priority in (("a", "x", 0), ("late", "x", 5), ("soon", "x", -5), ("other", "y", 9)):
        bench.submit(a_request(name, unique_prompt(ord(name[0]), 40), tenant=tenant, priority=priority))
        if name == "a":
            bench.step()
    bench.finish()
    ends = [event.request_id for event in bench.events if event.finish_reason]
    assert ends == ["a", "other", "soon", "late"]


@pytest.mark.parametrize("count", [2, 9])
def test_equal_prompts_are_computed_once(count):
    bench = Bench(max_sequences=16, max_step_tokens=64, num_pages=100)
    prompt = unique_prompt(1, 200)
    requests = [a_request(f"r{i}", [*prompt, i], max_tokens=4) for i in range(count)]
    for request in requests:
        bench.submit(request)
    bench.finish().assert_as_expected(*requests)
    shared = 200 // PAGE_TOKENS * PAGE_TOKENS
    assert [bench.first(f"r{i}").num_cached_tokens for i in range(count)] == [0] + [shared] * (count - 1)
    assert bench.scheduler.counters.computed_tokens == 201 + (count - 1) * (201 - shared) + count * 3


def test_who_waits_for_a_prefix_goes_on_where_its_leader_ends():
    bench = Bench(max_sequences=16, max_step_tokens=16, num_pages=100)
    prompt = unique_prompt(1, 200)
    requests = [a_request(f"r{i}", [*prompt, i], max_tokens=4) for i in range(4)]
    for request in requests:
        bench.submit(request)
    for _ in range(3):
        bench.step()
    assert (bench.scheduler.num_running, bench.scheduler.num_waiting) == (1, 3)
    bench.cancel("r0")
    bench.step()
    assert (bench.scheduler.num_running, bench.scheduler.num_waiting) == (1, 2)
    bench.cancel("r2")
    bench.finish().assert_as_expected(requests[1], requests[3])
    assert bench.last("r0").finish_reason is bench.last("r2").finish_reason is FinishReason.CANCELLED
    assert_nothing_is_held(bench)


def test_no_prefix_is_shared_across_salts_nor_waited_for_across_tenants():
    bench = Bench(max_sequences=16, max_step_tokens=512, num_pages=100)
    prompt = unique_prompt(1, 200)
    first = a_request("a", prompt, tenant="x", cache_salt="s")
    for other in (replace(first, request_id="b", cache_salt="t"), replace(first, request_id="c", tenant="y")):
        bench.submit(replace(first, request_id="a" + other.request_id))
        bench.submit(other)
        bench.step()
        assert bench.scheduler.num_waiting == 0
        bench.finish()
    assert bench.first("b").num_cached_tokens == 0
    assert bench.first("c").num_cached_tokens == 192, "equal salts share whoever asks"


def test_ten_thousand_that_wait_slow_no_step():
    def seconds_of_steps(num_waiting):
        bench = Bench(num_pages=64, max_sequences=8, max_step_tokens=64)
        for index in range(num_waiting):
            bench.scheduler.submit(a_request(str(index), [index % 97, 1], max_tokens=50, tenant=str(index % 50)))
        seconds = []
        for _ in range(60):
            begin = time.thread_time()
            plan = bench.scheduler.plan()
            middle = time.thread_time()
            result = bench.runner.run(plan)
            end = time.thread_time()
            bench.scheduler.commit(result)
            seconds.append(time.thread_time() - end + middle - begin)
        return sorted(seconds)[30]

    assert seconds_of_steps(10_000) < 5 * seconds_of_steps(100)


def test_ten_thousand_can_be_cancelled_in_any_order_at_once():
    bench = Bench(num_pages=64, max_sequences=8, max_step_tokens=64)
    names = [str(index) for index in range(10_000)]
    for name in names:
        bench.scheduler.submit(a_request(name, [1, 2], tenant=name[-2:], priority=int(name[0])))
    bench.step()
    random.Random(0).shuffle(names)
    begin = time.thread_time()
    for name in names[:-10]:
        bench.scheduler.cancel(name)
    assert time.thread_time() - begin < 3
    bench.scheduler.check_integrity()
    assert bench.scheduler.num_waiting + bench.scheduler.num_running == 10
    assert sum(len(tenant._heap) for tenant in bench.scheduler._interactive._tenants.values()) < 30
    bench.finish()
    assert_nothing_is_held(bench)


def test_a_tenant_that_comes_and_goes_while_the_line_stands_still_leaves_nothing_behind():
    bench = Bench(max_sequences=1)
    for index in range(3):
        bench.submit(a_request(f"a{index}", max_tokens=200, tenant="a"))
    bench.step()
    for index in range(3000):
        bench.scheduler.submit(a_request("b", tenant=f"t{index}"))
        bench.scheduler.cancel("b")
    bench.scheduler.check_integrity()
    lane = bench.scheduler._interactive
    assert len(lane._order) < 10 and len(lane._counters_of_others) == lanes.NUM_REMEMBERED


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10_000),
    num_tenants=st.integers(1, 5),
    max_sequences=st.integers(1, 6),
    num_pages=st.integers(10, 40),
)
def test_nobody_starves_however_much_others_ask(seed, num_tenants, max_sequences, num_pages):
    """While tenants ask without end, one request of each is watched, and ends."""
    choose = random.Random(seed)
    bench = Bench(FULL, num_pages, max_sequences, max_step_tokens=choose.choice([16, 64]))
    watched = [
        a_request(
            f"w{i}", unique_prompt(i, choose.randrange(1, 200)), max_tokens=choose.randrange(1, 50), tenant=f"t{i}"
        )
        for i in range(num_tenants)
    ]
    number = 0
    for _ in range(4000):
        while bench.scheduler.num_waiting < 12:
            number += 1
            prompt = unique_prompt(choose.randrange(10**6), choose.randrange(1, 120))
            tenant = f"t{choose.randrange(num_tenants)}"
            bench.submit(a_request(f"r{number}", prompt, max_tokens=choose.randrange(1, 40), tenant=tenant))
            if number <= len(watched):
                bench.submit(watched[number - 1])
        bench.step()
        ended = {event.request_id for event in bench.events if event.finish_reason}
        if number >= len(watched) and all(request.request_id in ended for request in watched):
            break
    bench.assert_as_expected(*watched)
