"""Decides which sequences compute how many tokens in each step, and turns results into events. Integers only.

The rules, in this order:

- Running sequences with one token to compute, the streams, are in every step, so that no prompt delays one by more than
  a step. Beside streams a step has about as many tokens of prompts as there are sequences, so that a prompt at most
  doubles the time between a stream's tokens; fewer where attention has made them dear. A single tenant's prompts bring
  more, the more there are; with several tenants steps stay short, as another may come at any time, and one that has
  been given less may slow others' more.
- Prompts share what a step has for them: first the tenant that has been given least takes what it needs (`lane`), then
  the next. Of one tenant's prompts the first takes half, the next half of the rest, and so on; what nobody else needs
  goes to the first. A newcomer thus joins the next step however long its own tenant's prompts are.
- A prompt is admitted when there is room for all of it. When streams run out of pages the latest arrival of the tenant
  that runs most gives way: it waits again, its full pages left in the prefix tree for as long as nobody needs them. The
  earliest stream can take everything, and `check` lets in only what fits alone, so there is always progress. A tenant
  that runs many times as many sequences as another gives way to it as well.
- Background work computes a few tokens a step, beside others' work a small part of it, and gives way to all of it.
- A prompt that begins with what another is about to compute waits for that and finds it in the prefix tree; so do all
  samples of a request but the first.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil
from time import perf_counter

from abaci.engine.grammar import Grammar
from abaci.engine.kv_cache import KVCache, PageTable
from abaci.engine.lane import Lane, Tenant
from abaci.engine.limits import SchedulerConfig, check_request
from abaci.engine.step import Sequence, StepPlan, StepResult
from abaci.errors import AbaciError, copy_of
from abaci.generation import FinishReason, GenerationRequest, Pooling, TokenEvent, TokenLogprob

PROMPT_TOKENS = 16
"""Of a prompt in a step beside streams, however few these are: so many rows cost about twice one. Further prompts bring
twice as many each, as larger steps cost less a token."""
PATIENCE = 12
"""Tokens of prompts that a sequence puts up with in a step where its tenant has been given more than theirs."""
LARGEST_RATIO = 4
"""A tenant that would still run so many times the sequences of another gives up its latest for it."""
BACKGROUND_TOKENS = 4
"""Of background work in a step where others have been lately: who arrives meanwhile waits no longer than that."""
QUIET_BACKGROUND_TOKENS = 32
"""Of background work in a step where nobody else has been for QUIET_SECONDS."""
QUIET_SECONDS = 30.0
BACKGROUND_PART = 64
"""Beside other work, background gets a token for each so many."""


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
    """Owner and only writer of all sequences. Not thread-safe, except for `check`. `clock` gives seconds."""

    def __init__(self, config: SchedulerConfig, cache: KVCache, *, clock: Callable[[], float] = perf_counter) -> None:
        self.counters = SchedulerCounters()
        self._config = config
        self._cache = cache
        self._clock = clock
        self._num_groups = len(cache.num_pages)
        self._requests: dict[str, list[Sequence]] = {}
        self._interactive = Lane()
        self._background = Lane()
        self._num_parked = 0
        self._num_arrivals = 0
        self._interactive_seconds = float("-inf")
        """When there was interactive work last."""
        self._is_blocked = False
        """Who is next did not fit, and neither has a page come free since nor anybody else arrived."""

    @property
    def has_work(self) -> bool:
        """Whether a step could compute anything."""
        return bool(self.num_running or self.num_waiting)

    @property
    def num_running(self) -> int:
        return len(self._interactive.running) + len(self._background.running)

    @property
    def num_waiting(self) -> int:
        """At once, however many they are."""
        return self._interactive.num_waiting + self._background.num_waiting + self._num_parked

    def check(self, request: GenerationRequest) -> None:
        """Raise UsageError if the request can never run, ContextLengthError if it is too long. Reads constants only."""
        check_request(request, self._config, self._cache)

    def submit(self, request: GenerationRequest, grammar: Grammar | None = None) -> None:
        """Queue a request that `check` has passed."""
        arrival = self._num_arrivals
        self._num_arrivals += request.num_samples
        if not request.is_background:
            self._interactive_seconds = self._clock()
        lane = self._background if request.is_background else self._interactive
        tenant = lane.join(request.tenant, request.num_samples)
        samples = [Sequence(request, index, arrival + index, tenant, grammar) for index in range(request.num_samples)]
        self._requests[request.request_id] = samples
        for sample in samples[1:]:
            self._park(sample, samples[0], sample.num_prompt)
        lane.push(samples[0])
        self._is_blocked = False

    def cancel(self, request_id: str, sample_index: int | None = None) -> list[TokenEvent]:
        """Stop a request, or one sample of it, between steps. Unknown ids give no events."""
        samples = self._requests.get(request_id, ())
        chosen = [s for s in samples if sample_index is None or s.sample_index == sample_index]
        return self._drop(chosen, FinishReason.CANCELLED, None)

    def fail(self, plan: StepPlan, error: Exception) -> list[TokenEvent]:
        """End every request that took part in a step that failed."""
        request_ids = dict.fromkeys(sequence.request.request_id for sequence in plan.sequences)
        return [event for request_id in request_ids for event in self.fail_request(request_id, error)]

    def fail_request(self, request_id: str, error: Exception) -> list[TokenEvent]:
        """End one request with an error."""
        return self._drop(self._requests.get(request_id, ()), FinishReason.ERROR, error)

    def plan(self) -> StepPlan:
        """What to compute next, while there is work. Preempts where pages run out."""
        if self._interactive.num_waiting and not self._is_blocked:
            self._admit_prompts()
        sequences, prompts = self._streams_and_prompts(self._interactive)
        counts = [1] * len(sequences)
        if prompts:
            self._share_step(sequences, counts, prompts)
        if self._background.running or self._background.num_waiting:
            self._add_background(sequences, counts)
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
            sequence.tenant.served_tokens += plan.counts[index]
            table = sequence.table
            assert table is not None
            if num_computed >= table.next_boundary:
                self._cache.advance(table, sequence.token_ids, num_computed)
                self._is_blocked = False
            num_known = len(sequence.token_ids)
            is_stream = plan.counts[index] == 1 and num_computed == num_known
            self._cache.advance_state(table, num_computed, num_known, is_stream=is_stream)
            if sequence.dependants:
                self._release_dependants(sequence, num_computed)
            if sequence.prompt_logprobs is not None and result.prompt_logprobs:
                sequence.prompt_logprobs.extend(result.prompt_logprobs[index])
            token_id = result.token_ids[index]
            self.counters.computed_tokens += plan.counts[index]
            if token_id is None:
                self.counters.prompt_chunks += 1
                continue
            if token_id < 0:
                error = result.errors.get(index) or _nothing_to_draw(sequence)
                events.extend(self.fail_request(sequence.request.request_id, error))
                continue
            logprob = result.logprobs.get(index) if result.logprobs else None
            events.append(self._accept(sequence, token_id, logprob, result.embeddings.get(index)))
        return events

    def check_integrity(self) -> None:
        """What must hold between steps. For tests."""
        self._cache.check_integrity()
        lanes = (self._interactive, self._background)
        running = [sequence for lane in lanes for sequence in lane.running]
        waiting = [sequence for lane in lanes for sequence in lane.check_integrity()]
        sequences = [*running, *waiting]
        num_leaders = len(sequences)
        live = {id(sequence) for samples in self._requests.values() for sequence in samples}
        for sequence in sequences:  # and those parked with it, who may have others parked with them
            sequences.extend(other for _, other in sequence.dependants if not other.is_finished)
            assert len(sequences) <= len(live)
        assert live == set(map(id, sequences)) and len(live) == len(sequences)
        leaders, parked = sequences[:num_leaders], sequences[num_leaders:]
        assert not any(s.is_parked for s in leaders) and all(s.is_parked for s in parked)
        assert len(parked) == self._num_parked
        assert len(running) <= self._config.max_sequences
        for sequence in running:
            assert sequence.table is not None
            assert sequence.num_computed < len(sequence.token_ids)
            assert sequence.table.next_boundary - self._cache.page_tokens <= sequence.num_computed
        assert all(sequence.table is None for sequence in (*waiting, *parked))

    # Who runs.

    def _admit_prompts(self) -> None:
        """Start those that are next, as many as this step has tokens for."""
        while (sequence := self._interactive.first()) is not None:
            if not (self._has_place(sequence.tenant) and self._has_tokens(sequence.tenant) and self._admit(sequence)):
                return

    def _has_place(self, tenant: Tenant) -> bool:
        """Whether another sequence of the tenant may run, if somebody gives way. A glance, before looking closer."""
        if self.num_running < self._config.max_sequences or self._background.running:
            return True
        return LARGEST_RATIO * (tenant.num_running + 1) <= self._config.max_sequences

    def _has_tokens(self, tenant: Tenant) -> bool:
        """Whether a further prompt of the tenant would get tokens in this step."""
        prompts = [sequence for sequence in self._interactive.running if _num_missing(sequence) > 1]
        others = [s for s in prompts if s.tenant is not tenant and s.tenant.served_tokens <= tenant.served_tokens]
        own = [sequence for sequence in prompts if sequence.tenant is tenant]
        num_streams = len(self._interactive.running) - len(prompts)
        left = self._prompt_tokens(tenant, num_streams, len(others) + len(own) + 1) - sum(map(_num_missing, others))
        return left > 0 and (len(own) < left.bit_length() or sum(map(_num_missing, own)) < left)

    def _admit(self, sequence: Sequence) -> bool:
        """Start the first of a lane, or park it with another that computes the same; False where there is no room."""
        lane = sequence.tenant.lane
        while self.num_running >= self._config.max_sequences:
            if not self._somebody_gives_way(sequence.tenant):
                return False
        table = self._cache.acquire(sequence.token_ids, _hit_limit(sequence), sequence.request.cache_salt)
        sequence.table = table
        leader = self._leader_of(sequence, table)
        if leader is not None:
            self._release_pages(sequence)
            lane.take(sequence)
            self._park(sequence, *leader)
            return True
        while not (
            self._cache.claim_state(table) and all(self._fits(sequence, group) for group in range(self._num_groups))
        ):
            if not self._somebody_gives_way(sequence.tenant):
                self._release_pages(sequence)
                self._is_blocked = True
                return False
        lane.take(sequence)
        lane.start(sequence)
        self._note_hit(sequence, table)
        return True

    def _note_hit(self, sequence: Sequence, table: PageTable) -> None:
        sequence.num_computed = table.num_hit_tokens
        if sequence.prompt_logprobs is not None:
            first = max(table.num_hit_tokens + 1, sequence.request.prompt_logprobs_begin)
            del sequence.prompt_logprobs[first:]
        if sequence.num_cached is None:
            sequence.num_cached = table.num_hit_tokens
            sequence.scheduled_seconds = self._clock()
            self.counters.prefix_query_tokens += sequence.num_prompt
            self.counters.prefix_hit_tokens += table.num_hit_tokens

    def _fits(self, sequence: Sequence, group: int) -> bool:
        """Whether there is room for all its tokens beside those already promised room."""
        promised = list(self._interactive.running)
        if sequence.request.is_background:
            promised += self._background.running
        outstanding = sum(self._outstanding(other, group) for other in promised)
        return self._cache.num_available(group) >= outstanding + self._outstanding(sequence, group)

    def _outstanding(self, sequence: Sequence, group: int) -> int:
        assert sequence.table is not None
        needed = self._cache.pages_needed(len(sequence.token_ids), group)
        return max(0, needed - self._cache.pages_held(sequence.table, group))

    def _somebody_gives_way(self, tenant: Tenant) -> bool:
        """Preempt background work, or whoever runs many times as many sequences as the tenant."""
        if tenant.lane is self._background:
            return False
        if self._background.running:
            self._preempt(self._background.latest_of_largest())
            return True
        if not self._interactive.running:
            return False
        victim = self._interactive.latest_of_largest()
        if victim.tenant.num_running < LARGEST_RATIO * (tenant.num_running + 1):
            return False
        self._preempt(victim)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._stop(sequence)
        sequence.num_computed = 0
        sequence.tenant.lane.push(sequence)
        self.counters.preemptions += 1

    def _stop(self, sequence: Sequence) -> None:
        self._release_pages(sequence)
        sequence.tenant.lane.stop(sequence)
        self._release_dependants(sequence)

    def _release_pages(self, sequence: Sequence) -> None:
        assert sequence.table is not None
        self._cache.release(sequence.table)
        sequence.table = None
        self._is_blocked = False

    # Who waits for another's prefix.

    def _leader_of(self, sequence: Sequence, table: PageTable) -> tuple[Sequence, int] | None:
        """A prompt of the same tenant that is about to compute at least half of what this one still needs, and how far.

        Not one of a lower priority, which may take its time.
        """
        begin, limit = table.num_hit_tokens, _hit_limit(sequence)
        for other in sequence.tenant.lane.running:
            if other.tenant is not sequence.tenant or other.request.priority > sequence.request.priority:
                continue
            if _num_missing(other) == 1 or not self._cache.ends_where(other.table, table):
                continue
            end = self._common_pages(sequence.token_ids, other.token_ids, begin, limit)
            if end > begin and 2 * (end - begin) >= _num_missing(sequence) - begin:
                return other, end
        return None

    def _common_pages(self, token_ids: list[int], others: list[int], begin: int, limit: int) -> int:
        """End of the last whole page up to `limit` to which both are the same from `begin` on."""
        size = self._cache.page_tokens
        end = begin
        while end + size <= min(limit, len(others)) and token_ids[end : end + size] == others[end : end + size]:
            end += size
        return end

    def _park(self, sequence: Sequence, leader: Sequence, num_tokens: int) -> None:
        leader.dependants.append((num_tokens, sequence))
        sequence.is_parked = True
        self._num_parked += 1

    def _release_dependants(self, sequence: Sequence, num_computed: int | None = None) -> None:
        """Let those wait for a place whose prefix has been computed; without a number all of them."""
        remaining: list[tuple[int, Sequence]] = []
        for num_tokens, dependant in sequence.dependants:
            if dependant.is_finished:
                continue
            if num_computed is not None and num_computed < num_tokens:
                remaining.append((num_tokens, dependant))
                continue
            dependant.is_parked = False
            self._num_parked -= 1
            dependant.tenant.lane.push(dependant)
            self._is_blocked = False
        sequence.dependants = remaining

    # What those that run compute.

    def _streams_and_prompts(self, lane: Lane) -> tuple[list[Sequence], list[Sequence]]:
        """Who has one token to compute, and a page for it, and who has several."""
        while True:
            num_preemptions = self.counters.preemptions
            streams: list[Sequence] = []
            prompts: list[Sequence] = []
            for sequence in lane.running:
                if len(sequence.token_ids) - sequence.num_computed > 1:
                    prompts.append(sequence)
                elif sequence.num_computed < sequence.table.capacity or self._grow(sequence):  # type: ignore[union-attr]
                    streams.append(sequence)
                if self.counters.preemptions != num_preemptions:
                    break  # who gave way may be among those seen
            else:
                return streams, prompts

    def _grow(self, sequence: Sequence) -> bool:
        """One more page for a stream, if need be from others; False if it was to give way itself."""
        table = sequence.table
        assert table is not None
        while self._cache.room_tokens(table) <= sequence.num_computed:
            lane = self._background if self._background.running else self._interactive
            victim = lane.latest_of_largest()
            self._preempt(victim)
            if victim is sequence:
                return False
        self._cache.extend(table, sequence.num_computed + 1)
        return True

    def _prompt_tokens(self, tenant: Tenant, num_streams: int, num_prompts: int) -> int:
        """Most tokens that a step has for `num_prompts` prompts, of the tenant and of those before it."""
        room = self._config.max_step_tokens - num_streams
        if num_streams == 0:
            return room
        patience = 0
        for sequence in self._interactive.running:
            patience += 1 if sequence.tenant.served_tokens <= tenant.served_tokens else PATIENCE
        if self._interactive.has_several_tenants:
            num_prompts = 1
        return min(room, max(PROMPT_TOKENS * (2 * num_prompts - 1), patience))

    def _share_step(self, sequences: list[Sequence], counts: list[int], prompts: list[Sequence]) -> None:
        """Add prompts to the step, which has streams only."""
        num_streams, num_prompts = len(sequences), 0
        by_tenant: dict[Tenant, list[Sequence]] = {}
        for sequence in prompts:
            by_tenant.setdefault(sequence.tenant, []).append(sequence)
        num_given = 0
        for tenant in sorted(by_tenant, key=lambda tenant: tenant.served_tokens):
            own = sorted(by_tenant[tenant], key=lambda sequence: (sequence.request.priority, sequence.arrival))
            num_prompts += len(own)
            budget = self._prompt_tokens(tenant, num_streams, num_prompts) - num_given
            prices = [self._price(sequence) if num_streams else 1.0 for sequence in own]
            needs = [ceil(_num_missing(sequence) * price) for sequence, price in zip(own, prices, strict=True)]
            for sequence, price, share in zip(own, prices, _shares(needs, budget), strict=True):
                count = self._take_pages(sequence, max(int(share / price), min(share, 1)))
                if count > 0:
                    sequences.append(sequence)
                    counts.append(count)
                    num_given += ceil(count * price)

    def _price(self, sequence: Sequence) -> float:
        """Of a prompt's next token, in tokens as they were priced at the prompt's beginning.

        The first quarter that a token becomes dearer is let pass; and nothing costs more than two, or a very long
        prompt would hardly come to its end.
        """
        doubling = self._config.doubling_position
        if doubling is None:
            return 1.0
        return min(2.0, max(1.0, 0.8 * (1 + sequence.num_computed / doubling)))

    def _take_pages(self, sequence: Sequence, count: int) -> int:
        """Pages for the next `count` tokens of a prompt, if need be from background work; for how many there is room.

        Admission saw room for the whole prompt, but streams may have grown into it since. What is left will do until
        one of them ends or gives way.
        """
        table = sequence.table
        assert table is not None
        stop = self._cache.next_stop(table, sequence.num_computed, len(sequence.token_ids))
        end = min(sequence.num_computed + count, stop)
        while self._cache.room_tokens(table) < end and self._background.running and not sequence.request.is_background:
            self._preempt(self._background.latest_of_largest())
        end = min(end, self._cache.room_tokens(table))
        if end > sequence.num_computed:
            self._cache.extend(table, end)
        return end - sequence.num_computed

    def _add_background(self, sequences: list[Sequence], counts: list[int]) -> None:
        """Add background work to the step, which has everything else: the earliest first."""
        lane = self._background
        budget = self._background_tokens(sum(counts))
        if not self._interactive.num_waiting:
            while len(lane.running) < budget and (sequence := lane.first()) is not None and self._admit(sequence):
                pass
        streams, prompts = self._streams_and_prompts(lane)
        for sequence in sorted((*streams, *prompts), key=lambda sequence: sequence.arrival):
            count = min(budget, _num_missing(sequence))
            if count > 1 or (count and sequence.num_computed + count > sequence.table.capacity):  # type: ignore[union-attr]
                count = self._take_pages(sequence, count)
            if count > 0:
                sequences.append(sequence)
                counts.append(count)
                budget -= count

    def _background_tokens(self, num_others: int) -> int:
        """Most tokens of background work in a step that has `num_others` of other work."""
        room = self._config.max_step_tokens - num_others
        now_seconds = self._clock()
        if num_others:
            self._interactive_seconds = now_seconds
            return min(room, max(1, num_others // BACKGROUND_PART))
        is_quiet = now_seconds - self._interactive_seconds >= QUIET_SECONDS
        return min(room, QUIET_BACKGROUND_TOKENS if is_quiet else BACKGROUND_TOKENS)

    # What becomes of results.

    def _accept(
        self,
        sequence: Sequence,
        token_id: int,
        logprob: TokenLogprob | None,
        embedding: tuple[float, ...] | None,
    ) -> TokenEvent:
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
            embedding=embedding,
            scheduled_seconds=sequence.scheduled_seconds if num_generated <= 1 else None,
        )

    def _finish(self, sequence: Sequence) -> None:
        sequence.is_finished = True
        lane = sequence.tenant.lane
        if sequence.table is not None:
            self._stop(sequence)
        else:
            if sequence.is_parked:
                sequence.is_parked = False
                self._num_parked -= 1
            else:
                lane.discard(sequence)
                self._is_blocked = False
            self._release_dependants(sequence)
        lane.leave(sequence.tenant)
        if lane is self._interactive:
            self._interactive_seconds = self._clock()
        request_id = sequence.request.request_id
        samples = self._requests[request_id]
        samples.remove(sequence)
        if not samples:
            del self._requests[request_id]

    def _drop(self, samples: Iterable[Sequence], reason: FinishReason, error: Exception | None) -> list[TokenEvent]:
        dropped = list(samples)
        for sequence in reversed(dropped):  # so that no sample starts in place of one that goes as well
            self._finish(sequence)
        return [
            TokenEvent(
                sequence.request.request_id,
                sequence.sample_index,
                (),
                finish_reason=reason,
                error=None if error is None else copy_of(error),
            )
            for sequence in dropped
        ]


def _num_missing(sequence: Sequence) -> int:
    """Known tokens that are not computed yet."""
    return len(sequence.token_ids) - sequence.num_computed


def _hit_limit(sequence: Sequence) -> int:
    """How many tokens may be taken from the prefix tree: what is asked of the prompt comes from computing it."""
    if sequence.request.pooling is Pooling.MEAN:
        return 0
    limit = len(sequence.token_ids) - 1
    if sequence.prompt_logprobs is not None:
        return min(limit, len(sequence.prompt_logprobs) - 1)
    return limit


def _shares(needs: list[int], budget: int) -> list[int]:
    """Tokens for each: half of what is left, rounded up, or what it needs; what nobody else needs goes to the first."""
    shares: list[int] = []
    for need in needs:
        shares.append(min(need, (max(0, budget) + 1) // 2))
        budget -= shares[-1]
    for index, need in enumerate(needs):
        extra = max(0, min(budget, need - shares[index]))
        shares[index] += extra
        budget -= extra
    return shares


def _nothing_to_draw(sequence: Sequence) -> AbaciError:
    return AbaciError(
        f"no token can be drawn at position {len(sequence.token_ids)}: all are banned, or their logits are not numbers",
        hint="Loosen logit_bias or min_tokens; if neither is set, verify the model file.",
    )
