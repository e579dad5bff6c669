"""The engine's thread: publishing, cancelling, failing, closing."""

import gc
import os
import queue
import random
import threading
import time
import warnings
import weakref

import pytest
from paged_fake import VOCAB_SIZE, PagedFake, expected_tokens

from abaci.engine.engine import Engine, EngineConfig
from abaci.errors import EngineClosedError, ThreadLimitError, UsageError
from abaci.generation import FinishReason, GenerationRequest

CONTEXT = 4096
SECONDS = 30


class GatedFake(PagedFake):
    """Runs a step only when the test lets it."""

    def __init__(self, windows):
        super().__init__(windows)
        self.gate = threading.Semaphore(0)

    def step(self, batch):
        assert self.gate.acquire(timeout=SECONDS)
        return super().step(batch)


class Listener:
    """A sink that a test can wait on."""

    def __init__(self):
        self._queue = queue.SimpleQueue()
        self.events = []

    def __call__(self, event):
        self._queue.put(event)

    def next(self):
        self.events.append(self._queue.get(timeout=SECONDS))
        return self.events[-1]

    def finish(self, num_samples=1):
        while sum(event.finish_reason is not None for event in self.events) < num_samples:
            self.next()
        return self

    @property
    def token_ids(self):
        return tuple(token for event in self.events for token in event.token_ids)

    @property
    def reason(self):
        return self.events[-1].finish_reason


def make_engine(fake=None, **others):
    fake = fake or PagedFake((None,))
    fake.allocate_cache((200,))
    config = EngineConfig(VOCAB_SIZE, CONTEXT, fake.windows, (200,), max_sequences=8, max_step_tokens=64)
    return Engine(fake, config, **others), fake


@pytest.fixture
def engine():
    engine, _ = make_engine()
    yield engine
    engine.close()


def a_request(request_id="a", prompt=(1, 2, 3), max_tokens=5, **others):
    return GenerationRequest(request_id, tuple(prompt), max_tokens, **others)


