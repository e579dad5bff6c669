"""Scheduler, cache and runner over the paged fake: every request gets what it gets alone, and nothing leaks."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paged_fake import VOCAB_SIZE, PagedFake, expected_embedding, expected_tokens, keys_of, logprob_of, top_of

from abaci.engine.kv_cache import KVCache
from abaci.engine.limits import SchedulerConfig
from abaci.engine.runner import Runner
from abaci.engine.scheduler import Scheduler
from abaci.errors import ContextLengthError, ResourceError, UsageError
from abaci.generation import FinishReason, GenerationRequest, Pooling, TokenEvent
from abaci.kernels.batch import PAGE_TOKENS

CONTEXT = 8 * PAGE_TOKENS
FULL = (None,)
MIXED = (None, 40)
WINDOWED = (40,)


class Bench:
    """The parts of an engine without its thread; checks integrity after every step."""

    def __init__(self, windows=FULL, num_pages=64, max_sequences=8, max_step_tokens=64, num_states=0):
        pools = (num_pages,) * len(windows) if isinstance(num_pages, int) else num_pages
        self.windows = windows
        self.executor = PagedFake(windows)
        self.executor.allocate_cache(pools, num_states)
        self.cache = KVCache(windows, pools, PAGE_TOKENS, num_states)
        config = SchedulerConfig(CONTEXT, VOCAB_SIZE, max_sequences, max_step_tokens)
        self.seconds = 1000.0
        self.scheduler = Scheduler(config, self.cache, clock=lambda: self.seconds)
        self.runner = Runner(
            self.executor,
            num_groups=len(windows),
            vocab_size=VOCAB_SIZE,
            context_length=CONTEXT,
            max_sequences=max_sequences,
            max_step_tokens=max_step_tokens,
            has_states=num_states > 0,
        )
        self.events: list[TokenEvent] = []
        self.plans = []

    def submit(self, request):
        self.scheduler.check(request)
        self.scheduler.submit(request)

    def step(self):
        plan = self.scheduler.plan()
        self.plans.append(plan)
        events = self.scheduler.commit(self.runner.run(plan))
        self.scheduler.check_integrity()
        self.events.extend(events)
        return events

    def finish(self):
        for _ in range(10_000):
            if not self.scheduler.has_work:
                return self
            self.step()
        raise AssertionError("the requests do not come to an end")

    def cancel(self, request_id, sample_index=None):
        self.events.extend(self.scheduler.cancel(request_id, sample_index))
        self.scheduler.check_integrity()

    def tokens(self, request_id, sample_index=0):
        mine = [e for e in self.events if (e.request_id, e.sample_index) == (request_id, sample_index)]
        return tuple(token for event in mine for token in event.token_ids)

    def last(self, request_id, sample_index=0):
        return [e for e in self.events if (e.request_id, e.sample_index) == (request_id, sample_index)][-1]

    def first(self, request_id, sample_index=0):
        return next(e for e in self.events if (e.request_id, e.sample_index) == (request_id, sample_index))

    def assert_as_expected(self, *requests):
        for request in requests:
            for index in range(request.num_samples):
                assert self.tokens(request.request_id, index) == expected_tokens(request, index, self.windows)
                ends = [e for e in self.events if e.request_id == request.request_id and e.sample_index == index]
                assert [e.finish_reason is not None for e in ends] == [False] * (len(ends) - 1) + [True]


def a_request(request_id="a", prompt=range(10), max_tokens=5, **others):
    return GenerationRequest(request_id, tuple(t % VOCAB_SIZE for t in prompt), max_tokens, **others)


@pytest.mark.parametrize("windows", [FULL, MIXED, WINDOWED])
def test_a_long_prompt_is_computed_in_chunks(windows):
    bench = Bench(windows, max_step_tokens=7, max_sequences=2)
    request = a_request(prompt=range(100), max_tokens=60)
    bench.submit(request)
    bench.finish().assert_as_expected(request)
    assert bench.scheduler.counters.prompt_chunks == 14
    assert max(sum(plan.counts) for plan in bench.plans) == 7


@pytest.mark.parametrize("windows", [FULL, MIXED, WINDOWED])
def test_a_cached_prefix_is_not_computed_again(windows):
    bench = Bench(windows)
    first, second = a_request("a", range(100)), a_request("b", [*range(96), 5, 6, 7])
    bench.submit(first)
    bench.finish().submit(second)
    bench.finish().assert_as_expected(first, second)
    assert bench.first("a").num_cached_tokens == 0
    assert bench.first("b").num_cached_tokens == 96
    assert bench.last("b").num_cached_tokens == 0, "said once"
    assert bench.scheduler.counters.prefix_hit_tokens == 96


def test_a_hit_never_covers_the_whole_prompt():
    bench = Bench()
    for request_id in "ab":
        bench.submit(a_request(request_id, range(2 * PAGE_TOKENS)))
        bench.finish()
    assert bench.first("b").num_cached_tokens == PAGE_TOKENS


def test_generated_tokens_are_found_again_as_a_prefix():
    bench = Bench()
    first = a_request("a", range(20), max_tokens=60)
    bench.submit(first)
    bench.finish()
    second = a_request("b", (*first.prompt_token_ids, *bench.tokens("a"), 1))
    bench.submit(second)
    bench.finish().assert_as_expected(first, second)
    assert bench.first("b").num_cached_tokens == 2 * PAGE_TOKENS


def test_a_conversation_sent_again_goes_on_from_the_last_whole_page_of_its_answer():
    bench = Bench(num_states=8)
    first = a_request("a", range(50), max_tokens=90)
    bench.submit(first)
    bench.finish()
    second = a_request("b", (*first.prompt_token_ids, *bench.tokens("a"), 1, 2))
    bench.submit(second)
    bench.finish().assert_as_expected(first, second)
    assert bench.first("b").num_cached_tokens == (50 + 90 - 1) // PAGE_TOKENS * PAGE_TOKENS


def test_a_prompt_leaves_a_state_at_its_last_whole_page():
    bench = Bench(num_states=8)
    for request_id in "ab":
        request = a_request(request_id, range(100))
        bench.submit(request)
        bench.finish().assert_as_expected(request)
    assert bench.first("b").num_cached_tokens == 3 * PAGE_TOKENS


def test_what_two_prompts_share_has_a_state_from_the_second_on():
    """Nobody knows where prompts will differ before two of them do; then it is remembered."""
    bench = Bench(num_states=16, max_step_tokens=100)
    for request_id in "abc":
        request = a_request(request_id, [*range(70), *range(ord(request_id), ord(request_id) + 80)])
        bench.submit(request)
        bench.finish().assert_as_expected(request)
    assert [bench.first(request_id).num_cached_tokens for request_id in "abc"] == [0, 0, 2 * PAGE_TOKENS]


def test_samples_of_a_request_share_its_state():
    bench = Bench(num_states=16)
    request = a_request("a", range(3 * PAGE_TOKENS + 5), max_tokens=8, num_samples=4)
    bench.submit(request)
    bench.finish().assert_as_expected(request)
    assert [bench.first("a", index).num_cached_tokens for index in range(1, 4)] == [3 * PAGE_TOKENS] * 3


def test_states_that_run_out_delay_and_do_not_fail():
    bench = Bench(num_states=2)
    requests = [a_request(request_id, range(ord(request_id), ord(request_id) + 40)) for request_id in "abcdef"]
    for request in requests:
        bench.submit(request)
    bench.finish().assert_as_expected(*requests)


def test_a_window_hit_needs_its_window_resident():
    """A long sequence passes its window; another then takes the window group's idle pages, and the hit shrinks."""
    bench = Bench(MIXED, num_pages=64)
    bench.cache = KVCache(MIXED, (64, 6), PAGE_TOKENS)
    bench.executor.allocate_cache((64, 6))
    bench.scheduler = Scheduler(SchedulerConfig(CONTEXT, VOCAB_SIZE, 8, 64), bench.cache)
    prompt = range(6 * PAGE_TOKENS)
    first, other = a_request("a", prompt), a_request("b", range(50, 50 + 5 * PAGE_TOKENS))
    again = a_request("c", prompt)
    for request in (first, other, again):
        bench.submit(request)
        bench.finish()
    bench.assert_as_expected(first, other, again)
    assert bench.first("c").num_cached_tokens < 5 * PAGE_TOKENS


