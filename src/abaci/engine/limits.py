"""What an engine accepts: its limits, and whether a request can run within them."""

from dataclasses import dataclass

from abaci.engine.kv_cache import KVCache
from abaci.errors import ContextLengthError, UsageError
from abaci.generation import LARGEST_FACTOR, MOST_SAMPLES, SMALLEST_FACTOR, GenerationRequest


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Limits of one engine, in tokens and sequences."""

    context_length: int
    vocab_size: int
    max_sequences: int = 64
    """That run at a time; more wait."""
    max_step_tokens: int = 512
    doubling_position: int | None = None
    """Where in a prompt a token takes twice what it takes at the beginning; None: nowhere."""
    has_head: bool = True
    """False: the model has no logits, only embeddings."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_sequences <= self.max_step_tokens:
            raise UsageError(
                f"max_sequences {self.max_sequences} must be between 1 and max_step_tokens {self.max_step_tokens}",
                hint="Every running sequence needs one token of a step.",
            )


def check_request(request: GenerationRequest, config: SchedulerConfig, cache: KVCache) -> None:
    """Raise UsageError if the request can never run, ContextLengthError if it is too long. Reads constants only."""
    if request.pooling is None and not config.has_head:
        raise UsageError(
            "the model has no head (lm_head.weight, output.weight) and cannot generate or score",
            hint="Ask it for embeddings, or, if it is a reranker with a classifier, to rerank. "
            "If it is one that generates, its files are incomplete: fetch it again.",
        )
    prompt, total = len(request.prompt_token_ids), len(request.prompt_token_ids) + request.max_tokens
    if prompt == 0:
        raise UsageError("the prompt has no tokens", hint="Give at least one token, for example the model's BOS.")
    vocab_size = config.vocab_size
    for token_id in request.prompt_token_ids:
        if not 0 <= token_id < vocab_size:
            raise UsageError(
                f"the prompt has the token {token_id}, which the model does not have",
                hint=f"Its tokens are 0 to {vocab_size - 1}; encode texts with its own tokenizer.",
            )
    _check_parameters(request, vocab_size)
    if total > config.context_length:
        raise ContextLengthError(
            f"{prompt} prompt tokens and max_tokens {request.max_tokens} make {total}, "
            f"but the context holds {config.context_length}",
            hint="Shorten the prompt, ask for fewer tokens, or load the model with a larger context.",
        )
    num_positions = max(prompt, total - 1)  # the last token is drawn, but never computed
    for group, num_pages in enumerate(cache.num_pages):
        needed = cache.pages_needed(num_positions, group)
        if needed > num_pages:
            raise ContextLengthError(
                f"{prompt} prompt tokens and max_tokens {request.max_tokens} need {needed} pages of "
                f"{cache.page_tokens} tokens, but the KV cache has {num_pages}",
                hint="Shorten the prompt, ask for fewer tokens, or give the KV cache more memory.",
            )


def _check_parameters(request: GenerationRequest, vocab_size: int) -> None:
    prompt_tokens = len(request.prompt_token_ids)
    tokens = f"tokens of the model, 0 to {vocab_size - 1}"
    ranges = (
        ("max_tokens", request.max_tokens >= 0, "at least 0"),
        ("min_tokens", 0 <= request.min_tokens <= request.max_tokens, f"0 to max_tokens, here {request.max_tokens}"),
        (
            "pooling",
            request.pooling is None or (request.max_tokens == 0 and request.num_prompt_logprobs is None),
            "None where tokens or log-probabilities are asked for",
        ),
        (
            "num_samples",
            1 <= request.num_samples <= (MOST_SAMPLES if request.max_tokens > 0 else 1),
            f"1 to {MOST_SAMPLES}, and 1 where no token is asked for",
        ),
        ("temperature", 0 <= request.temperature <= LARGEST_FACTOR, f"0 to {LARGEST_FACTOR}"),
        ("top_k", request.top_k >= 0, "at least 0"),
        ("top_p", 0 < request.top_p <= 1, "more than 0 and at most 1"),
        ("min_p", 0 <= request.min_p < 1, "at least 0 and less than 1"),
        (
            "repetition_penalty",
            SMALLEST_FACTOR <= request.repetition_penalty <= LARGEST_FACTOR,
            f"{SMALLEST_FACTOR} to {LARGEST_FACTOR}",
        ),
        ("presence_penalty", -2 <= request.presence_penalty <= 2, "-2 to 2"),
        ("frequency_penalty", -2 <= request.frequency_penalty <= 2, "-2 to 2"),
        ("seed", 0 <= request.seed < 2**64, "0 to 2**64 - 1"),
        (
            "prompt_logprobs_begin",
            1 <= request.prompt_logprobs_begin <= max(1, prompt_tokens),
            f"1 to the length of the prompt, {prompt_tokens}",
        ),
        ("num_logprobs", 0 <= (request.num_logprobs or 0) <= vocab_size, f"0 to {vocab_size}"),
        ("num_prompt_logprobs", 0 <= (request.num_prompt_logprobs or 0) <= vocab_size, f"0 to {vocab_size}"),
        (
            "logit_bias",
            all(0 <= t < vocab_size and -100 <= bias <= 100 for t, bias in request.logit_bias),
            f"{tokens}, each with a bias of -100 to 100",
        ),
        ("end_token_ids", all(0 <= t < vocab_size for t in request.end_token_ids), tokens),
    )
    for name, is_valid, wanted in ranges:
        if not is_valid:
            raise UsageError(f"{name} is {getattr(request, name)!r}", hint=f"It must be {wanted}.")
