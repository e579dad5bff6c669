"""The engine: one thread that takes requests, plans a step, runs it, commits it and publishes what came of it.

It knows no event loop and no text: events go to the sink that came with the request, on the engine's thread.
"""

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from time import perf_counter

from abaci.engine.grammar import GrammarCompiler, Vocabulary
from abaci.engine.guide import check_guidance
from abaci.engine.kv_cache import KVCache
from abaci.engine.limits import SchedulerConfig
from abaci.engine.runner import Runner
from abaci.engine.scheduler import Scheduler
from abaci.engine.step import StepPlan
from abaci.engine.threads import starting_thread
from abaci.errors import EngineClosedError, UsageError, copy_of
from abaci.generation import Constraint, FinishReason, GenerationRequest, TokenEvent, TokenSink
from abaci.kernels.batch import PAGE_TOKENS, Executor


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Sizes of one engine. `windows` and `num_pages` run parallel to the model's cache groups; `num_states` counts
    recurrent states, for models that have them."""

    vocab_size: int
    context_length: int
    windows: tuple[int | None, ...]
    num_pages: tuple[int, ...]
    max_sequences: int = 64
    max_step_tokens: int = 512
    num_states: int = 0
    doubling_position: int | None = None
    has_head: bool = True
    """Both as in `SchedulerConfig`."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Totals since the start, and what is there now."""

    steps: int
    computed_tokens: int
    generated_tokens: int
    prompt_chunks: int
    """Pieces of prompts that ended before the prompt did."""
    preemptions: int
    prefix_query_tokens: int
    prefix_hit_tokens: int
    running: int
    waiting: int
    free_pages: tuple[int, ...]
    """Per cache group; cached pages, which can be had too, are not counted."""
    cache_tokens: int
    """What the KV cache holds at most."""
    cache_used_fraction: float
    """Of its pages that sequences hold now, in the group that is fullest."""
    computed_prompt_tokens: int
    """Those of `computed_tokens` that belong to prompts."""
    prompt_seconds: float
    """Their part of `step_seconds`: each step's seconds are divided evenly over its tokens."""
    step_seconds: float
    """Inside the executor."""
    loop_seconds: float
    """All of the loop but waiting for requests: what is not `step_seconds` is Python's share."""


class Engine:
    """A `Generator` over an executor, whose cache must be allocated. Owns the executor: `close` closes it.

    `on_thread_start` runs first on the engine's thread, for example to pin it. An engine that nobody refers to any more
    closes itself. `vocabulary` is called when the first request with a constraint comes; without it they are refused.
    Raises ThreadLimitError where its thread cannot be started; the executor is then the caller's to close.
    """

    def __init__(
        self,
        executor: Executor,
        config: EngineConfig,
        *,
        on_thread_start: Callable[[], None] | None = None,
        vocabulary: Callable[[], Vocabulary] | None = None,
    ) -> None:
        self._loop = _Loop(executor, config, GrammarCompiler(vocabulary, config.vocab_size))
        self._thread = threading.Thread(
            target=self._loop.run, args=(on_thread_start,), name="abaci-engine", daemon=True
        )
        with starting_thread("the engine"):
            self._thread.start()
        self._finalizer = weakref.finalize(self, _shut_down, self._loop, self._thread)

    def submit(self, request: GenerationRequest, sink: TokenSink) -> None:
        """Queue a request. Raises as `Generator.submit` says, and UsageError for a request id in use."""
        self._loop.submit(request, sink)

    def check_constraint(self, constraint: Constraint) -> None:
        """Raise UsageError for a constraint that `submit` would refuse; one that is accepted need not be read again.

        May take a second, as `submit` of a new constraint may. Any thread.
        """
        self._loop.check_constraint(constraint)

    def cancel(self, request_id: str, sample_index: int | None = None) -> None:
        """Stop a request, or one sample of it, within a step."""
        self._loop.cancel(request_id, sample_index)

    def stats(self) -> EngineStats:
        """Counters, as of about now."""
        return self._loop.stats()

    def close(self) -> None:
        """Stop after the step under way; pending requests end with EngineClosedError. Idempotent, any thread."""
        self._finalizer()