LONG = [7 * t + 3 for t in range(250)]


def test_a_long_prompt_leaves_other_conversations_their_states():
    bench = Bench(num_pages=40, max_step_tokens=PAGE_TOKENS, num_states=6)
    conversations = [a_request(name, range(begin, begin + 70)) for begin, name in enumerate("ab")]
    again = [
        replace(one, request_id=one.request_id + "2", prompt_token_ids=(*one.prompt_token_ids, 1, 2))
        for one in conversations
    ]
    for request in (*conversations, a_request("long", LONG), *again):
        bench.submit(request)
        bench.finish().assert_as_expected(request)
    assert [bench.first(request.request_id).num_cached_tokens for request in again] == [64, 64]


@pytest.mark.parametrize("windows", [MIXED, WINDOWED])
def test_a_long_prompt_leaves_other_conversations_their_windows(windows):
    bench = Bench(windows, num_pages=(40, 8)[-len(windows) :])
    first, again = a_request("a", range(100)), a_request("a2", [*range(100), 1, 2])
    for request in (first, a_request("long", LONG), again):
        bench.submit(request)
        bench.finish().assert_as_expected(request)
    assert bench.first("a2").num_cached_tokens == 96


def test_a_prompt_whose_thought_is_left_out_is_found_again():
    bench = Bench(MIXED, num_pages=(40, 6), max_sequences=1)
    prompt = range(70)
    bench.submit(a_request("thought", prompt, max_tokens=180))
    bench.finish().submit(a_request("next", [*prompt, 1, 2, 3]))
    assert bench.finish().first("next").num_cached_tokens == 64


