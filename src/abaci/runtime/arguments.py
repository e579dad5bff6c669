"""What programs give to `LLM`, read strictly: arrays become lists, numpy's numbers Python's, the rest UsageErrors.

Knows the kinds of values only; what is in range is known where it is used.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeGuard

from abaci.chat.messages import Message
from abaci.chat.requests import check_params
from abaci.engine.loader import LoadOptions
from abaci.errors import UsageError
from abaci.formats.adapter import LoraChoice
from abaci.generation import SamplingParams
from abaci.tensor import CacheType

_MAX_STEP_TOKENS = 65536
_PLAIN = SamplingParams()


def load_options(
    *,
    context: int | None,
    threads: int | None,
    max_sequences: int,
    max_step_tokens: int,
    kv_type: CacheType | str,
    quantize: str | None,
    lora: Sequence[str | Path | tuple[str | Path, float]],
) -> LoadOptions:
    """How to load, from what the constructor is given. Raises UsageError."""
    if kv_type not in list(CacheType):
        raise UsageError(f"kv_type {kv_type!r} is not possible", hint=f"Choose one of: {', '.join(CacheType)}.")
    if quantize is not None and not isinstance(quantize, str):
        raise UsageError(f"quantize {quantize!r} is no text", hint='Give the name of a mixture, such as "q4_k_m".')
    if not is_list(lora):
        raise UsageError("lora is no list", hint='Give a list of adapters, for example lora=["adapter.gguf"].')
    return LoadOptions(
        None if context is None else whole_number("context", context, 1),
        None if threads is None else whole_number("threads", threads, 1),
        whole_number("max_sequences", max_sequences, 1),
        whole_number("max_step_tokens", max_step_tokens, 1, _MAX_STEP_TOKENS),
        quantize=quantize,
        kv_type=CacheType(kv_type),
        lora=tuple(map(_lora_choice, lora)),
    )


def _lora_choice(given: object) -> LoraChoice:
    path, scale = given if isinstance(given, tuple) and len(given) == 2 else (given, 1.0)
    if not isinstance(path, str | os.PathLike) or not isinstance(scale, Real):
        raise UsageError(
            f"the adapter {given!r} is not possible", hint="Give a path, or a pair of a path and a number (path, 0.5)."
        )
    return LoraChoice(Path(path), float(scale)).checked()


def model_name(model: object) -> str:
    """A name or path as text. Raises UsageError."""
    if not isinstance(model, str | os.PathLike):
        raise UsageError(f"the model {model!r} is neither a name nor a path", hint="See the catalog: abaci search")
    return str(model)


def check_template(source: object) -> None:
    """Raise UsageError for a chat template that is no text."""
    if source is not None and not isinstance(source, str):
        raise UsageError("chat_template is no text", hint="Give the template itself: Path(...).read_text().")


def params_of_each(params: object, count: int) -> Sequence[SamplingParams]:
    """Checked parameters for each of `count` prompts, from one for all or one for each. Raises UsageError."""
    if not is_list(params):
        return [plain_params(params)] * count
    if len(params) != count:
        raise UsageError(f"{len(params)} sampling parameters for {count} prompts", hint="Give one, or one for each.")
    plain = {id(one): plain_params(one) for one in params}
    return [plain[id(one)] for one in params]


def plain_params(params: object) -> SamplingParams:
    """The parameters as plain values, where None stands for the default. Raises UsageError, also for what is out of
    range."""
    if params is None:
        return _PLAIN
    if not isinstance(params, SamplingParams):
        raise UsageError(
            f"the parameters are a {type(params).__name__}", hint="Give SamplingParams(temperature=0), for example."
        )
    values = {field.name: getattr(params, field.name) for field in fields(params)}
    values = {name: _plain(value) for name, value in values.items() if value is not None}
    if "logit_bias" in values:
        values["logit_bias"] = _biases(values["logit_bias"])
    for name, wanted in (("stop", "texts"), ("stop_token_ids", "token ids")):
        if name in values:
            values[name] = _several(name, values[name], wanted)
    made = SamplingParams(**values)
    check_params(made)
    return made


def _biases(value: object) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"logit_bias is a {type(value).__name__}", hint="Give biases by token id: {65: -100}.")
    return {_plain(token_id): _plain(bias) for token_id, bias in value.items()}


def _several(name: str, value: object, wanted: str) -> Any:
    if name == "stop" and isinstance(value, str):
        return value
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping):
        raise UsageError(f"{name} is a {type(value).__name__}", hint=f"Give a list of {wanted}.")
    return tuple(map(_plain, value))


def _plain(value: Any) -> Any:
    """A number of numpy's as Python has it."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def whole_number(name: str, value: object, lowest: int, highest: int | None = None) -> int:
    """An argument that counts something. Raises UsageError."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise UsageError(f"{name} {value!r} is not a whole number", hint=f"Give a number such as {max(1, lowest)}.")
    number = int(value)
    if number < lowest or (highest is not None and number > highest):
        wanted = f"at least {lowest}" if highest is None else f"between {lowest} and {highest}"
        raise UsageError(f"{name} is {number}", hint=f"It must be {wanted}.")
    return number


def listed(value: object, wanted: str) -> Sequence[Any]:
    """Several of something, from a list, a tuple or an array. Raises UsageError, which says what is `wanted`."""
    value = unpacked(value)
    if not is_list(value):
        raise UsageError(f"a {type(value).__name__} was given where {wanted}", hint="Give a list.")
    return value


def unpacked(value: Any) -> Any:
    """An array of any library as lists; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def is_prompt(value: object) -> bool:
    """Whether this is one prompt and not a list of them. No items are no prompts."""
    return isinstance(value, str) or (are_token_ids(value) and len(value) > 0)


def are_token_ids(value: object) -> TypeGuard[Sequence[int]]:
    """Whether all items are whole numbers."""
    return is_list(value) and all(isinstance(item, Integral) and not isinstance(item, bool) for item in value)


def is_list(value: object) -> TypeGuard[Sequence[object]]:
    """Whether the value holds several, and not letters or bytes."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def is_one(conversations: object) -> bool:
    """Whether this is one conversation and not a list of them; text, which is none, is refused once, not by letter."""
    return isinstance(conversations, str) or is_conversation(conversations)


def is_conversation(value: object) -> bool:
    """Whether all items could be messages."""
    return is_list(value) and len(value) > 0 and all(isinstance(item, Mapping | Message) for item in value)
