"""Decides which sequences compute how many tokens in each step, and turns results into events. Integers only.

The rules, in this order:

- Running sequences with one token to compute come first, so that no prompt delays a stream by more than one step.
- Prompts share what is left of the step: the oldest takes half, the next half of the rest, and so on; what nobody
  else needs goes to the oldest. A newcomer thus joins the next step however long the prompts before it are.
- A prompt is admitted when there is room for all of it. When streams run out of pages the latest arrival gives way:
  back to the head of the queue, its full pages left in the prefix tree for as long as nobody needs them. The oldest
  stream can take everything, and `check` lets in only what fits alone, so there is always progress.
- Other samples of a request start when the first has computed the prompt, and find it in the prefix tree.
"""

from bisect import insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

from abaci.engine.grammar import Grammar
from abaci.engine.kv_cache import KVCache
from abaci.engine.step import Sequence, StepPlan, StepResult
from abaci.errors import AbaciError, ContextLengthError, UsageError
from abaci.generation import FinishReason, GenerationRequest, TokenEvent, TokenLogprob

_BY_ARRIVAL = attrgetter("arrival")


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Limits of one engine, in tokens and sequences."""

    context_length: int
    vocab_size: int
    max_sequences: int = 64
    """That run at a time; more wait."""
    max_step_tokens: int = 512

    def __post_init__(self) -> None:
        if not 1 <= self.max_sequences <= self.max_step_tokens:
            raise UsageError(
                f"max_sequences {self.max_sequences} must be between 1 and max_step_tokens {self.max_step_tokens}",
                hint="Every running sequence needs one token of a step.",
            )


@dataclass(slots=True)
class SchedulerCounters:
    """Totals since the start."""

    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    preemptions: int = 0
    prompt_chunks: int = 0
    """Pieces of prompts that ended before the prompt did."""
    computed_tokens: int = 0
    generated_tokens: int = 0


class Scheduler:
    """Owner and only writer of all sequences. Not thread-safe, except for `check`."""

    def __init__(self, config: SchedulerConfig, cache: KVCache) -> None:
        self.counters = SchedulerCounters()
        self._config = config
        self._cache = cache
        self._num_groups = len(cache.num_pages)
        self._requests: dict[str, list[Sequence]] = {}
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._num_arrivals = 0
        self._is_blocked = False
        """The head of the queue did not fit, and no page has come free since."""

    @property
    def has_work(self) -> bool:
        """Whether a step could compute anything."""
        return bool(self._running or self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def check(self, request: GenerationRequest) -> None:
        """Raise UsageError if the request can never run, ContextLengthError if it is too long. Reads constants only."""
        prompt, total = len(request.prompt_token_ids), len(request.prompt_token_ids) + request.max_tokens
        if prompt == 0:
            raise UsageError("the prompt has no tokens", hint="Give at least one token, for example the model's BOS.")
        vocab_size = self._config.vocab_size
        for token_id in request.prompt_token_ids:
            if not 0 <= token_id < vocab_size:
                raise UsageError(f"prompt token {token_id} is outside the vocabulary of {vocab_size} tokens")
        _check_parameters(request, vocab_size)
        if total > self._config.context_length:
            raise ContextLengthError(
                f"{prompt} prompt tokens and max_tokens {request.max_tokens} make {total}, "
                f"but the context holds {self._config.context_length}",
                hint="Shorten the prompt, ask for fewer tokens, or load the model with a larger context.",
            )
        num_positions = max(prompt, total - 1)  # the last token is drawn, but never computed
        for group, num_pages in enumerate(self._cache.num_pages):
            needed = self._cache.pages_needed(num_positions, group)
            if needed > num_pages:
                raise ContextLengthError(
                    f"{prompt} prompt tokens and max_tokens {request.max_tokens} need {needed} pages of "
                    f"{self._cache.page_tokens} tokens, but the KV cache has {num_pages}",
                    hint="Shorten the prompt, ask for fewer tokens, or give the KV cache more memory.",
                )

    def submit(self, request: GenerationRequest, grammar: Grammar | None = None) -> None:
        """Queue a request that `check` has passed."""
        arrival = self._num_arrivals
        self._num_arrivals += request.num_samples
        samples = [Sequence(request, index, arrival + index, grammar) for index in range(request.num_samples)]
        samples[0].followers = samples[1:]
        self._requests[request.request_id] = samples
        self._waiting.append(samples[0])

    def cancel(self, request_id: str, sample_index: int | None = None) -> list[TokenEvent]:
        """Stop a request, or one sample of it, between steps. Unknown ids give no events."""
        samples = self._requests.get(request_id, ())
        chosen = [s for s in samples if sample_index is None or s.sample_index == sample_index]
        return self._drop(chosen, FinishReason.CANCELLED, None)

    def fail(self, plan: StepPlan, error: Exception) -> list[TokenEvent]:
        """End every request that took part in a step that failed."""
        request_ids = dict.fromkeys(sequence.request.request_id for sequence in plan.sequences)
        return [event for request_id in request_ids for event in self.fail_request(request_id, error)]

    def fail_all(self, error: Exception) -> list[TokenEvent]:
        """End everything."""
        return [event for request_id in tuple(self._requests) for event in self.fail_request(request_id, error)]

    def fail_request(self, request_id: str, error: Exception) -> list[TokenEvent]:
        """End one request with an error."""
        return self._drop(self._requests.get(request_id, ()), FinishReason.ERROR, error)

    def plan(self) -> StepPlan:
        """What to compute next, while there is work. Preempts where pages run out."""
        sequences: list[Sequence] = []
        prefills: list[Sequence] = []
        running = self._running
        index = 0
        while index < len(running):  # shrinks from its end while pages are found
            sequence = running[index]
            if len(sequence.token_ids) - sequence.num_computed > 1:
                prefills.append(sequence)
            elif sequence.num_computed < sequence.table.capacity or self._grow(sequence):  # type: ignore[union-attr]
                sequences.append(sequence)
            index += 1
        counts = [1] * len(sequences)
        if prefills or (self._waiting and not self._is_blocked):
            self._plan_prefills(sequences, counts, prefills)
        assert sequences, "somebody can always go on"
        starts = tuple([sequence.num_computed for sequence in sequences])
        return StepPlan(tuple(sequences), starts, tuple(counts))

    def commit(self, result: StepResult) -> list[TokenEvent]:
        """Take a step's result into the sequences; what the world should hear of it."""
        events: list[TokenEvent] = []
        plan = result.plan
        for index, sequence in enumerate(plan.sequences):
            if sequence.is_finished:  # its request failed with another sample of this step
                continue
            num_computed = plan.starts[index] + plan.counts[index]
            sequence.num_computed = num_computed
            table = sequence.table
            assert table is not None
            if num_computed >= table.next_boundary:
                self._cache.advance(table, sequence.token_ids, num_computed)
                self._is_blocked = False
            if sequence.prompt_logprobs is not None and result.prompt_logprobs:
                sequence.prompt_logprobs.extend(result.prompt_logprobs[index])
            token_id = result.token_ids[index]
            self.counters.computed_tokens += plan.counts[index]
            if token_id is None:
                self.counters.prompt_chunks += 1
                continue
            if sequence.followers:
                self._release_followers(sequence)
            if token_id < 0:
                error = result.errors.get(index) or _nothing_to_draw(sequence)
                events.extend(self.fail_request(sequence.request.request_id, error))
                continue
            events.append(self._accept(sequence, token_id, result.logprobs.get(index) if result.logprobs else None))
        return events

    def check_integrity(self) -> None:
        """What must hold between steps. For tests."""
        self._cache.check_integrity()
        live = {id(sequence) for samples in self._requests.values() for sequence in samples}
        leaders = (*self._running, *self._waiting)
        followers = [follower for s in leaders for follower in s.followers if not follower.is_finished]
        assert live == {id(sequence) for sequence in (*self._running, *self._waiting, *followers)}
        assert [s.arrival for s in self._running] == sorted(s.arrival for s in self._running)
        for sequence in self._running:
            assert sequence.table is not None
            assert sequence.num_computed < len(sequence.token_ids)
            assert sequence.table.next_boundary - self._cache.page_tokens <= sequence.num_computed
        assert all(sequence.table is None for sequence in (*self._waiting, *followers))

    def _plan_prefills(self, sequences: list[Sequence], counts: list[int], prefills: list[Sequence]) -> None:
        budget = self._config.max_step_tokens - len(sequences)
        shares: list[int] = []
        for sequence in prefills:
            shares.append(_share(sequence, budget))
            budget -= shares[-1]
        while budget > 0:
            admitted = self._admit()
            if admitted is None:
                break
            prefills.append(admitted)
            shares.append(_share(admitted, budget))
            budget -= shares[-1]
        for sequence, share in zip(prefills, shares, strict=True):
            assert sequence.table is not None
            extra = min(budget, len(sequence.token_ids) - sequence.num_computed - share)
            budget -= extra
            # Admission saw room for the whole prompt, but streams may have grown into it since. What is left will do
            # until one of them ends or gives way.
            count = min(share + extra, self._cache.room_tokens(sequence.table) - sequence.num_computed)
            if count > 0:
                self._cache.extend(sequence.table, sequence.num_computed + count)
                sequences.append(sequence)
                counts.append(count)

    def _grow(self, sequence: Sequence) -> bool:
        """One more page for a stream, if need be from the latest arrival; False if that was the sequence itself."""
        table = sequence.table
        assert table is not None
        while self._cache.room_tokens(table) <= sequence.num_computed:
            victim = self._running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        self._cache.extend(table, sequence.num_computed + 1)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._stop(sequence)
        sequence.num_computed = 0
        self._waiting.appendleft(sequence)
        self.counters.preemptions += 1

    def _stop(self, sequence: Sequence) -> None:
        assert sequence.table is not None
        self._cache.release(sequence.table)
        sequence.table = None
        self._running.remove(sequence)
        self._is_blocked = False

    def _admit(self) -> Sequence | None:
        """Start the head of the queue, if there is room for all its tokens beside those already promised room."""
        if not self._waiting or len(self._running) >= self._config.max_sequences:
            return None
        sequence = self._waiting[0]
        # Prompt log-probabilities come from computing the prompt: a hit may cover only what has been collected already.
        collected = sequence.prompt_logprobs
        limit = len(sequence.token_ids) - 1
        table = self._cache.acquire(sequence.token_ids, limit if collected is None else min(limit, len(collected) - 1))
        sequence.table = table
        if not all(self._fits(sequence, group) for group in range(self._num_groups)):
            self._cache.release(table)
            sequence.table = None
            self._is_blocked = True
            return None
        self._waiting.popleft()
        insort(self._running, sequence, key=_BY_ARRIVAL)
        sequence.num_computed = table.num_hit_tokens
        if collected is not None:
            del collected[table.num_hit_tokens + 1 :]
        if sequence.num_cached is None:
            sequence.num_cached = table.num_hit_tokens
            self.counters.prefix_query_tokens += sequence.num_prompt
            self.counters.prefix_hit_tokens += table.num_hit_tokens
        return sequence

    def _fits(self, sequence: Sequence, group: int) -> bool:
        outstanding = sum(self._outstanding(running, group) for running in self._running)
        return self._cache.num_available(group) >= outstanding + self._outstanding(sequence, group)

    def _outstanding(self, sequence: Sequence, group: int) -> int:
        assert sequence.table is not None
        needed = self._cache.pages_needed(len(sequence.token_ids), group)
        return max(0, needed - self._cache.pages_held(sequence.table, group))

    def _release_followers(self, sequence: Sequence) -> None:
        self._waiting.extendleft(follower for follower in reversed(sequence.followers) if not follower.is_finished)
        self._is_blocked = False
        sequence.followers = []

    def _accept(self, sequence: Sequence, token_id: int, logprob: TokenLogprob | None) -> TokenEvent:
        """Append the token drawn, unless the request is for its prompt only."""
        request = sequence.request
        finish_reason = None
        ended_by_token = False
        token_ids: tuple[int, ...] = ()
        num_generated = len(sequence.token_ids) - sequence.num_prompt
        if num_generated < request.max_tokens:
            sequence.token_ids.append(token_id)
            self.counters.generated_tokens += 1
            token_ids = (token_id,)
            num_generated += 1
            ended_by_token = token_id in request.end_token_ids
        if ended_by_token:
            finish_reason = FinishReason.STOP
        elif num_generated >= request.max_tokens:
            finish_reason = FinishReason.LENGTH
        if finish_reason is not None:
            self._finish(sequence)
        prompt_logprobs, sequence.prompt_logprobs = sequence.prompt_logprobs, None
        return TokenEvent(
            request.request_id,
            sequence.sample_index,
            token_ids,
            (logprob,) if token_ids and logprob is not None else (),
            finish_reason,
            ended_by_token,
            tuple(prompt_logprobs) if prompt_logprobs is not None else None,
            (sequence.num_cached or 0) if num_generated <= 1 else 0,
        )

    def _finish(self, sequence: Sequence) -> None:
        if sequence.table is not None:
            self._stop(sequence)
        sequence.is_finished = True
        request_id = sequence.request.request_id
        samples = self._requests[request_id]
        samples.remove(sequence)
        if not samples:
            del self._requests[request_id]

    def _drop(self, samples: Iterable[Sequence], reason: FinishReason, error: Exception | None) -> list[TokenEvent]:
        dropped = list(samples)
        for sequence in dropped:
            if sequence in self._waiting:
                self._waiting.remove(sequence)
                self._is_blocked = False
            self._finish(sequence)
        for sequence in dropped:
            self._appoint_heir(sequence)
        return [
            TokenEvent(s.request.request_id, s.sample_index, (), finish_reason=reason, error=error) for s in dropped
        ]

    def _appoint_heir(self, sequence: Sequence) -> None:
        """Another sample computes the prompt where the one that was to do so has gone."""
        followers = [follower for follower in sequence.followers if not follower.is_finished]
        sequence.followers = []
        if followers:
            followers[0].followers = followers[1:]
            self._waiting.appendleft(followers[0])


