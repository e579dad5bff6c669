"""Limits hold whatever the order of requests and whatever the clocks do."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abaci.errors import RateLimitedError
from abaci.server.keys import Key, KeyLimits
from abaci.server.limits import Admission, Ticket

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
DAY_SECONDS = 86_400


@dataclass
class Clocks:
    """Both clocks, set by hand."""

    monotonic: float = 1000.0
    wall: float = NOON

    def admission(self) -> Admission:
        return Admission(lambda: self.monotonic, lambda: self.wall)

    def advance(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds


def key(**limits: int) -> Key:
    return Key("key_1", "team", 0, limits=KeyLimits(**limits))


def seconds_refused(admission: Admission, of: Key, tokens: int = 1) -> float | None:
    """How long to wait, or None if the request could enter; it is not let in for good."""
    try:
        admission.enter(of, tokens).leave()
    except RateLimitedError as error:
        return error.retry_after_seconds
    return None


def spend(admission: Admission, of: Key, tokens: int) -> None:
    with admission.enter(of, tokens) as ticket:
        ticket.settle(tokens)


def test_without_limits_everything_enters() -> None:
    admission = Clocks().admission()
    tickets = [admission.enter(key(), 10**9) for _ in range(1000)]
    assert admission.num_running("key_1") == len(tickets)


def test_concurrency_is_freed_by_leaving_even_through_an_error() -> None:
    admission, two = Clocks().admission(), key(concurrent_requests=2)
    first = admission.enter(two, 1)
    with pytest.raises(ZeroDivisionError), admission.enter(two, 1):
        assert seconds_refused(admission, two) is not None
        raise ZeroDivisionError
    assert seconds_refused(admission, two) is None
    first.leave()
    first.leave()  # the second time counts for nothing
    assert admission.num_running("key_1") == 0


def test_requests_per_minute_drain_evenly() -> None:
    clocks = Clocks()
    admission, six = clocks.admission(), key(requests_per_minute=6)
    for _ in range(6):
        admission.enter(six, 1).leave()
    assert seconds_refused(admission, six) == pytest.approx(10)
    clocks.advance(9.9)
    assert seconds_refused(admission, six) == pytest.approx(0.1)
    clocks.advance(0.1)
    assert seconds_refused(admission, six) is None


def test_keys_do_not_share_limits() -> None:
    admission = Clocks().admission()
    spend(admission, key(tokens_per_minute=10), 10)
    assert seconds_refused(admission, key(tokens_per_minute=10)) is not None
    assert seconds_refused(admission, Key("key_2", "other", 0, limits=KeyLimits(tokens_per_minute=10))) is None


def test_an_estimate_is_replaced_by_the_truth() -> None:
    clocks = Clocks()
    admission, hundred = clocks.admission(), key(tokens_per_minute=100)
    with admission.enter(hundred, 90) as ticket:
        assert seconds_refused(admission, hundred, 20) == pytest.approx(6)
        ticket.settle(30)
    assert seconds_refused(admission, hundred, 70) is None
    with admission.enter(hundred, 10) as ticket:
        ticket.settle(130)  # more than estimated: a debt to wait for
    assert seconds_refused(admission, hundred, 1) == pytest.approx((30 + 130 + 1 - 100) * 0.6)


def test_without_settling_nothing_was_used() -> None:
    admission, hundred = Clocks().admission(), key(tokens_per_minute=100, tokens_per_day=100)
    admission.enter(hundred, 100).leave()
    assert seconds_refused(admission, hundred, 100) is None


def test_an_estimate_above_the_limit_waits_for_an_empty_bucket_only() -> None:
    clocks = Clocks()
    admission, hundred = clocks.admission(), key(tokens_per_minute=100)
    spend(admission, hundred, 50)
    assert seconds_refused(admission, hundred, 5000) == pytest.approx(30)
    clocks.advance(30)
    spend(admission, hundred, 5000)
    assert seconds_refused(admission, hundred, 1) == pytest.approx((5001 - 100) * 0.6)


def test_a_refusal_charges_nothing() -> None:
    admission = Clocks().admission()
    both = key(requests_per_minute=2, tokens_per_minute=10)
    spend(admission, both, 10)
    for _ in range(5):
        assert seconds_refused(admission, both, 10) == pytest.approx(60)
    assert admission.num_running("key_1") == 0


def test_raised_limits_hold_at_once() -> None:
    admission = Clocks().admission()
    spend(admission, key(tokens_per_minute=10), 10)
    assert seconds_refused(admission, key(tokens_per_minute=10)) is not None
    assert seconds_refused(admission, key(tokens_per_minute=20)) is None


def test_the_day_ends_at_midnight_utc() -> None:
    clocks = Clocks()
    admission, daily = clocks.admission(), key(tokens_per_day=100)
    spend(admission, daily, 100)
    assert seconds_refused(admission, daily) == pytest.approx(DAY_SECONDS / 2)
    clocks.advance(DAY_SECONDS / 2)
    assert seconds_refused(admission, daily, 100) is None


def test_the_last_request_of_a_day_may_be_too_large_once_it_is_alone() -> None:
    admission, daily = Clocks().admission(), key(tokens_per_day=100)
    with admission.enter(daily, 60) as ticket:
        assert seconds_refused(admission, daily, 60) == pytest.approx(1)
        ticket.settle(99)
    spend(admission, daily, 60)
    assert seconds_refused(admission, daily, 1) == pytest.approx(DAY_SECONDS / 2)


def test_what_was_used_before_a_restart_counts() -> None:
    admission, daily = Clocks().admission(), key(tokens_per_day=100)
    admission.restore("key_1", date(2026, 3, 1), 100)
    assert seconds_refused(admission, daily) is not None


@pytest.mark.parametrize("jump_days", [-1, -400, 3650])
def test_a_clock_that_jumps_gives_no_second_quota_and_takes_none_for_long(jump_days: int) -> None:
    clocks = Clocks()
    admission, daily = clocks.admission(), key(tokens_per_day=100)
    spend(admission, daily, 100)
    clocks.wall += jump_days * DAY_SECONDS
    if jump_days < 0:
        assert seconds_refused(admission, daily) is not None
    else:
        spend(admission, daily, 100)
    clocks.wall -= jump_days * DAY_SECONDS
    assert seconds_refused(admission, daily) is not None
    clocks.advance(DAY_SECONDS)
    assert seconds_refused(admission, daily) is None


def test_a_wall_clock_that_jumps_does_nothing_to_rates() -> None:
    clocks = Clocks()
    admission, hundred = clocks.admission(), key(tokens_per_minute=100, requests_per_minute=60)
    spend(admission, hundred, 100)
    for jump in (-(10**8), 10**9):
        clocks.wall += jump
        assert seconds_refused(admission, hundred, 100) == pytest.approx(60)


CALLS = st.lists(
    st.tuples(
        st.floats(0, 90),  # seconds before it
        st.integers(0, 60),  # tokens estimated
        st.floats(0, 1),  # share of them used
        st.integers(0, 5),  # how many of the running ones end before it
    ),
    max_size=60,
)


@given(CALLS, st.integers(60, 200))
def test_never_more_than_the_limit_and_what_time_gave(calls: list[tuple[float, int, float, int]], limit: int) -> None:
    clocks = Clocks()
    admission, limited = clocks.admission(), key(tokens_per_minute=limit, requests_per_minute=20, concurrent_requests=9)
    begin = clocks.monotonic
    running: list[tuple[Ticket, int]] = []
    num_entered = used = 0
    for seconds, estimate, share, num_ended in calls:
        clocks.advance(seconds)
        for ticket, actual in running[:num_ended]:
            ticket.settle(actual)
            ticket.leave()
            used += actual
        del running[:num_ended]
        try:
            ticket = admission.enter(limited, estimate)
        except RateLimitedError as error:
            assert error.retry_after_seconds > 0
        else:
            num_entered += 1
            running.append((ticket, int(estimate * share)))
        minutes = (clocks.monotonic - begin) / 60
        assert used <= limit * (1 + minutes) + 1e-3
        assert num_entered <= 20 * (1 + minutes) + 1e-3
        assert admission.num_running("key_1") == len(running) <= 9


@given(CALLS, st.integers(0, 500))
def test_after_the_seconds_told_the_request_enters(calls: list[tuple[float, int, float, int]], last: int) -> None:
    clocks = Clocks()
    admission, limited = clocks.admission(), key(tokens_per_minute=100, requests_per_minute=10)
    for seconds, estimate, share, _ in calls:
        clocks.advance(seconds)
        try:
            with admission.enter(limited, estimate) as ticket:
                ticket.settle(int(estimate * share))
        except RateLimitedError:
            continue
    for _ in range(2):  # the two rates, one after the other
        wait = seconds_refused(admission, limited, last)
        clocks.advance(wait or 0)
    assert seconds_refused(admission, limited, last) is None


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 60)), max_size=80))
def test_no_date_ever_gives_more_than_its_quota(steps: list[tuple[int, int]]) -> None:
    """However the wall clock wanders; each request fits what it estimates."""
    clocks = Clocks()
    admission, daily = clocks.admission(), key(tokens_per_day=100)
    used: dict[date, int] = {}
    for days, tokens in steps:
        clocks.wall += days * DAY_SECONDS
        today = datetime.fromtimestamp(clocks.wall, UTC).date()
        exhausted_later = days < 0 and used.get(today - timedelta(days=days), 0) >= 100
        try:
            spend(admission, daily, tokens)
        except RateLimitedError:
            continue
        assert not exhausted_later
        assert used.get(today, 0) < 100
        used[today] = used.get(today, 0) + tokens