def test_many_callers_are_served_at_once():
    engine, fake = make_engine(GatedFake((None,)))
    requests = [a_request(f"r{i}", range(i + 1, i + 40), max_tokens=20) for i in range(12)]
    listeners = [Listener() for _ in requests]
    callers = [threading.Thread(target=engine.submit, args=pair) for pair in zip(requests, listeners, strict=True)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    fake.gate.release(1000)
    for request, listener in zip(requests, listeners, strict=True):
        assert listener.finish().token_ids == expected_tokens(request, 0, (None,))
    stats = engine.stats()
    assert stats.generated_tokens == 240
    assert stats.steps < 240, "streams shared steps"
    assert 0 < stats.step_seconds < stats.loop_seconds
    engine.close()


def test_a_request_that_arrives_mid_generation_is_answered_before_the_running_one_ends():
    engine, fake = make_engine(GatedFake((None,)))
    running, newcomer = Listener(), Listener()
    engine.submit(a_request("running", max_tokens=10), running)
    fake.gate.release()
    running.next()
    engine.submit(a_request("newcomer", max_tokens=2), newcomer)
    fake.gate.release(2)
    newcomer.next()
    assert running.events[-1].finish_reason is None
    fake.gate.release(100)
    assert newcomer.finish().reason is FinishReason.LENGTH
    assert len(running.finish().token_ids) == 10
    engine.close()


def test_pages_are_accounted_for_after_a_storm_of_submits_and_cancels(engine):
    def storm(number):
        choose = random.Random(number)
        for index in range(40):
            name = f"{number}-{index}"
            prompt = [choose.randrange(4) for _ in range(choose.randrange(1, 150))]
            samples = choose.randrange(1, 4)
            listener = Listener()
            asked.append((listener, samples))
            background = choose.random() < 0.3
            request = a_request(name, prompt, 40, num_samples=samples, tenant=name[0], is_background=background)
            engine.submit(request, listener)
            if choose.random() < 0.7:
                engine.cancel(name, choose.choice([None, 0]))

    asked = []
    threads = [threading.Thread(target=storm, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for listener, samples in asked:
        listener.finish(samples)
    reasons = {event.finish_reason for listener, _ in asked for event in listener.events}
    assert reasons == {None, FinishReason.CANCELLED, FinishReason.LENGTH}
    assert_idle(engine)


def test_cancelling_frees_pages_within_a_step():
    engine, fake = make_engine(GatedFake((None,)))
    running, long = Listener(), Listener()
    engine.submit(a_request("running", max_tokens=60), running)
    engine.submit(a_request("long", range(90), max_tokens=4000), long)
    fake.gate.release(20)
    for _ in range(10):
        running.next()
    held = engine.stats().cache_used_fraction
    engine.cancel("long")
    fake.gate.release(2)
    assert long.finish().reason is FinishReason.CANCELLED
    assert engine.stats().cache_used_fraction < held
    assert engine.stats().running == 1
    fake.gate.release(100)
    running.finish()
    assert_idle(engine)
    engine.close()


def assert_idle(engine):
    """No sequence is left and no page held."""
    deadline = time.monotonic() + SECONDS
    while engine.stats().running + engine.stats().waiting and time.monotonic() < deadline:
        time.sleep(0.001)
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.cache_used_fraction) == (0, 0, 0)
    engine._loop._scheduler.check_integrity()


def test_the_first_event_says_when_a_sample_was_first_scheduled(engine):
    listener = Listener()
    begin = time.perf_counter()
    engine.submit(a_request(max_tokens=3, num_samples=2), listener)
    listener.finish(2)
    first, *others = [event for event in listener.events if event.sample_index == 0]
    assert begin < first.scheduled_seconds < time.perf_counter()
    assert [event.scheduled_seconds for event in others] == [None, None]


def test_cancel_stops_a_request_within_a_step(engine):
    listener, other = Listener(), Listener()
    engine.submit(a_request("a", max_tokens=4000), listener)
    listener.next()
    engine.cancel("a")
    engine.cancel("nobody")
    assert listener.finish().reason is FinishReason.CANCELLED
    engine.submit(a_request("a"), other)
    assert other.finish().token_ids == expected_tokens(a_request(), 0, (None,))


def test_an_executor_that_fails_fails_its_step_and_no_more():
    engine, fake = make_engine()
    fake.fail_at_step = 2
    first, second = Listener(), Listener()
    engine.submit(a_request("a", max_tokens=10, num_samples=2), first)
    first.finish(2)
    errors = [event.error for event in first.events if event.finish_reason is FinishReason.ERROR]
    assert [str(error) for error in errors] == ["the executor was told to fail"] * 2
    engine.submit(a_request("b"), second)
    assert second.finish().token_ids == expected_tokens(a_request("b"), 0, (None,))
    engine.close()


def test_a_sink_that_raises_loses_its_request_only(engine):
    def broken(event):
        raise ValueError("not a sink")

    listener = Listener()
    engine.submit(a_request("broken", max_tokens=4000), broken)
    engine.submit(a_request("a"), listener)
    assert listener.finish().reason is FinishReason.LENGTH
    again = Listener()
    engine.submit(a_request("broken"), again)
    assert again.finish().reason is FinishReason.LENGTH


def test_close_ends_what_is_pending_and_is_idempotent():
    engine, fake = make_engine()
    listener = Listener()
    engine.submit(a_request("a", max_tokens=4000), listener)
    listener.next()
    engine.close()
    engine.close()
    assert isinstance(listener.finish().events[-1].error, EngineClosedError)
    assert fake.is_closed
    with pytest.raises(EngineClosedError, match="closed"):
        engine.submit(a_request("b"), listener)
    engine.cancel("a")


def test_cancelling_while_an_engine_closes_leaves_nobody_waiting():
    """Clients of a server go away while its model is replaced; whoever does not, hears that the engine has closed."""

    def cancel_another(event):
        listeners[event.request_id](event)
        if isinstance(event.error, EngineClosedError) or event.finish_reason is FinishReason.CANCELLED:
            engine.cancel("z")

    engine, fake = make_engine(GatedFake((None,)))
    listeners = {name: Listener() for name in "abcz"}
    for name in listeners:
        engine.submit(a_request(name, max_tokens=4000), cancel_another)
    fake.gate.release()
    for listener in listeners.values():
        listener.next()
    engine.cancel("a")
    engine._loop.stop()
    engine.cancel("b")
    fake.gate.release()
    reasons = {name: listener.finish().reason for name, listener in listeners.items()}
    assert reasons == {"a": FinishReason.CANCELLED} | dict.fromkeys("bcz", FinishReason.ERROR)
    errors = [listeners[name].events[-1].error for name in "bcz"]
    assert {type(error) for error in errors} == {EngineClosedError}
    assert len(set(map(id, errors))) == 3
    engine.close()
    assert fake.is_closed


def test_a_defect_in_the_scheduler_leaves_nobody_waiting():
    engine, fake = make_engine(GatedFake((None,)))

    def fail(*arguments):
        raise AssertionError("a defect")

    listeners = [Listener(), Listener()]
    for name, listener in zip("ab", listeners, strict=True):
        engine.submit(a_request(name, max_tokens=4000, num_samples=2), listener)
    engine._loop._scheduler.commit = engine._loop._scheduler.fail_request = engine._loop._scheduler._finish = fail
    fake.gate.release()
    for listener in listeners:
        listener.finish(2)
        errors = [event.error for event in listener.events]
        assert [type(error) for error in errors] == [EngineClosedError] * 2
        assert "a defect" in str(errors[0]) and isinstance(errors[0].__cause__, AssertionError)
    engine._thread.join(SECONDS)
    assert fake.is_closed


def test_an_engine_nobody_holds_closes_itself():
    engine, fake = make_engine()
    thread = engine._thread
    del engine
    gc.collect()
    thread.join(SECONDS)
    assert fake.is_closed


def test_the_thread_hook_runs_on_the_engine_thread():
    names = []
    engine, _ = make_engine(on_thread_start=lambda: names.append(threading.current_thread().name))
    listener = Listener()
    engine.submit(a_request(), listener)
    listener.finish()
    engine.close()
    assert names == ["abaci-engine"]


def test_a_thread_hook_that_fails_closes_the_engine_and_says_why():
    def fail():
        raise OSError("no such core")

    engine, _ = make_engine(on_thread_start=fail)
    engine._thread.join(SECONDS)
    with pytest.raises(EngineClosedError):
        engine.submit(a_request(), Listener())


def test_a_request_id_in_use_is_refused():
    engine, fake = make_engine(GatedFake((None,)))
    listener = Listener()
    engine.submit(a_request(), listener)
    with pytest.raises(UsageError, match="'a' is in use"):
        engine.submit(a_request(), listener)
    fake.gate.release(100)
    listener.finish()
    engine.close()


def test_a_thread_that_the_system_refuses_is_a_clear_error(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    finalized = []
    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(weakref, "finalize", lambda *arguments: finalized.append(arguments))
    with pytest.raises(ThreadLimitError, match="the engine"):
        make_engine()
    assert not finalized  # nothing waits at the end for a thread that never ran


def test_use_after_fork_is_a_clear_error(engine):
    receive, send = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forking beside threads
        child = os.fork()
    if child == 0:
        try:
            engine.submit(a_request(), Listener())
        except EngineClosedError:
            engine.cancel("a")
            engine.close()
            os.write(send, b"refused")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(send)
    assert os.read(receive, 100) == b"refused"
    os.close(receive)
    listener = Listener()
    engine.submit(a_request(), listener)
    assert listener.finish().reason is FinishReason.LENGTH
