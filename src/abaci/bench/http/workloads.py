"""What servers are asked, by how many at a time and when. Each round has its own prompts, the same for all servers."""

from dataclasses import dataclass

from abaci.bench.http.text import PromptWriter

_MEDIAN_TOKENS, _SPREAD, _LEAST_TOKENS, _MOST_TOKENS = 128, 0.8, 16, 1024
"""Lengths of prompts: most are short, some are eight times as long."""
_QUESTION_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Conversation:
    """What one user says, turn after turn, each after the answer to the one before."""

    turns: tuple[str, ...]
    answer_tokens: int
    """Of each answer: exactly so many."""
    start_seconds: float = 0.0
    """In an open loop and for a visitor: when it begins, from the start of the load."""


@dataclass(frozen=True, slots=True)
class Load:
    """Conversations as they are to be held. `num_streams` None is an open loop: nobody waits for anybody."""

    conversations: tuple[Conversation, ...]
    num_streams: int | None
    warm_up: tuple[Conversation, ...] = ()
    """Held before the clock starts, one after another."""
    visitors: tuple[Conversation, ...] = ()
    """Begin at their own times beside the others; only their effect is measured."""


@dataclass(frozen=True, slots=True)
class Streams:
    """A closed loop: so many users, each of whom asks again as soon as there is an answer."""

    num_streams: int
    num_requests: int
    answer_tokens: int

    @property
    def name(self) -> str:
        return f"{self.num_streams} streams"

    def load(self, writer: PromptWriter) -> Load:
        return Load(_mixed(writer, self.num_requests, self.answer_tokens), self.num_streams)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """An open loop: requests come at random times, whether or not the server keeps up (a Poisson process)."""

    requests_per_second: float
    num_requests: int
    answer_tokens: int

    @property
    def name(self) -> str:
        return f"{self.requests_per_second:g} requests/s"

    def load(self, writer: PromptWriter) -> Load:
        conversations, now_seconds = [], 0.0
        for conversation in _mixed(writer, self.num_requests, self.answer_tokens):
            conversations.append(Conversation(conversation.turns, conversation.answer_tokens, now_seconds))
            now_seconds += writer.random.expovariate(self.requests_per_second)
        return Load(tuple(conversations), num_streams=None)


@dataclass(frozen=True, slots=True)
class Prefix:
    """Short questions after a long beginning, one at a time: either the same for all, seen before, or always new."""

    prefix_tokens: int
    num_requests: int
    answer_tokens: int
    is_shared: bool

    @property
    def name(self) -> str:
        return f"prefix of {self.prefix_tokens:,} tokens, {'shared' if self.is_shared else 'new'}"

    def load(self, writer: PromptWriter) -> Load:
        shared = writer.write(self.prefix_tokens)
        conversations = []
        for _ in range(self.num_requests):
            prefix = shared if self.is_shared else writer.write(self.prefix_tokens)
            question = f"{prefix}\n\n{writer.write(_QUESTION_TOKENS)}"
            conversations.append(Conversation((question,), self.answer_tokens))
        warm_up = (Conversation((f"{shared}\n\n{writer.write(_QUESTION_TOKENS)}",), 1),) if self.is_shared else ()
        return Load(tuple(conversations), num_streams=1, warm_up=warm_up)


@dataclass(frozen=True, slots=True)
class Turns:
    """Conversations of several turns: every question comes with all that was said before."""

    num_streams: int
    num_turns: int
    answer_tokens: int

    @property
    def name(self) -> str:
        return f"{self.num_streams} conversations of {self.num_turns} turns"

    def load(self, writer: PromptWriter) -> Load:
        conversations = []
        for _ in range(self.num_streams):
            lengths = [writer.draw_length(_MEDIAN_TOKENS, _SPREAD, _LEAST_TOKENS, 256) for _ in range(self.num_turns)]
            turns = tuple(writer.write(length) for length in lengths)
            conversations.append(Conversation(turns, self.answer_tokens))
        return Load(tuple(conversations), self.num_streams)


@dataclass(frozen=True, slots=True)
class Visits:
    """Streams that run while long prompts come in, one at a time: what does a newcomer cost those who are there?"""

    num_streams: int
    answer_tokens: int
    visitor_tokens: int
    visit_seconds: tuple[float, ...]

    @property
    def name(self) -> str:
        return f"{self.num_streams} streams, visited by prompts of {self.visitor_tokens:,} tokens"

    def load(self, writer: PromptWriter) -> Load:
        streams = [Conversation((writer.write(_MEDIAN_TOKENS),), self.answer_tokens) for _ in range(self.num_streams)]
        visitors = [Conversation((writer.write(self.visitor_tokens),), 1, when) for when in self.visit_seconds]
        return Load(tuple(streams), self.num_streams, visitors=tuple(visitors))


Workload = Streams | Arrivals | Prefix | Turns | Visits


def _mixed(writer: PromptWriter, count: int, answer_tokens: int) -> tuple[Conversation, ...]:
    lengths = [writer.draw_length(_MEDIAN_TOKENS, _SPREAD, _LEAST_TOKENS, _MOST_TOKENS) for _ in range(count)]
    return tuple(Conversation((writer.write(length),), answer_tokens) for length in lengths)
