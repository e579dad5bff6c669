"""`abaci quantize` without its command line: measure the source, write the file, measure it, keep it or not.

The source is measured first, so that what cannot be measured is known before any work is done.
"""

import math
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Final, Protocol

from abaci.engine.threads import plan_threads
from abaci.errors import AbaciError, ResourceError, UnsupportedModelError, UsageError
from abaci.formats.checkpoint import Checkpoint, MetadataValue
from abaci.formats.destination import check_new_file, check_room
from abaci.formats.gguf import GgufCheckpoint
from abaci.kernels.native import thread_pool
from abaci.models.mixtures import Mixture
from abaci.quantize.calibrating import calibrate
from abaci.quantize.importance import Importance, write_importance
from abaci.quantize.measuring import ReferencePredictions
from abaci.quantize.quality import MeasuredText, Quality
from abaci.quantize.quantising import Plan, plan_quantisation, write_quantised

_BUILT_IN_TEXT: Final = "measuring_text.md"
_LEAST_TOKENS: Final = 16
_MOST_TOKENS: Final = 4096
_WITHOUT_MEASURING: Final = "With --no-measure the file is made without its loss being known."


@dataclass(frozen=True, slots=True)
class Text:
    """What to measure on."""

    name: str
    content: str

    @classmethod
    def built_in(cls) -> "Text":
        """Mixed text that comes with the package: prose, code, tables, a few languages."""
        return cls("built in", resources.files(__package__).joinpath(_BUILT_IN_TEXT).read_text("utf-8"))


@dataclass(frozen=True, slots=True)
class Order:
    """What to make."""

    mixture: Mixture
    importance: Importance | None = None
    calibration: Text | None = None
    """What to measure importance on, where it is not given."""
    importance_path: Path | None = None
    """Where to keep what was measured, as soon as it is, whatever becomes of the file."""
    text: Text | None = None
    """None: the loss is not measured."""
    max_kl: float | None = None
    """Mean divergence in nats per token above which no file is left."""
    is_pure: bool = False
    allow_requantize: bool = False
    extra_metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    """What the file says beside what its source says."""
    num_threads: int | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """The file that was made."""

    plan: Plan
    quality: Quality | None
    importance: Importance | None


class Listener(Protocol):
    """Is told how the work goes on."""

    def advanced(self, stage: str, done: int, total: int) -> None:
        """So much of a stage is done; a stage ends when it is all done or the next one begins."""

    def noticed(self, message: str) -> None:
        """Something to know that is no error."""


def check_places(destination: Path, importance_path: Path | None, *, replace: bool) -> None:
    """Raises UsageError for files that cannot be written there, or are there and not to be replaced."""
    check_new_file(destination, replace=replace)
    if importance_path is not None:
        check_new_file(importance_path, replace=replace)
        if importance_path.resolve() == destination.resolve():
            raise UsageError(f"{importance_path} is to be both model and importance", hint="Give each its own name.")


