"""A folder's `generation_config.json`: how its publisher advises to sample, as GGUF's keys, and what is not followed.

As `transformers` reads it: `do_sample` false means the likeliest token always, whatever the temperature. End tokens are
the tokenizer's matter.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from abaci.errors import FileFormatError
from abaci.formats.checkpoint import MetadataValue

_NAME: Final = "generation_config.json"
_TEMPERATURE_KEY: Final = "general.sampling.temp"

SAMPLING_KEYS: Final = MappingProxyType(
    {
        "temperature": _TEMPERATURE_KEY,
        "top_k": "general.sampling.top_k",
        "top_p": "general.sampling.top_p",
        "min_p": "general.sampling.min_p",
        "repetition_penalty": "general.sampling.penalty_repeat",
    }
)
"""What is followed, and what GGUF calls it."""

_RANDOMNESS: Final = frozenset(
    {"temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"}
)
"""Without effect where `do_sample` is false."""

_NOT_ON_TEXT: Final = frozenset(
    {
        "_from_model_config",
        "assistant_confidence_threshold",
        "bos_token_id",
        "cache_config",
        "cache_implementation",
        "compile_config",
        "decoder_start_token_id",
        "disable_compile",
        "do_sample",
        "eos_token_id",
        "is_assistant",
        "max_matching_ngram_size",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "output_attentions",
        "output_hidden_states",
        "output_logits",
        "output_scores",
        "pad_token_id",
        "prefill_chunk_size",
        "prompt_lookup_num_tokens",
        "return_dict_in_generate",
        "transformers_version",
        "trust_remote_code",
        "use_cache",
    }
)
"""How `transformers` does its work, and what is read elsewhere."""

_NEUTRAL: Final[Mapping[str, object]] = MappingProxyType(
    {
        "encoder_repetition_penalty": 1,
        "guidance_scale": 1,
        "length_penalty": 1,
        "max_length": 20,
        "num_beam_groups": 1,
        "num_beams": 1,
        "num_return_sequences": 1,
        "typical_p": 1,
    }
)
"""Values of no effect beside null, false, zero and what is empty. A `max_length` of 20 is what nobody has set."""


def sampling_metadata(folder: Path, config: Mapping[str, Any]) -> dict[str, MetadataValue]:
    """Raises FileFormatError for what is not a number, or not a truth value."""
    is_greedy = _is_greedy(folder, config)
    metadata: dict[str, MetadataValue] = {_TEMPERATURE_KEY: 0.0} if is_greedy else {}
    for name, key in SAMPLING_KEYS.items():
        value = config.get(name)
        if value is None or (is_greedy and name in _RANDOMNESS):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise FileFormatError(f"{folder / _NAME}: {name} = {value!r} is not a number")
        metadata[key] = int(value) if name == "top_k" else float(value)
    return metadata


def published_sampling(metadata: Mapping[str, MetadataValue]) -> dict[str, MetadataValue]:
    """The way back: advice under its published names, floats in as few digits as tell the float32."""
    advice = {name: metadata[key] for name, key in SAMPLING_KEYS.items() if key in metadata}
    advice = {name: float(f"{value:.7g}") if isinstance(value, float) else value for name, value in advice.items()}
    if advice.get("temperature") == 0:
        return {"do_sample": False, **{name: value for name, value in advice.items() if name not in _RANDOMNESS}}
    return {"do_sample": True, **advice} if advice else {}


def unfollowed_advice(folder: Path, config: Mapping[str, Any], context_length: object) -> list[str]:
    """A sentence that names the settings which would change answers and are not followed, if there are any."""
    is_greedy = _is_greedy(folder, config)
    names = sorted(
        name
        for name, value in config.items()
        if name not in SAMPLING_KEYS
        and name not in _NOT_ON_TEXT
        and not (is_greedy and name in _RANDOMNESS)
        and not _is_neutral(name, value)
        and not (name == "max_length" and value == context_length)
    )
    return [f"{_NAME} has settings that are not followed: {', '.join(names)}"] if names else []


def _is_greedy(folder: Path, config: Mapping[str, Any]) -> bool:
    samples = config.get("do_sample")
    if samples is not None and not isinstance(samples, bool):
        raise FileFormatError(f"{folder / _NAME}: do_sample = {str(samples)[:60]!r} is not true or false")
    return samples is False


def _is_neutral(name: str, value: object) -> bool:
    return not value or (name in _NEUTRAL and value == _NEUTRAL[name])