def _share(sequence: Sequence, budget: int) -> int:
    """Half of what is left of the step, rounded up, or what the prompt still needs."""
    return min(len(sequence.token_ids) - sequence.num_computed, (budget + 1) // 2)


def _nothing_to_draw(sequence: Sequence) -> AbaciError:
    return AbaciError(
        f"no token can be drawn at position {len(sequence.token_ids)}: all are banned, or their logits are not numbers",
        hint="Loosen logit_bias or min_tokens; if neither is set, verify the model file.",
    )


def _check_parameters(request: GenerationRequest, vocab_size: int) -> None:
    ranges = (
        ("max_tokens", request.max_tokens >= 0),
        ("min_tokens", 0 <= request.min_tokens <= request.max_tokens),
        ("num_samples", request.num_samples >= 1 and (request.max_tokens > 0 or request.num_samples == 1)),
        ("temperature", 0 <= request.temperature < float("inf")),
        ("top_k", request.top_k >= 0),
        ("top_p", 0 < request.top_p <= 1),
        ("min_p", 0 <= request.min_p < 1),
        ("repetition_penalty", 0 < request.repetition_penalty < float("inf")),
        ("presence_penalty", -2 <= request.presence_penalty <= 2),
        ("frequency_penalty", -2 <= request.frequency_penalty <= 2),
        ("seed", 0 <= request.seed < 2**64),
        ("num_logprobs", 0 <= (request.num_logprobs or 0) <= vocab_size),
        ("num_prompt_logprobs", 0 <= (request.num_prompt_logprobs or 0) <= vocab_size),
        ("logit_bias", all(0 <= t < vocab_size and -100 <= bias <= 100 for t, bias in request.logit_bias)),
        ("end_token_ids", all(0 <= t < vocab_size for t in request.end_token_ids)),
    )
    for name, is_valid in ranges:
        if not is_valid:
            raise UsageError(f"{name} is out of range: {getattr(request, name)!r}")