def _shut_down(loop: "_Loop", thread: threading.Thread) -> None:
    loop.stop()
    if loop.is_own_process() and thread is not threading.current_thread():
        thread.join()


class _Subscription:
    __slots__ = ("pending", "sink")

    def __init__(self, sink: TokenSink, num_samples: int) -> None:
        self.sink = sink
        self.pending = set(range(num_samples))
        """Indices of the samples that have not ended."""


class _Loop:
    """What the thread works on. Refers to no Engine, so that the Engine can be collected while it runs.

    `_inbox`, `_wake`, `_is_closed` and `_grammars` are shared with callers; everything else belongs to the thread.
    """

    def __init__(self, executor: Executor, config: EngineConfig, grammars: GrammarCompiler) -> None:
        self._process_id = os.getpid()
        self._grammars = grammars
        self._vocab_size = config.vocab_size
        self._executor = executor
        self._cache = KVCache(config.windows, config.num_pages, PAGE_TOKENS, config.num_states)
        self._scheduler = Scheduler(
            SchedulerConfig(
                context_length=config.context_length,
                vocab_size=config.vocab_size,
                max_sequences=config.max_sequences,
                max_step_tokens=config.max_step_tokens,
                doubling_position=config.doubling_position,
                has_head=config.has_head,
            ),
            self._cache,
        )
        self._runner = Runner(
            executor,
            num_groups=len(config.windows),
            vocab_size=config.vocab_size,
            context_length=config.context_length,
            max_sequences=config.max_sequences,
            max_step_tokens=config.max_step_tokens,
            has_states=config.num_states > 0,
        )
        self._lock = threading.Lock()
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._is_closed = False
        self._subscriptions: dict[str, _Subscription] = {}
        self._num_steps = 0
        self._num_prompt_tokens = 0
        self._prompt_seconds = 0.0
        self._loop_seconds = 0.0

    # Called on any thread.

    def is_own_process(self) -> bool:
        return os.getpid() == self._process_id

    def submit(self, request: GenerationRequest, sink: TokenSink) -> None:
        self._scheduler.check(request)
        check_guidance(request, self._vocab_size)
        if not self.is_own_process():
            raise EngineClosedError(
                "the engine was made before this process was forked and lives in its parent",
                hint="Load the model in the process that uses it.",
            )
        grammar = None if request.constraint is None else self._grammars.compile(request.constraint)
        with self._lock:
            if self._is_closed:
                raise EngineClosedError("the engine is closed", hint="Load the model again.")
            if request.request_id in self._subscriptions:
                raise UsageError(f"request id {request.request_id!r} is in use", hint="Give every request its own id.")
            self._subscriptions[request.request_id] = _Subscription(sink, request.num_samples)
            self._inbox.append(lambda: self._scheduler.submit(request, grammar))
        self._wake.set()

    def check_constraint(self, constraint: Constraint) -> None:
        self._grammars.compile(constraint)

    def cancel(self, request_id: str, sample_index: int | None) -> None:
        if self.is_own_process() and not self._is_closed:
            self._inbox.append(lambda: self._publish(self._scheduler.cancel(request_id, sample_index)))
            self._wake.set()

    def stop(self) -> None:
        if self.is_own_process():
            with self._lock:
                self._is_closed = True
            self._wake.set()

    def stats(self) -> EngineStats:
        counters = self._scheduler.counters
        return EngineStats(
            steps=self._num_steps,
            computed_tokens=counters.computed_tokens,
            generated_tokens=counters.generated_tokens,
            prompt_chunks=counters.prompt_chunks,
            preemptions=counters.preemptions,
            prefix_query_tokens=counters.prefix_query_tokens,
            prefix_hit_tokens=counters.prefix_hit_tokens,
            running=self._scheduler.num_running,
            waiting=self._scheduler.num_waiting,
            free_pages=tuple(self._cache.num_free(group) for group in range(len(self._cache.num_pages))),
            cache_tokens=max(self._cache.num_pages) * self._cache.page_tokens,
            cache_used_fraction=self._cache.used_fraction(),
            computed_prompt_tokens=self._num_prompt_tokens,
            prompt_seconds=self._prompt_seconds,
            step_seconds=self._runner.step_seconds,
            loop_seconds=self._loop_seconds,
        )

    # Called on the engine's thread.

    def run(self, on_thread_start: Callable[[], None] | None) -> None:
        failure: Exception = EngineClosedError("the engine was closed", hint="Load the model again.")
        try:
            if on_thread_start is not None:
                on_thread_start()
            while self._take():
                self._step()
        except Exception as error:  # a defect of ours: everyone waiting must hear of it
            failure = EngineClosedError(
                f"the engine stopped: {error!r}",
                hint="This is a defect: load the model again, and report what led here.",
            )
            failure.__cause__ = error
        finally:
            self._end(failure)

    def _take(self) -> bool:
        """Wait for something to do and read the inbox; False when it is time to end."""
        while not self._is_closed:
            self._read_inbox()
            if self._scheduler.has_work:
                return True
            self._wake.wait()
            self._wake.clear()
        return False

    def _read_inbox(self) -> None:
        while self._inbox:
            self._inbox.popleft()()

    def _step(self) -> None:
        begin = perf_counter()
        plan = self._scheduler.plan()
        seconds_before = self._runner.step_seconds
        try:
            result = self._runner.run(plan)
        except Exception as error:
            events = self._scheduler.fail(plan, error)
        else:
            events = self._scheduler.commit(result)
        self._num_steps += 1
        self._divide(plan, self._runner.step_seconds - seconds_before)
        self._publish(events)
        self._loop_seconds += perf_counter() - begin

    def _divide(self, plan: StepPlan, step_seconds: float) -> None:
        """Book a step's seconds, token by token, to prompts or to answers."""
        num_prompt_tokens = 0
        for sequence, start, count in zip(plan.sequences, plan.starts, plan.counts, strict=True):
            if start < sequence.num_prompt:
                num_prompt_tokens += min(count, sequence.num_prompt - start)
        if num_prompt_tokens:
            self._num_prompt_tokens += num_prompt_tokens
            self._prompt_seconds += step_seconds * num_prompt_tokens / sum(plan.counts)

    def _publish(self, events: list[TokenEvent]) -> None:
        for event in events:
            subscription = self._subscriptions.get(event.request_id)
            if subscription is None:
                continue
            if event.finish_reason is not None:
                subscription.pending.discard(event.sample_index)
                if not subscription.pending:
                    del self._subscriptions[event.request_id]
            try:
                subscription.sink(event)
            except Exception:
                # The sink broke its promise; nobody is left to tell, so stop working for it.
                self._subscriptions.pop(event.request_id, None)
                self._scheduler.cancel(event.request_id)

    def _end(self, failure: Exception) -> None:
        with self._lock:
            self._is_closed = True
        with closing(self._executor):
            try:
                self._read_inbox()  # who cancelled just now is told of that
            finally:
                self._fail_pending(failure)

    def _fail_pending(self, failure: Exception) -> None:
        """End all that anybody waits for, whatever state the scheduler was left in."""
        while self._subscriptions:
            request_id, subscription = self._subscriptions.popitem()
            for index in sorted(subscription.pending):
                error = copy_of(failure)
                with suppress(Exception):  # as in `_publish`
                    subscription.sink(TokenEvent(request_id, index, (), finish_reason=FinishReason.ERROR, error=error))
