"""Will it run here, and how fast? Memory and speed of a model on this machine, forecast from its footprint.

A forecast of memory counts one conversation that fills its context; what more of them share is the weights. A forecast
of speed adds up what a step does, each part at the rate measured for it (`kernels.rates`): docs/fit.md has the
arithmetic and how close it comes. Knows no names and no files: it is given the footprint.
"""

from bisect import bisect_right
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from abaci.engine.loader import LoadOptions
from abaci.engine.memory import REQUESTED_SHARE, available_memory_bytes, total_memory_bytes, window_pages
from abaci.errors import UsageError
from abaci.kernels.batch import PAGE_TOKENS
from abaci.kernels.footprint import Footprint, Product, workspace_bytes
from abaci.kernels.rates import STEP_TOKENS
from abaci.runtime.machine_rates import MachineRates

USUAL_CONTEXT: Final = 8192
"""Tokens of context that a forecast assumes where nobody said: most conversations and documents."""
PROMPT_TOKENS: Final = 512
"""Of the prompt that a forecast of prefill speaks of."""
DECODE_POSITION: Final = 256
"""How far into a sequence a forecast of decoding speaks of."""

_PROCESS_BYTES: Final = 60 << 20
_VOCABULARY_ENTRY_BYTES: Final = 350
"""The interpreter with all that is imported, and a token of the vocabulary with its merges: measured, docs/fit.md."""


class Verdict(StrEnum):
    """Whether a model runs on this machine with a context."""

    FITS = "fits"
    NOT_NOW = "does not fit now"
    """The machine has enough memory, but others are using it."""
    TOO_LARGE = "too large"


@dataclass(frozen=True, slots=True)
class Memory:
    """What this machine has."""

    available_bytes: int
    total_bytes: int

    @classmethod
    def of_this_machine(cls) -> "Memory":
        """As it is now, within the limits of this process's control groups."""
        return cls(available_memory_bytes(), total_memory_bytes())


@dataclass(frozen=True, slots=True)
class MemoryForecast:
    """Most that a process holds while it runs one conversation to the end of its context."""

    context_length: int
    weight_bytes: int
    cache_bytes: int
    workspace_bytes: int
    process_bytes: int
    memory: Memory
    verdict: Verdict
    largest_context: int
    """That fits in what is available now; 0 where none does."""

    @property
    def total_bytes(self) -> int:
        """All parts together."""
        return self.weight_bytes + self.cache_bytes + self.workspace_bytes + self.process_bytes


@dataclass(frozen=True, slots=True)
class SpeedForecast:
    """Of one conversation, nothing else running."""

    prompt_tokens: int
    """PROMPT_TOKENS, or as many as the context holds."""
    prefill_tokens_per_second: float
    """Of a prompt of so many."""
    decode_tokens_per_second: float
    """At DECODE_POSITION."""
    decode_at_end_tokens_per_second: float
    """At the end of the context."""


