"""From sampling parameters with gaps to a request without: the model's defaults, checks, seeds."""

import secrets
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from abaci.errors import ContextLengthError, FileFormatError, UsageError
from abaci.formats.checkpoint import MetadataValue
from abaci.generation import (
    LARGEST_FACTOR,
    MOST_SAMPLES,
    SMALLEST_FACTOR,
    Constraint,
    GenerationRequest,
    SamplingParams,
)

_T = TypeVar("_T")

_SAMPLING_KEYS = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What a model's makers advise where a caller says nothing; neutral where they say nothing either."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, MetadataValue]) -> Self:
        """From `general.sampling.*` keys; warns of those that ask for what is not supported.

        Raises FileFormatError for a value of the wrong kind or out of range.
        """
        values: dict[str, float] = {}
        for key, name in _SAMPLING_KEYS.items():
            value = metadata.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise FileFormatError(f"{key} = {value!r} is not a number")
            if name == "top_k" and value <= 0:  # a file's way to say "no limit"
                continue
            values[name] = int(value) if name == "top_k" else float(value)
        unsupported = [k for k in metadata if k.startswith("general.sampling.") and k not in _SAMPLING_KEYS]
        if unsupported:
            warnings.warn(f"the model's advice on {', '.join(sorted(unsupported))} is not supported", stacklevel=2)
        try:
            check_params(SamplingParams(**values))  # type: ignore[arg-type]  # names and types agree by construction
        except UsageError as error:
            raise FileFormatError(f"the file's general.sampling keys make no sense: {error.message}") from error
        return cls(**values)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class RequestRules:
    """What turning parameters into requests needs to know of a model."""

    defaults: GenerationDefaults
    end_token_ids: frozenset[int]
    context_length: int
    vocab_size: int

    def resolve(self, params: SamplingParams, prompt_token_ids: Sequence[int], request_id: str) -> GenerationRequest:
        """A request with every gap filled.

        Raises ContextLengthError where the prompt leaves no room for an answer, UsageError for parameters that name
        tokens the model does not have.
        """
        self._check_tokens(params)
        max_tokens = params.max_tokens
        if max_tokens is None:
            max_tokens = self.context_length - len(prompt_token_ids)
            if max_tokens < 1:
                raise ContextLengthError(
                    f"the prompt has {len(prompt_token_ids)} tokens, but the context holds {self.context_length}",
                    hint="Shorten the prompt, or load the model with a larger context.",
                )
        defaults = self.defaults
        own_ends = frozenset() if params.ignore_eos else self.end_token_ids
        return GenerationRequest(
            request_id=request_id,
            prompt_token_ids=tuple(prompt_token_ids),
            max_tokens=max_tokens,
            min_tokens=params.min_tokens,
            end_token_ids=own_ends | frozenset(params.stop_token_ids or ()),
            temperature=_first(params.temperature, defaults.temperature),
            top_k=_first(params.top_k, defaults.top_k),
            top_p=_first(params.top_p, defaults.top_p),
            min_p=_first(params.min_p, defaults.min_p),
            repetition_penalty=_first(params.repetition_penalty, defaults.repetition_penalty),
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            logit_bias=tuple(sorted((params.logit_bias or {}).items())),
            seed=secrets.randbits(64) if params.seed is None else params.seed,
            num_samples=params.n,
            num_logprobs=params.logprobs,
            num_prompt_logprobs=params.prompt_logprobs,
            constraint=params.constraint,
        )

    def _check_tokens(self, params: SamplingParams) -> None:
        for name, token_ids in (("stop_token_ids", params.stop_token_ids), ("logit_bias", params.logit_bias)):
            for token_id in token_ids or ():
                if token_id >= self.vocab_size:
                    raise UsageError(
                        f"{name} has the token {token_id}, which the model does not have",
                        hint=f"Its tokens are 0 to {self.vocab_size - 1}.",
                    )
        _check_integer("logprobs", params.logprobs, 0, self.vocab_size)
        _check_integer("prompt_logprobs", params.prompt_logprobs, 0, self.vocab_size)


def check_params(params: SamplingParams) -> None:
    """Raise UsageError, naming the parameter, for values out of the ranges that SamplingParams lists."""
    _check_number("temperature", params.temperature, 0, LARGEST_FACTOR)
    _check_integer("top_k", params.top_k, 1)
    _check_number("top_p", params.top_p, 0, 1, open_below=True)
    _check_number("min_p", params.min_p, 0, 1, open_above=True)
    _check_number("repetition_penalty", params.repetition_penalty, SMALLEST_FACTOR, LARGEST_FACTOR)
    _check_number("presence_penalty", params.presence_penalty, -2, 2)
    _check_number("frequency_penalty", params.frequency_penalty, -2, 2)
    _check_integer("seed", params.seed, 0, 2**64 - 1)
    _check_integer("n", params.n, 1, MOST_SAMPLES)
    _check_integer("max_tokens", params.max_tokens, 1)
    _check_integer("min_tokens", params.min_tokens, 0, params.max_tokens)
    _check_integer("logprobs", params.logprobs, 0)
    _check_integer("prompt_logprobs", params.prompt_logprobs, 0)
    for name in ("include_stop_str_in_output", "ignore_eos", "skip_special_tokens"):
        if not isinstance(value := getattr(params, name), bool):
            raise UsageError(f"{name} {value!r} is neither true nor false", hint="Give True or False.")
    if params.constraint is not None and not isinstance(params.constraint, Constraint):
        raise UsageError(
            f"the constraint is a {type(params.constraint).__name__}",
            hint='Give a Constraint, for example Constraint(ConstraintKind.REGEX, "[0-9]+").',
        )
    for token_id, bias in (params.logit_bias or {}).items():
        _check_integer("logit_bias token", token_id, 0)
        _check_number(f"logit_bias of token {token_id}", bias, -100, 100)
    for token_id in params.stop_token_ids or ():
        _check_integer("stop_token_ids", token_id, 0)
    for text in stop_strings(params):
        if not isinstance(text, str) or not text:
            raise UsageError(
                f"stop {text!r} is no text, or an empty one",
                hint="Give texts of at least one character, or leave stop out.",
            )


def stop_strings(params: SamplingParams) -> tuple[str, ...]:
    """`stop`, which may be none, one string or several, as several."""
    return (params.stop,) if isinstance(params.stop, str) else tuple(params.stop or ())


def _first(value: _T | None, default: _T) -> _T:
    return default if value is None else value


def _check_integer(name: str, value: object, lowest: int, highest: int | None = None) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageError(f"{name} {value!r} is not a whole number", hint=f"Give a number such as {lowest}.")
    if value < lowest or (highest is not None and value > highest):
        wanted = f"at least {lowest}" if highest is None else f"between {lowest} and {highest}"
        raise UsageError(f"{name} is {value}", hint=f"It must be {wanted}.")


def _range(lowest: float, highest: float, open_below: bool, open_above: bool) -> str:
    above = f"more than {lowest}" if open_below else f"at least {lowest}"
    return f"{above} and {'less than' if open_above else 'at most'} {highest}"


def _check_number(
    name: str, value: object, lowest: float, highest: float, *, open_below: bool = False, open_above: bool = False
) -> None:
    if value is None:
        return
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UsageError(f"{name} {value!r} is not a number", hint=f"Give a number such as {min(highest, 1)}.")
    inside = lowest < value if open_below else lowest <= value
    inside = inside and (value < highest if open_above else value <= highest)
    if not inside:
        raise UsageError(f"{name} is {value}", hint=f"It must be {_range(lowest, highest, open_below, open_above)}.")