def test_the_last_question_may_be_asked_in_other_words():
    bench = Bench(MIXED, num_pages=(40, 9))
    for request in (
        a_request("turn", range(100)),
        a_request("question", [*range(100), 1, 2, 3, *range(60)]),
        a_request("long", LONG),
        a_request("other", [*range(100), 9, 9, 9]),
    ):
        bench.submit(request)
        bench.finish().assert_as_expected(request)
    assert bench.first("other").num_cached_tokens == 96


def test_a_newcomer_joins_the_next_step_and_is_answered_first():
    bench = Bench(max_step_tokens=64)
    running, long, short = a_request("r", max_tokens=100), a_request("l", range(200)), a_request("s", range(90, 94))
    bench.submit(running)
    bench.step()
    bench.submit(long)
    bench.step()
    bench.submit(short)
    first_events = bench.step()
    assert [s.request.request_id for s in bench.plans[-1].sequences] == ["r", "l", "s"]
    assert {event.request_id for event in first_events} == {"r", "s"}
    bench.finish().assert_as_expected(running, long, short)


def test_streams_advance_in_every_step_while_prompts_are_computed():
    bench = Bench(max_step_tokens=16, max_sequences=8)
    streams = [a_request(f"s{i}", [i], max_tokens=40) for i in range(4)]
    for request in streams:
        bench.submit(request)
    bench.step()
    prompt = a_request("p", range(150))
    bench.submit(prompt)
    for _ in range(10):
        assert {event.request_id for event in bench.step()} >= {"s0", "s1", "s2", "s3"}
    bench.finish().assert_as_expected(*streams, prompt)


@pytest.mark.parametrize("windows", [FULL, MIXED])
def test_the_latest_gives_way_when_pages_run_out(windows):
    bench = Bench(windows, num_pages=6)
    requests = [a_request(name, range(i, i + 40), max_tokens=80) for i, name in enumerate("abc")]
    for request in requests:
        bench.submit(request)
    bench.finish().assert_as_expected(*requests)
    assert bench.scheduler.counters.preemptions > 0
    ends = [event.request_id for event in bench.events if event.finish_reason]
    assert ends[0] == "a"


def test_a_prompt_waits_until_there_is_room_for_all_of_it():
    bench = Bench(num_pages=5)
    first, second = a_request("a", range(120), max_tokens=8), a_request("b", range(50, 170), max_tokens=8)
    bench.submit(first)
    bench.submit(second)
    while not bench.events or bench.events[-1].finish_reason is None:
        bench.step()
        assert bench.scheduler.num_running <= 1
    bench.finish().assert_as_expected(first, second)
    assert bench.scheduler.counters.preemptions == 0


