"""Adapters joined to a model's description: a low-rank update for any matrix of its layers.

Must not know how adapter files are read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from abaci.errors import UnsupportedModelError, UsageError
from abaci.models.spec import Linear, LowRank, ModelSpec

_OTHER_MODEL = "The adapter was made for another model: use it with the one that its publisher names."


@dataclass(frozen=True, slots=True)
class Update:
    """What an adapter adds to the products with one tensor: `factor` times B (A x).

    down  name of A, of shape (rank, in_features).
    up    name of B, of shape (out_features, rank).
    """

    target: str
    """The model's tensor."""
    down: str
    up: str
    rank: int
    in_features: int
    out_features: int
    factor: float


def adapted(spec: ModelSpec, updates: Sequence[Update], scale: float = 1.0) -> ModelSpec:
    """The spec with one adapter more, all of it times `scale`.

    Raises UsageError for an update of a tensor that the model has not, or has in another shape; UnsupportedModelError
    for one of a tensor that is no matrix of a layer (embedding, output, experts, norms).
    """
    by_target = {update.target: update for update in updates}
    layers = _with_updates(spec.layers, by_target, scale)
    result = replace(spec, layers=layers)
    shapes = dict(spec.tensors())
    used = {low_rank.down.weight for low_rank in result.low_ranks()}
    for target, update in by_target.items():
        if target not in shapes:
            raise UsageError(f"it changes the tensor {target}, which the model does not have", hint=_OTHER_MODEL)
        if update.down not in used:
            raise UnsupportedModelError(
                f"it changes the tensor {target}; only matrices of layers that every token meets can be adapted",
                hint="Use an adapter that leaves embedding, output, experts and norms alone, or a merged model.",
            )
        if shapes[target] != (update.out_features, update.in_features):
            raise UsageError(
                f"it changes {target} as a matrix of shape {(update.out_features, update.in_features)}; "
                f"the model's has {shapes[target]}",
                hint=_OTHER_MODEL,
            )
    return result


def _with_updates(part: Any, updates: Mapping[str, Update], scale: float) -> Any:
    """A part of a spec with the updates of its matrices; the part itself where there are none."""
    if isinstance(part, tuple):
        return tuple(_with_updates(item, updates, scale) for item in part)
    if isinstance(part, Linear):
        update = updates.get(part.weight)
        return part if update is None else replace(part, adapters=(*part.adapters, _low_rank(part, update, scale)))
    if not is_dataclass(part) or isinstance(part, type):
        return part
    before = {field.name: getattr(part, field.name) for field in fields(part)}
    after = {name: _with_updates(value, updates, scale) for name, value in before.items()}
    changed = {name: value for name, value in after.items() if value is not before[name]}
    return replace(part, **changed) if changed else part


def _low_rank(linear: Linear, update: Update, scale: float) -> LowRank:
    """Of a matrix that is some rows of the tensor: the same rows of B."""
    down = Linear(update.down, linear.in_features, update.rank)
    up = Linear(update.up, update.rank, linear.out_features, rows=linear.rows)
    return LowRank(down, up, update.factor * scale)