def make_quantised(checkpoint: Checkpoint, destination: Path, order: Order, listener: Listener) -> Made:
    """Quantise an open checkpoint into a GGUF file; the file appears whole, measured and good enough, or not at all.

    Raises UsageError for places that cannot be written, a source of few bits or a text too short to measure on,
    FileFormatError for values that cannot be kept, ResourceError where disk or memory is short, AbaciError for a loss
    above `order.max_kl`.
    """
    if order.max_kl is not None and order.text is None:
        raise UsageError("a largest divergence is given, but nothing is to be measured", hint="Leave out --no-measure.")
    if order.importance is not None and order.calibration is not None:
        raise UsageError("importance is given and is to be measured as well", hint="Give --imatrix or --calibrate.")
    check_places(destination, order.importance_path, replace=True)
    for place in (destination, order.importance_path):
        if place is not None and place.resolve() in {path.resolve() for path in checkpoint.paths}:
            raise UsageError(f"{place} is what is read", hint="Give another name.")
    planned = partial(
        plan_quantisation,
        checkpoint,
        order.mixture,
        is_pure=order.is_pure,
        allow_requantize=order.allow_requantize,
    )
    check_room(destination, planned().num_bytes)
    pool = thread_pool(plan_threads(order.num_threads).num_threads)
    importance = order.importance
    if order.calibration is not None:
        importance = _calibrated(checkpoint, order.calibration, pool, listener)
        if order.importance_path is not None:
            write_importance(order.importance_path, importance)
    plan = planned(importance=importance)
    _tell_of_plan(plan, order, listener)
    measured: list[Quality] = []
    metadata = dict(order.extra_metadata)
    with _predictions(checkpoint, destination, order, pool, listener) as predictions:
        if predictions is not None and order.text is not None:
            text = MeasuredText(order.text.name, len(predictions.token_ids), _most_common_format(checkpoint))
            metadata |= {**Quality.empty_metadata(), **text.as_metadata()}

        def examine(path: Path) -> Mapping[str, float]:
            if predictions is None:
                return {}
            with GgufCheckpoint.open(path) as made:
                quality = predictions.compare(
                    made, pool, lambda done, total: listener.advanced("measuring", done, total)
                )
            _refuse_loss(quality, order)
            measured.append(quality)
            return quality.as_metadata()

        write_quantised(
            checkpoint,
            plan,
            destination,
            importance=importance,
            extra_metadata=metadata,
            examine=examine,
            pool=pool,
            progress=lambda done, total: listener.advanced("quantising", done, total),
        )
    return Made(plan, measured[0] if measured else None, importance)


def _calibrated(checkpoint: Checkpoint, text: Text, pool: Any, listener: Listener) -> Importance:
    token_ids = checkpoint.tokenizer().encode(text.content)
    return calibrate(
        checkpoint, token_ids, text.name, pool, lambda done, total: listener.advanced("calibrating", done, total)
    )


def _predictions(
    checkpoint: Checkpoint, destination: Path, order: Order, pool: Any, listener: Listener
) -> "ReferencePredictions | nullcontext[None]":
    if order.text is None:
        return nullcontext(None)
    token_ids = checkpoint.tokenizer().encode(order.text.content)
    context_length = checkpoint.metadata.get(f"{checkpoint.metadata.get('general.architecture')}.context_length")
    most = min(_MOST_TOKENS, context_length) if isinstance(context_length, int) else _MOST_TOKENS
    if len(token_ids) > most:
        listener.noticed(f"measured on the first {most} of the text's {len(token_ids)} tokens")
        token_ids = token_ids[:most]
    if len(token_ids) < _LEAST_TOKENS:
        raise UsageError(f"{len(token_ids)} tokens are too few to measure on", hint=f"Give {_LEAST_TOKENS} or more.")
    try:
        return ReferencePredictions.of(
            checkpoint,
            token_ids,
            destination.parent,
            pool,
            lambda done, total: listener.advanced("running the source", done, total),
        )
    except (ResourceError, UnsupportedModelError) as error:
        raise type(error)(f"the source cannot be run: {error.message}", hint=_WITHOUT_MEASURING) from error


def _refuse_loss(quality: Quality, order: Order) -> None:
    if order.max_kl is not None and not quality.mean_kl <= order.max_kl:
        raise AbaciError(
            f"{order.mixture.name} loses {quality.mean_kl:.5f} nats per token, more than the {order.max_kl:g} allowed; "
            "no file was left",
            hint="Choose a type of more bits, or give --calibrate a text like those the model will see.",
        )


def _tell_of_plan(plan: Plan, order: Order, listener: Listener) -> None:
    if plan.without_importance:
        names = ", ".join(plan.without_importance[:3])
        listener.noticed(f"no importance is known of {len(plan.without_importance)} matrices, such as {names}")
    if order.allow_requantize:
        listener.noticed("what the source lost when it was quantised is not in the loss that is measured now")


def _most_common_format(checkpoint: Checkpoint) -> str:
    num_values: Counter[str] = Counter()
    for tensor in checkpoint.tensors.values():
        num_values[tensor.format.label] += math.prod(tensor.shape)
    return num_values.most_common(1)[0][0]