def test_samples_share_one_prompt():
    bench = Bench()
    request = a_request(prompt=range(70), num_samples=5, temperature=1.0, seed=3)
    bench.submit(request)
    bench.finish().assert_as_expected(request)
    assert len({bench.tokens("a", index) for index in range(5)}) == 5
    assert [bench.first("a", index).num_cached_tokens for index in range(5)] == [0, 64, 64, 64, 64]


def test_prompt_logprobs_of_a_cached_and_chunked_prompt():
    bench = Bench(MIXED, max_step_tokens=7, max_sequences=2)
    plain = a_request("a", range(70))
    scored = replace(plain, request_id="b", num_prompt_logprobs=3, num_logprobs=1, max_tokens=4)
    bench.submit(plain)
    bench.finish().submit(scored)
    bench.finish().assert_as_expected(plain, scored)
    first = bench.first("b")
    assert first.num_cached_tokens == 0
    keys = keys_of((*scored.prompt_token_ids, *bench.tokens("b")), MIXED)
    assert first.prompt_logprobs is not None
    assert first.prompt_logprobs[0] is None
    assert len(first.prompt_logprobs) == 71
    for position, entry in enumerate(first.prompt_logprobs[1:-1]):
        assert entry.token_id == scored.prompt_token_ids[position + 1]
        assert entry.logprob == logprob_of(keys[position], entry.token_id)
        assert entry.top == top_of(keys[position], 3)
    assert first.prompt_logprobs[-1].token_id == -1
    assert first.prompt_logprobs[-1].top == top_of(keys[69], 3)
    chosen = [entry for event in bench.events if event.request_id == "b" for entry in event.logprobs]
    assert [entry.token_id for entry in chosen] == list(bench.tokens("b"))
    assert [entry.top for entry in chosen] == [top_of(key, 1) for key in keys[69:-1]]
    assert all(event.prompt_logprobs is None for event in bench.events if event is not first)


def test_what_stands_before_the_wanted_logprobs_may_come_from_the_cache():
    bench = Bench(MIXED, max_step_tokens=7, max_sequences=2)
    plain = a_request("a", range(70))
    scored = replace(plain, request_id="b", max_tokens=0, num_prompt_logprobs=0, prompt_logprobs_begin=66)
    bench.submit(plain)
    bench.finish().submit(scored)
    bench.finish().assert_as_expected(plain, scored)
    first = bench.first("b")
    assert first.num_cached_tokens == 64
    assert first.prompt_logprobs[:66] == (None,) * 66
    assert [entry.token_id for entry in first.prompt_logprobs[66:]] == [66, 67, 68, 69, -1]


def test_prompt_logprobs_survive_preemption_in_the_middle_of_the_prompt():
    bench = Bench(num_pages=5, max_step_tokens=20, max_sequences=3)
    stream = a_request("s", range(30), max_tokens=100)
    scored = a_request("p", range(40, 140), max_tokens=1, num_prompt_logprobs=0)
    bench.submit(stream)
    bench.step()
    bench.submit(scored)
    while bench.scheduler.counters.preemptions == 0:
        bench.step()
    assert "p" not in {event.request_id for event in bench.events}, "the prompt was not finished"
    bench.finish().assert_as_expected(stream, scored)
    assert_logprobs(bench, scored, 0, FULL)


def test_max_tokens_zero_scores_and_generates_nothing():
    bench = Bench()
    bench.submit(a_request(max_tokens=0, num_prompt_logprobs=0))
    bench.finish()
    (event,) = bench.events
    assert event.token_ids == () and event.finish_reason is FinishReason.LENGTH
    assert [entry.token_id for entry in event.prompt_logprobs[1:]] == [*range(1, 10), -1]


