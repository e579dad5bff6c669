"""What passes between scheduler and runner: sequences, the plan of a step and its result. Tokens only.

A Sequence is written by the scheduler alone; the runner reads it.
"""

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from abaci.engine.grammar import Grammar
from abaci.engine.kv_cache import PageTable
from abaci.errors import AbaciError
from abaci.generation import GenerationRequest, TokenLogprob

if TYPE_CHECKING:
    from abaci.engine.lane import Tenant


class Sequence:
    """One sample of a request: its tokens, how many of them have been computed, and where their keys and values live.

    `table` is None while the sequence waits. `prompt_logprobs` collects what the request asked of its prompt, one
    entry per token (the first None), and is None when nothing was asked for or all has been delivered.
    """

    __slots__ = (
        "arrival",
        "dependants",
        "grammar",
        "is_finished",
        "is_parked",
        "num_cached",
        "num_computed",
        "num_prompt",
        "prompt_logprobs",
        "request",
        "sample_index",
        "scheduled_seconds",
        "table",
        "tenant",
        "token_ids",
    )

    def __init__(
        self,
        request: GenerationRequest,
        sample_index: int,
        arrival: int,
        tenant: "Tenant",
        grammar: Grammar | None = None,
    ) -> None:
        self.request = request
        self.tenant = tenant
        self.grammar = grammar
        """Of the request's constraint."""
        self.sample_index = sample_index
        self.arrival = arrival
        self.token_ids = list(request.prompt_token_ids)
        self.num_prompt = len(self.token_ids)
        self.num_computed = 0
        self.table: PageTable | None = None
        self.num_cached: int | None = None
        """Prompt tokens found in the prefix tree at first admission; None before it."""
        self.prompt_logprobs: list[TokenLogprob | None] | None = None
        if sample_index == 0 and request.num_prompt_logprobs is not None:
            self.prompt_logprobs = [None] * request.prompt_logprobs_begin
        self.dependants: list[tuple[int, Sequence]] = []
        """Sequences that wait until this one has computed so many tokens, which they begin with as well."""
        self.is_parked = False
        """Whether it is such a dependant of another."""
        self.is_finished = False
        self.scheduled_seconds: float | None = None
        """When it began to run first, on the clock of `time.perf_counter`."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Parallel tuples: sequence i computes `counts[i]` tokens from position `starts[i]` on.

    Where that reaches the last known token of a sequence, its next one is drawn.
    """

    sequences: tuple[Sequence, ...]
    starts: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step gave. `token_ids` runs parallel to `plan.sequences`; the others are empty where nobody asked."""

    plan: StepPlan
    token_ids: SequenceOf[int | None]
    """The token drawn, None where the prompt is not finished, negative where none could be."""
    logprobs: dict[int, TokenLogprob]
    """Index in the plan -> of the token drawn."""
    prompt_logprobs: dict[int, list[TokenLogprob]]
    """Index in the plan -> of the tokens that follow the computed ones; token_id -1 after the prompt's last."""
    errors: dict[int, AbaciError] = field(default_factory=dict)
    """Index in the plan -> why no token could be drawn, where that is known."""
    embeddings: dict[int, tuple[float, ...]] = field(default_factory=dict)
    """Index in the plan -> the pooled hidden states of a prompt that is finished."""