def forecast_memory(model: Footprint, context_length: int | None, memory: Memory) -> MemoryForecast:
    """What the model takes with a context (None: USUAL_CONTEXT, or the model's if that is shorter).

    Raises UsageError for a context beyond the model's.
    """
    context = min(USUAL_CONTEXT, model.context_length) if context_length is None else context_length
    if not 1 <= context <= model.context_length:
        raise UsageError(
            f"a context of {context} tokens is not possible: the model allows 1 to {model.context_length}",
            hint=f"Give at most {model.context_length}.",
        )
    fixed_bytes = _fixed_bytes(model)

    def runs_in(num_bytes: int, tokens: int) -> bool:
        cache_bytes = _cache_bytes(model, tokens)
        free_bytes = num_bytes - model.weight_bytes
        return fixed_bytes + cache_bytes <= num_bytes and cache_bytes <= REQUESTED_SHARE * free_bytes

    if runs_in(memory.available_bytes, context):
        verdict = Verdict.FITS
    else:
        verdict = Verdict.NOT_NOW if runs_in(memory.total_bytes, context) else Verdict.TOO_LARGE
    num_pages = -(-model.context_length // PAGE_TOKENS)
    fitting = bisect_right(
        range(1, num_pages + 1), False, key=lambda pages: not runs_in(memory.available_bytes, pages * PAGE_TOKENS)
    )
    return MemoryForecast(
        context_length=context,
        weight_bytes=model.weight_bytes + model.vector_bytes,
        cache_bytes=_cache_bytes(model, context),
        workspace_bytes=workspace_bytes(model, LoadOptions().max_step_tokens, 1),
        process_bytes=_process_bytes(model),
        memory=memory,
        verdict=verdict,
        largest_context=min(fitting * PAGE_TOKENS, model.context_length),
    )


def forecast_speed(model: Footprint, rates: MachineRates, context_length: int) -> SpeedForecast:
    """How fast it runs at these rates, all of it in memory. Raises KeyError for a storage format without rates."""
    prompt_tokens = min(PROMPT_TOKENS, context_length)
    return SpeedForecast(
        prompt_tokens=prompt_tokens,
        prefill_tokens_per_second=prompt_tokens / prefill_seconds(model, rates, prompt_tokens).total,
        decode_tokens_per_second=1 / decode_seconds(model, rates, min(DECODE_POSITION, context_length - 1)).total,
        decode_at_end_tokens_per_second=1 / decode_seconds(model, rates, context_length - 1).total,
    )


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """What takes the time of a step, or of several."""

    products: float = 0.0
    attention: float = 0.0
    operations: float = 0.0
    """For the threads to begin and end each operation together."""
    values: float = 0.0
    """Of norms, gates, rotation and quantisation."""
    engine: float = 0.0
    """In Python."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.products + self.attention + self.operations + self.values + self.engine

    def __add__(self, other: "StepSeconds") -> "StepSeconds":
        return StepSeconds(
            self.products + other.products,
            self.attention + other.attention,
            self.operations + other.operations,
            self.values + other.values,
            self.engine + other.engine,
        )


def decode_seconds(model: Footprint, rates: MachineRates, position: int) -> StepSeconds:
    """For the token at `position` (counted from 0) of one conversation."""
    reading = sum(_reading_seconds(model, product, rates) for product in model.products)
    attending = 0.0
    for layer in model.attention:
        seen = _positions_seen(position, 1, layer.window)
        attending += max(
            seen * layer.operations / rates.step.decode_attention_per_second,
            seen * layer.cache_bytes / rates.ceilings.read_bytes_per_second,
        )
    return StepSeconds(products=reading, attention=attending) + _other_seconds(model, rates, 1)


def prefill_seconds(model: Footprint, rates: MachineRates, num_tokens: int) -> StepSeconds:
    """For a prompt of so many tokens, in steps of STEP_TOKENS, up to its first token."""
    asked = (product for product in model.products if product.asked_only)
    total = StepSeconds(products=sum(_reading_seconds(model, product, rates) for product in asked))
    for first_position in range(0, num_tokens, STEP_TOKENS):
        total += _chunk_seconds(model, rates, first_position, min(STEP_TOKENS, num_tokens - first_position))
    return total


def _chunk_seconds(model: Footprint, rates: MachineRates, first_position: int, num_tokens: int) -> StepSeconds:
    """A step of a prompt: products take what the slower of reading and computing takes."""
    multiplying = sum(
        max(
            num_tokens * product.operations / rates.formats[product.weight_format].operations_per_second,
            _reading_seconds(model, product, rates, num_tokens),
        )
        for product in model.products
        if not product.asked_only
    )
    attending = sum(
        _positions_seen(first_position, num_tokens, layer.window) * layer.operations for layer in model.attention
    )
    return StepSeconds(
        products=multiplying, attention=attending / rates.step.prefill_attention_per_second
    ) + _other_seconds(model, rates, num_tokens)


def _reading_seconds(model: Footprint, product: Product, rates: MachineRates, num_tokens: int = 1) -> float:
    rate = rates.formats[product.weight_format].bytes_per_second(model.products_bytes)
    return product.bytes_met(num_tokens) / (rate * rates.step.reading_share)


def _other_seconds(model: Footprint, rates: MachineRates, num_tokens: int) -> StepSeconds:
    """Of a step, without products and attention."""
    return StepSeconds(
        operations=model.num_operations * rates.step.operation_seconds,
        values=num_tokens * model.values_per_token * rates.step.value_seconds,
        engine=rates.engine_seconds,
    )


def _positions_seen(first_position: int, num_tokens: int, window: int | None) -> int:
    """By all tokens of a step together: each sees itself and those before, or a window of them."""

    def seen_before(position: int) -> int:
        """By all tokens before `position`."""
        if window is None or position <= window:
            return position * (position + 1) // 2
        return window * (window + 1) // 2 + (position - window) * window

    return seen_before(first_position + num_tokens) - seen_before(first_position)


def _fixed_bytes(model: Footprint) -> int:
    """All but the cache."""
    activations = workspace_bytes(model, LoadOptions().max_step_tokens, 1)
    return model.weight_bytes + model.vector_bytes + activations + _process_bytes(model)


def _process_bytes(model: Footprint) -> int:
    return _PROCESS_BYTES + _VOCABULARY_ENTRY_BYTES * model.vocab_size


def _cache_bytes(model: Footprint, context_length: int) -> int:
    """Of a state, and of the pages that so many tokens touch; those behind a window are kept while there is room."""
    options = LoadOptions()
    needed = -(-context_length // PAGE_TOKENS)
    total = model.state_bytes
    for window, page_bytes in zip(model.windows, model.page_bytes, strict=True):
        limit = window_pages(window, PAGE_TOKENS, options.max_sequences, options.max_step_tokens)
        total += page_bytes * (needed if limit is None else min(needed, limit))
    return total