@pytest.mark.parametrize("pooling", Pooling)
def test_an_embedding_is_the_same_whole_in_chunks_cached_and_among_others(pooling):
    request = a_request("e", range(100), max_tokens=0, pooling=pooling)
    for chunk in (512, 9):
        bench = Bench(max_step_tokens=chunk)
        plain = a_request("p", range(96), max_tokens=20)
        bench.submit(plain)
        bench.finish().submit(request)
        bench.submit(replace(plain, request_id="q", seed=5))
        bench.finish().assert_as_expected(plain)
        (event,) = [event for event in bench.events if event.request_id == "e"]
        assert event.embedding == expected_embedding(request, FULL)
        assert event.finish_reason is FinishReason.LENGTH and event.token_ids == ()
        assert event.num_cached_tokens == (96 if pooling is Pooling.LAST else 0)


def test_an_end_token_ends_a_sample_but_not_before_min_tokens():
    plain = a_request(max_tokens=30)
    ending = expected_tokens(plain, 0, FULL)[3]
    short, long = replace(plain, end_token_ids=frozenset({ending})), a_request("b", max_tokens=30, min_tokens=10)
    long = replace(long, end_token_ids=frozenset({ending}))
    bench = Bench()
    bench.submit(short)
    bench.submit(long)
    bench.finish().assert_as_expected(short, long)
    assert bench.last("a").finish_reason is FinishReason.STOP and bench.last("a").ended_by_token
    assert bench.tokens("a")[-1] == ending
    assert len(bench.tokens("b")) >= 10 and ending not in bench.tokens("b")[:10]


def test_cancelling_a_request_ends_all_its_samples_and_frees_its_pages():
    bench = Bench()
    bench.submit(a_request("a", range(70), max_tokens=50, num_samples=3))
    bench.submit(a_request("b", max_tokens=3))
    bench.step()
    bench.cancel("a")
    bench.cancel("a")
    bench.cancel("unknown")
    bench.finish()
    reasons = [event.finish_reason for event in bench.events if event.request_id == "a" and event.finish_reason]
    assert reasons == [FinishReason.CANCELLED] * 3
    assert len(bench.tokens("b")) == 3


@pytest.mark.parametrize("num_steps", [0, 1, 3])
@pytest.mark.parametrize("sample_index", [0, 1])
def test_cancelling_one_sample_leaves_the_others(num_steps, sample_index):
    bench = Bench()
    request = a_request("a", range(70), max_tokens=20, num_samples=3, temperature=1.0)
    bench.submit(request)
    for _ in range(num_steps):
        bench.step()
    bench.cancel("a", sample_index)
    bench.finish()
    assert bench.last("a", sample_index).finish_reason is FinishReason.CANCELLED
    for other in {0, 1, 2} - {sample_index}:
        assert bench.tokens("a", other) == expected_tokens(request, other, FULL)


@pytest.mark.parametrize("sample_index", [0, 1, 2])
def test_cancelling_one_sample_of_a_request_that_waits_for_anothers_prompt_leaves_the_others(sample_index):
    bench = Bench(max_step_tokens=16)
    leader = a_request("leader", range(90))
    waiting = a_request("waiting", range(90), num_samples=3, temperature=1.0)
    bench.submit(leader)
    bench.submit(waiting)
    bench.step()
    assert (bench.scheduler.num_running, bench.scheduler.num_waiting) == (1, 3)
    bench.cancel("waiting", sample_index)
    bench.finish()
    assert bench.last("waiting", sample_index).finish_reason is FinishReason.CANCELLED
    bench.assert_as_expected(leader)
    for other in {0, 1, 2} - {sample_index}:
        assert bench.tokens("waiting", other) == expected_tokens(waiting, other, FULL)


def test_each_request_that_fails_has_an_error_of_its_own():
    """Raising an error makes its traceback longer: of one that thousands raise, nobody could print it."""
    bench = Bench()
    for request_id in "ab":
        bench.submit(a_request(request_id, num_samples=2))
    bench.step()
    try:
        raise ResourceError("no memory", hint="Close something.") from OSError("cause")
    except ResourceError as error:
        events = bench.scheduler.fail(bench.plans[-1], error)
    errors = [event.error for event in events]
    assert len({id(error) for error in errors}) == len(errors) == 4
    for error in errors:
        assert (type(error), error.message, error.hint) == (ResourceError, "no memory", "Close something.")
        assert repr(error.__cause__) == "OSError('cause')"


