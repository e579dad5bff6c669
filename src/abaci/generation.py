"""What is asked of an engine and what comes back: plain, frozen, serialisable values, and the Generator protocol.

Tokens only: text is `chat`'s business. Anything that can answer a GenerationRequest with TokenEvents is a Generator:
the engine, a scripted fake, later a cluster.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

MOST_SAMPLES: Final = 16_384
"""Of one request: each is kept track of, from the first on."""
SMALLEST_FACTOR: Final = 1e-30
LARGEST_FACTOR: Final = 1e30
"""What logits, which are single-precision numbers, are multiplied or divided by."""


class ConstraintKind(StrEnum):
    """Languages in which the form of an answer can be prescribed."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    LARK = "lark"
    """A context-free grammar in llguidance's dialect of Lark."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """A form the answer must have: every sample is a text of the language that `source` describes.

    With a `Thinking` it begins after the thought.
    """

    kind: ConstraintKind
    source: str


@dataclass(frozen=True, slots=True)
class Thinking:
    """The thought that precedes an answer, and what it may cost.

    The thought ends where its tokens end with `end_token_ids`. Once it is `budget_tokens` long without that, the tokens
    `closing_token_ids` (which end with `end_token_ids`) are given in place of drawn ones. None: no budget.
    """

    end_token_ids: tuple[int, ...]
    budget_tokens: int | None = None
    closing_token_ids: tuple[int, ...] = ()


class Pooling(StrEnum):
    """How the final hidden states of a prompt become one vector."""

    MEAN = "mean"
    LAST = "last"


class FinishReason(StrEnum):
    """Why a sample ended; the values are OpenAI's where one exists."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens. `None` means "the model's generation config, else the neutral value".

    temperature      >= 0; 0 is greedy. Neutral 1.
    top_k            >= 1 keeps the k likeliest; None keeps all.
    top_p, min_p     in (0, 1], [0, 1).
    repetition_penalty   in [1e-30, 1e30], over prompt and output (Keskar et al. 2019); presence/frequency over output,
                     in [-2, 2].
    logit_bias       token id -> added logit, in [-100, 100].
    seed             0 <= seed < 2**64; None draws one, which is reported back.
    n                samples that share the prompt, at most 16384.
    stop             strings that end a sample; the text before them is kept (unless include_stop_str_in_output).
    stop_token_ids   tokens that end a sample, beside the model's own end tokens; their text is left out (unless
                     include_stop_str_in_output; that of special tokens then needs skip_special_tokens off).
    max_tokens       None: to the end of the context. min_tokens: no end before that many, be it a token or
                     a stop string.
    logprobs         None: none; k >= 0: of the chosen token and of the k likeliest at each step.
    prompt_logprobs  the same for the prompt's tokens.
    constraint       a form every sample must have; None leaves it free. It may end where the form is complete, and only
                     there; min_tokens then counts for as long as the form can go on. Needs an end token.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = field(default_factory=dict)
    seed: int | None = None
    n: int = 1
    stop: Sequence[str] | str | None = ()
    include_stop_str_in_output: bool = False
    stop_token_ids: Sequence[int] | None = ()
    max_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt to continue, fully resolved: no None that the engine would have to guess.

    `end_token_ids` holds every token that ends a sample (model's own and the caller's; empty with ignore_eos).
    `max_tokens` 0 asks for the prompt's log-probabilities only.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    max_tokens: int
    min_tokens: int = 0
    end_token_ids: frozenset[int] = frozenset()
    temperature: float = 1.0
    top_k: int = 0
    """0: no limit."""
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0
    num_samples: int = 1
    num_logprobs: int | None = None
    num_prompt_logprobs: int | None = None
    constraint: Constraint | None = None
    thinking: Thinking | None = None
    prompt_logprobs_begin: int = 1
    """The first of the prompt's tokens whose log-probability is wanted; what is before it may come from the cache."""
    pooling: Pooling | None = None
    """Asks for an embedding of the prompt instead of a continuation; `max_tokens` is 0 then."""
    tenant: str = ""
    """Whose request it is: tenants share the machine evenly, by tokens."""
    priority: int = 0
    """Lower runs earlier among the requests of one tenant."""
    is_background: bool = False
    """Runs only in what interactive requests leave over."""
    cache_salt: str = ""
    """Prefixes are found in the cache only by requests with the same salt."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural log-probability of one token in the model's unmodified distribution, and the likeliest alternatives."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """(token id, log-probability), likeliest first, ties by lowest id."""


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """New tokens of one sample of a request, in order; the last event of a sample carries `finish_reason`.

    An end token is delivered as the last of `token_ids`, with `ended_by_token` set, so that the text side can drop it.
    `prompt_logprobs` comes once, with the first event of sample 0: one entry per prompt token, None
    for those before `prompt_logprobs_begin`, then one further entry holding only `top` for what follows the last token
    (token_id -1).
    """

    request_id: str
    sample_index: int
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    ended_by_token: bool = False
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    num_cached_tokens: int = 0
    """Prompt tokens found in the prefix cache (set on a sample's first event)."""
    error: Exception | None = None
    """What ended the sample, if that was an error. Nobody else has the same object, so who reads it may raise it."""
    embedding: tuple[float, ...] | None = None
    """Of a request with `pooling`: the pooled hidden state, not normalised."""
    scheduled_seconds: float | None = None
    """When the sample first had a place in a step, on the clock of `time.perf_counter` (set on its first event)."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and seconds of one request."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0


TokenSink = Callable[[TokenEvent], None]
"""Called on the generator's own thread, once per event; must return at once and never raise."""


class Generator(Protocol):
    """Whatever turns requests into token events."""

    def submit(self, request: GenerationRequest, sink: TokenSink) -> None:
        """Queue a request.

        Raises UsageError if it can never run (ContextLengthError with the numbers), EngineClosedError after close.
        """

    def cancel(self, request_id: str, sample_index: int | None = None) -> None:
        """Stop a request, or one sample of it, within a step; it ends as CANCELLED. Unknown ids are ignored."""

    def close(self) -> None:
        """Stop the generator; running requests end with an error event. Idempotent."""
