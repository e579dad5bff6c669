"""Who is next: tenants by how much they have been given, the requests of one by priority and arrival.

Every tenant has a counter of the tokens computed for it, and the one with the lowest is served first (virtual token
counters: Sheng et al. 2024, "Fairness in Serving Large Language Models"). A tenant that comes back begins where those
at work are, less what it may have saved: it neither pays for having been alone nor owns the machine for having been
away. Knows no pages and no steps; every operation takes at most logarithmic time in the number of requests that wait.
"""

from bisect import insort
from collections import OrderedDict
from heapq import heapify, heappop, heappush, heapreplace
from operator import attrgetter

from abaci.engine.step import Sequence

SAVED_TOKENS = 4096
"""That a tenant without work may be behind the others at most."""
NUM_REMEMBERED = 1024
"""Tenants without work whose counters are kept."""

_BY_ARRIVAL = attrgetter("arrival")


class Tenant:
    """One tenant with work in one lane. Written by the lane, but for `served_tokens`, which the scheduler counts."""

    __slots__ = ("_heap", "_num_gone", "is_lined", "lane", "name", "num_running", "num_unfinished", "served_tokens")

    def __init__(self, lane: "Lane", name: str, served_tokens: int) -> None:
        self.lane = lane
        self.name = name
        self.served_tokens = served_tokens
        self.num_running = 0
        self.num_unfinished = 0
        """Sequences that run or wait, whatever for."""
        self.is_lined = False
        """Whether it has its place in the lane's order, as it must while sequences of it wait there."""
        self._heap: list[tuple[int, int, Sequence]] = []
        self._num_gone = 0
        """Entries of the heap whose sequence waits no more."""

    def push(self, sequence: Sequence) -> None:
        heappush(self._heap, (sequence.request.priority, sequence.arrival, sequence))

    def first(self) -> Sequence | None:
        """The next of its sequences that wait."""
        heap = self._heap
        while heap and heap[0][2].is_finished:
            heappop(heap)
            self._num_gone -= 1
        return heap[0][2] if heap else None

    def pop(self) -> None:
        """Take out what `first` gave."""
        heappop(self._heap)

    def discard(self) -> None:
        """One of those that wait has been finished: its entry goes when it is met, or when most are like it."""
        self._num_gone += 1
        if self._num_gone > len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if not entry[2].is_finished]
            heapify(self._heap)
            self._num_gone = 0

    def waiting(self) -> list[Sequence]:
        """For tests."""
        return [entry[2] for entry in self._heap if not entry[2].is_finished]


class Lane:
    """The sequences of one class of work: those that run, and those that wait for a place."""

    def __init__(self) -> None:
        self.running: list[Sequence] = []
        """By arrival."""
        self.num_waiting = 0
        self._tenants: dict[str, Tenant] = {}
        self._counters_of_others: OrderedDict[str, int] = OrderedDict()
        """Of tenants without work, the longest unseen first."""
        self._order: list[tuple[int, int, Tenant]] = []
        """A heap by the counter as it was; counters only grow, so the first that is up to date is the lowest."""
        self._num_lined = 0
        self._num_gone = 0
        """Places in the order whose tenants have left."""
        self._last_served_tokens = 0

    @property
    def has_several_tenants(self) -> bool:
        """Whether more than one has been here."""
        return len(self._tenants) + len(self._counters_of_others) > 1

    def join(self, name: str, num_sequences: int) -> Tenant:
        """The tenant, with that many sequences more."""
        tenant = self._tenants.get(name)
        if tenant is None:
            own = self._counters_of_others.pop(name, 0)
            tenant = self._tenants[name] = Tenant(self, name, max(own, self._level() - SAVED_TOKENS))
        tenant.num_unfinished += num_sequences
        return tenant

    def leave(self, tenant: Tenant) -> None:
        """One of its sequences has ended."""
        tenant.num_unfinished -= 1
        if tenant.num_unfinished == 0:
            del self._tenants[tenant.name]
            self._counters_of_others[tenant.name] = tenant.served_tokens
            if len(self._counters_of_others) > NUM_REMEMBERED:
                self._counters_of_others.popitem(last=False)
            if tenant.is_lined:
                self._forget_place()

    def push(self, sequence: Sequence) -> None:
        """Let a sequence wait."""
        tenant = sequence.tenant
        tenant.push(sequence)
        self.num_waiting += 1
        if not tenant.is_lined:
            tenant.is_lined = True
            self._num_lined += 1
            heappush(self._order, (tenant.served_tokens, self._num_lined, tenant))

    def first(self) -> Sequence | None:
        """The next that waits: the first of the tenant that has been given least."""
        order = self._order
        while order:
            served_tokens, number, tenant = order[0]
            sequence = tenant.first()
            if sequence is None:
                heappop(order)
                tenant.is_lined = False
                self._num_gone -= tenant.num_unfinished == 0
            elif served_tokens < tenant.served_tokens:
                heapreplace(order, (tenant.served_tokens, number, tenant))
            else:
                return sequence
        return None

    def take(self, sequence: Sequence) -> None:
        """Take out a sequence that is the first of its tenant."""
        assert sequence.tenant.first() is sequence
        sequence.tenant.pop()
        self.num_waiting -= 1

    def discard(self, sequence: Sequence) -> None:
        """A sequence that waited here has been finished."""
        self.num_waiting -= 1
        sequence.tenant.discard()

    def start(self, sequence: Sequence) -> None:
        """Let a sequence run."""
        insort(self.running, sequence, key=_BY_ARRIVAL)
        sequence.tenant.num_running += 1
        self._last_served_tokens = sequence.tenant.served_tokens

    def stop(self, sequence: Sequence) -> None:
        """A sequence runs no more."""
        self.running.remove(sequence)
        sequence.tenant.num_running -= 1

    def latest_of_largest(self) -> Sequence:
        """Who gives way first: the latest arrival of the tenant that runs most; of several such, the latest of all.

        Never the earliest arrival of all, unless it runs alone.
        """
        return max(self.running, key=lambda sequence: (sequence.tenant.num_running, sequence.arrival))

    def _forget_place(self) -> None:
        """A tenant has left: its place goes when it is met, or when most are like it."""
        self._num_gone += 1
        if self._num_gone > len(self._order) // 2:
            self._order = [place for place in self._order if place[2].num_unfinished]
            heapify(self._order)
            self._num_gone = 0

    def _level(self) -> int:
        """Where tenants at work are."""
        return min((sequence.tenant.served_tokens for sequence in self.running), default=self._last_served_tokens)

    def check_integrity(self) -> list[Sequence]:
        """Recount everything; gives those that wait. For tests."""
        waiting = [sequence for tenant in self._tenants.values() for sequence in tenant.waiting()]
        assert len(waiting) == self.num_waiting
        assert [s.arrival for s in self.running] == sorted(s.arrival for s in self.running)
        lined = [tenant for _, _, tenant in self._order]
        assert len(set(map(id, lined))) == len(lined)
        assert self._num_gone == sum(tenant.num_unfinished == 0 for tenant in lined)
        for tenant in self._tenants.values():
            assert tenant.num_unfinished > 0
            assert tenant.num_running == sum(sequence.tenant is tenant for sequence in self.running)
            assert not tenant.waiting() or tenant in lined
            assert tenant.is_lined == (tenant in lined)
            assert tenant._num_gone == sum(entry[2].is_finished for entry in tenant._heap)
        return waiting