@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        (a_request(prompt=()), UsageError, "no tokens"),
        (a_request(max_tokens=CONTEXT), ContextLengthError, "10 prompt tokens and max_tokens 256 make 266"),
        (a_request(prompt=range(90), max_tokens=80), ContextLengthError, "need 6 pages of 32 tokens.* has 4"),
        (GenerationRequest("a", (VOCAB_SIZE,), 1), UsageError, "token 97, which the model does not have"),
        (a_request(temperature=float("nan")), UsageError, "temperature"),
        (a_request(top_p=0.0), UsageError, "top_p"),
        (a_request(max_tokens=0, num_samples=2), UsageError, "num_samples"),
        (a_request(num_samples=16_385), UsageError, "num_samples"),
        (a_request(temperature=1e31), UsageError, "temperature"),
        (a_request(repetition_penalty=1e-31), UsageError, "repetition_penalty"),
        (a_request(max_tokens=1, pooling=Pooling.MEAN), UsageError, "pooling"),
        (a_request(logit_bias=((5, 101.0),)), UsageError, "logit_bias"),
    ],
)
def test_what_can_never_run_is_refused_with_the_reason(request_, error, words):
    with pytest.raises(error, match=words):
        Bench(num_pages=4).scheduler.check(request_)


def test_what_just_fits_the_pool_runs():
    bench = Bench(num_pages=4)
    request = a_request(prompt=range(90), max_tokens=4 * PAGE_TOKENS + 1 - 90)
    bench.submit(request)
    bench.finish().assert_as_expected(request)


@st.composite
def some_requests(draw):
    """Requests that share prefixes: the step each arrives in, the steps and samples of its cancellations."""
    trunk = draw(st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=80, max_size=80))
    requests = []
    for index in range(draw(st.integers(1, 7))):
        prompt = trunk[: draw(st.integers(0, 80))] + draw(st.lists(st.integers(0, 5), min_size=1, max_size=8))
        max_tokens = draw(st.integers(0, 70))
        pooling = draw(st.sampled_from([None, None, None, *Pooling]))
        if pooling is not None:
            max_tokens = 0
        request = GenerationRequest(
            f"r{index}",
            tuple(prompt),
            max_tokens,
            min_tokens=draw(st.integers(0, min(5, max_tokens))),
            end_token_ids=frozenset(draw(st.sets(st.integers(0, VOCAB_SIZE - 1), max_size=3))),
            temperature=draw(st.sampled_from([0.0, 1.0])),
            repetition_penalty=draw(st.sampled_from([1.0, 1.0, 1.5])),
            frequency_penalty=draw(st.sampled_from([0.0, 0.0, 0.25])),
            logit_bias=draw(st.sampled_from([(), ((3, 1.5),)])),
            seed=draw(st.integers(0, 2**64 - 1)),
            num_samples=draw(st.integers(1, 3)) if max_tokens else 1,
            num_logprobs=draw(st.sampled_from([None, 0, 2])),
            num_prompt_logprobs=draw(st.sampled_from([None, None, 1])) if pooling is None else None,
            prompt_logprobs_begin=draw(st.integers(1, len(prompt))),
            pooling=pooling,
            tenant=draw(st.sampled_from(["", "", "x", "y"])),
            priority=draw(st.sampled_from([0, 0, 1])),
            is_background=draw(st.sampled_from([False, False, True])),
            cache_salt=draw(st.sampled_from(["", "", "x"])),
        )
        arrival = draw(st.integers(0, 60))
        requests.append((arrival, draw(some_cancellations(request, arrival, arrival + 40)), request))
    return requests


def some_cancellations(request, first_step, last_step):
    """Steps, and which sample goes in each; None: all of them."""
    sample_index = st.none() | st.integers(0, request.num_samples - 1)
    return st.lists(st.tuples(st.integers(first_step, last_step), sample_index), max_size=2)


