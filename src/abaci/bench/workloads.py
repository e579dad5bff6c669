"""The work that contenders are given. Token ids are random: speed must not depend on what a prompt says."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from abaci.bench.contender import Contender, Timing

NO_LIMIT_SECONDS = 600.0
_PROMPT_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Tokens:
    """Draws token ids from the middle of the vocabularies, away from special tokens at their ends."""

    vocab_size: int
    random: Random

    def draw(self, count: int) -> list[int]:
        return [self.random.randrange(self.vocab_size // 20, self.vocab_size * 19 // 20) for _ in range(count)]


@dataclass(frozen=True, slots=True)
class Prefill:
    """One prompt, up to its first token. Every repetition has a prompt of its own, so that no cache knows it."""

    num_tokens: int

    @property
    def name(self) -> str:
        return f"prefill {self.num_tokens}"

    @property
    def num_streams(self) -> int:
        return 1

    @property
    def step_tokens(self) -> int:
        return self.num_tokens

    def prompts(self, tokens: Tokens) -> list[list[int]]:
        return [tokens.draw(self.num_tokens)]

    def trial(self) -> "Prefill":
        return self

    def run(self, contender: Contender, prompts: Sequence[Sequence[int]]) -> Timing:
        return contender.prefill(prompts[0])


@dataclass(frozen=True, slots=True)
class Decode:
    """Streams that are continued together, each after a prompt of 128 tokens of its own."""

    num_streams: int
    num_tokens: int
    """Of each stream."""
    limit_seconds: float = NO_LIMIT_SECONDS

    @property
    def name(self) -> str:
        return f"decode, {self.num_streams} stream{'s' if self.num_streams > 1 else ''}"

    @property
    def step_tokens(self) -> int:
        return 1

    def prompts(self, tokens: Tokens) -> list[list[int]]:
        return [tokens.draw(_PROMPT_TOKENS) for _ in range(self.num_streams)]

    def trial(self) -> "Decode":
        """A shorter one, enough to choose settings by."""
        return Decode(self.num_streams, max(8, self.num_tokens // 4))

    def run(self, contender: Contender, prompts: Sequence[Sequence[int]]) -> Timing:
        return contender.decode(prompts, self.num_tokens, self.limit_seconds)


Workload = Prefill | Decode
