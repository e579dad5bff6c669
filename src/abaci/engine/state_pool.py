"""Bookkeeping of recurrent states: which slot holds whose. Integers only, no tensors.

A layer that keeps a state of fixed size has no pages: the state of a sequence stands for all of its tokens. To continue
a prefix later, the state at its end must have been kept. Every slot is in exactly one of three places:

    free       holds nothing
    own        a running sequence writes it, step by step
    snapshot   at a node of the prefix tree: the state after the node's last token; never written again

A sequence reads one slot and writes another, or the same. Taking a snapshot therefore moves nothing: the slot just
written becomes the node's, and the sequence goes on reading it while it writes a new one. Snapshots that nobody reads
give way to whoever needs a slot: first those on a prompt's way, then those at ends, the least recently used first.
"""

from typing import Protocol

from abaci.engine.eviction import EvictionOrder

NO_STATE = -1


class SnapshotOwner(Protocol):
    """A node of the prefix tree: written by StatePool only."""

    state: int
    """Its slot, or NO_STATE."""
    num_state_readers: int


class StatePool:
    """`num_states` slots of one engine."""

    def __init__(self, num_states: int) -> None:
        self.num_states = num_states
        self._free = list(range(num_states - 1, -1, -1))
        self._idle: EvictionOrder[SnapshotOwner] = EvictionOrder()

    @property
    def num_available(self) -> int:
        """Slots that can be had at once: free ones, and snapshots that nobody reads."""
        return len(self._free) + len(self._idle)

    @property
    def num_spare(self) -> int:
        """Slots that can be had without giving up where something ended."""
        return len(self._free) + self._idle.num_passed

    def take(self) -> int:
        """A slot to write; from a snapshot if none is free. There must be one available."""
        if not self._free:
            self.drop(self._idle.first())
        return self._free.pop()

    def give_back(self, slot: int) -> None:
        """A slot that nobody writes any more."""
        self._free.append(slot)

    def keep(self, owner: SnapshotOwner, slot: int, *, is_end: bool) -> None:
        """What was written to `slot` is the owner's snapshot from now on: of an end, or of a place on the way."""
        assert owner.state == NO_STATE
        owner.state = slot
        self._idle.push(owner, is_end=is_end)

    def demote(self, owner: SnapshotOwner) -> None:
        """The owner's snapshot is one on the way now; if it has none, or it is being read, nothing happens."""
        self._idle.demote(owner)

    def hold(self, owner: SnapshotOwner) -> None:
        """Somebody is going to read the owner's snapshot."""
        self._idle.discard(owner)
        owner.num_state_readers += 1

    def release(self, owner: SnapshotOwner) -> None:
        """A reader has read it: who is read is wanted, wherever it stands."""
        owner.num_state_readers -= 1
        if owner.num_state_readers == 0:
            self._idle.push(owner, is_end=True)

    def drop(self, owner: SnapshotOwner) -> None:
        """Forget the owner's snapshot, which nobody reads; if it has none nothing happens."""
        if owner.state != NO_STATE and owner.num_state_readers == 0:
            self._idle.discard(owner)
            self._free.append(owner.state)
            owner.state = NO_STATE

    def check_integrity(self, owners: list[SnapshotOwner], own: list[int]) -> None:
        """Recount: free + own + snapshots = all, each once. For tests."""
        kept = [owner.state for owner in owners if owner.state != NO_STATE]
        assert sorted([*self._free, *own, *kept]) == list(range(self.num_states)), "every slot in one place"
        idle = [owner for owner in owners if owner.state != NO_STATE and not owner.num_state_readers]
        assert len(idle) == len(self._idle) and all(owner in self._idle for owner in idle), "who is not read is queued"