@st.composite
def some_that_wait_for_one(draw):
    """A long prompt, and requests that begin with it, arrive while it is computed and may be cancelled meanwhile."""
    prompt = tuple(range(90))
    timeline = [(0, [], GenerationRequest("leader", prompt, 3))]
    for index in range(draw(st.integers(1, 4))):
        tail = tuple(draw(st.lists(st.integers(0, 5), max_size=8)))
        num_samples = draw(st.integers(1, 4))
        request = GenerationRequest(f"r{index}", prompt + tail, 3, num_samples=num_samples, temperature=1.0)
        arrival = draw(st.integers(1, 6))
        timeline.append((arrival, draw(some_cancellations(request, arrival, arrival + 8)), request))
    return timeline


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    timeline=some_requests(),
    windows=st.sampled_from([FULL, MIXED, WINDOWED, (None, 1, 33)]),
    num_pages=st.integers(5, 14),
    max_sequences=st.integers(1, 6),
    max_step_tokens=st.sampled_from([6, 7, 31, 64, 100]),
    num_states=st.sampled_from([0, 2, 3, 9]),
)
def test_every_request_gets_what_it_gets_alone(
    timeline, windows, num_pages, max_sequences, max_step_tokens, num_states
):
    assert_all_get_what_they_get_alone(Bench(windows, num_pages, max_sequences, max_step_tokens, num_states), timeline)


@settings(max_examples=100, deadline=None)
@given(timeline=some_that_wait_for_one(), max_sequences=st.integers(1, 6))
def test_those_who_wait_for_anothers_prompt_are_let_go_whoever_is_cancelled(timeline, max_sequences):
    assert_all_get_what_they_get_alone(Bench(FULL, 14, max_sequences, max_step_tokens=8), timeline)


def assert_all_get_what_they_get_alone(bench, timeline):
    """Run requests that come and are cancelled as the timeline says."""
    pending = sorted(timeline, key=lambda entry: entry[0])
    cancelled = set()
    for now in range(10_000):
        for arrival, _, request in pending:
            if arrival == now:
                bench.submit(request)
        for _, cancellations, request in pending:
            for cancellation, sample_index in cancellations:
                if cancellation == now:
                    bench.cancel(request.request_id, sample_index)
                    indices = range(request.num_samples) if sample_index is None else [sample_index]
                    cancelled.update((request.request_id, index) for index in indices)
        if bench.scheduler.has_work:
            bench.step()
        elif now > 100:
            break
    for _, _, request in timeline:
        for index in range(request.num_samples):
            expected = expected_tokens(request, index, bench.windows)
            actual = bench.tokens(request.request_id, index)
            if (request.request_id, index) in cancelled:
                assert bench.last(request.request_id, index).finish_reason is not None
                assert actual == expected[: len(actual)]
            else:
                assert actual == expected
                assert bench.last(request.request_id, index).finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
                assert_logprobs(bench, request, index, bench.windows)
                embedding = None if request.pooling is None else expected_embedding(request, bench.windows)
                assert bench.last(request.request_id, index).embedding == embedding
    assert_nothing_is_held(bench)


def assert_logprobs(bench, request, index, windows):
    prompt = request.prompt_token_ids
    keys = keys_of((*prompt, *bench.tokens(request.request_id, index)), windows)
    events = [e for e in bench.events if (e.request_id, e.sample_index) == (request.request_id, index)]
    given = [entry for event in events for entry in event.logprobs]
    if request.num_logprobs is None:
        assert given == []
    else:
        assert [entry.logprob for entry in given] == [
            logprob_of(key, entry.token_id) for key, entry in zip(keys[len(prompt) - 1 :], given, strict=False)
        ]
        assert [entry.token_id for entry in given] == list(bench.tokens(request.request_id, index))
    if request.num_prompt_logprobs is not None and index == 0:
        begin = request.prompt_logprobs_begin
        *entries, following = events[0].prompt_logprobs
        assert entries[:begin] == [None] * begin
        assert [entry.token_id for entry in entries[begin:]] == list(prompt[begin:])
        expected = [logprob_of(k, t) for k, t in zip(keys[begin - 1 :], prompt[begin:], strict=False)]
        assert [entry.logprob for entry in entries[begin:]] == expected
        assert following.top == top_of(keys[len(prompt) - 1], request.num_prompt_logprobs)


def assert_nothing_is_held(bench):
    for group, total in enumerate(bench.cache.num_pages):
        assert bench.cache.num_available(group) == total
