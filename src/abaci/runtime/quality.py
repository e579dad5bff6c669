"""Which of two models is better, by published scores alone: strengths that explain who is ahead of whom.

Publishers report different benchmarks, so scores cannot be averaged: a model would gain from not reporting a hard one.
Two models are compared by the benchmarks that both have; over all pairs a strength per model is fitted (Bradley & Terry
1952, by the iteration of Hunter 2004, https://doi.org/10.1214/aos/1079120141). Models that share none of a task's
benchmarks are told apart by others they share, which count little. A model without a score for the task has none.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from abaci.hub.catalog import CatalogModel

Scores = Mapping[str, float]
"""By benchmark."""

_NUM_ITERATIONS: Final = 300
_PRIOR: Final = 0.2
"""Weight of a draw against a model of strength 1, which every model is given: strengths stay finite."""
_OTHER_TASKS: Final = 0.1
"""Weight of a comparison by benchmarks of other tasks, beside one by the task's own."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A model's place among those that published the same benchmarks."""

    strength: float
    """Ratios count: twice as strong is ahead in two of three comparisons."""
    num_ahead: int
    """Of those below, the models behind it in most of the shared benchmarks."""
    num_compared: int
    """Models that share a benchmark of the task with it."""
    scores: tuple[tuple[str, float], ...]
    """Its scores for the task, by benchmark."""


@dataclass(frozen=True, slots=True)
class _Comparison:
    """With another model: which share of `weight` is won."""

    weight: float
    won: float


def standings(
    models: Iterable[CatalogModel], benchmarks: Sequence[str], *, thinking: bool = False
) -> dict[str, Standing]:
    """By name, of every model that has a score in one of `benchmarks`, those of the task.

    Of a benchmark that a model was scored on both ways, the score with thought counts, or the one without.
    """
    scores = {model.name: _scores(model, thinking) for model in models}
    own = frozenset(benchmarks)
    by_task = {
        name: {other: _share(mine, theirs, own) for other, theirs in scores.items() if other != name}
        for name, mine in scores.items()
    }
    strengths = _strengths(_comparisons(scores, own))
    found = {}
    for name, values in scores.items():
        of_task = tuple((benchmark, values[benchmark]) for benchmark in benchmarks if benchmark in values)
        if of_task:
            shares = [share for share in by_task[name].values() if share is not None]
            num_ahead = sum(share > 0.5 for share in shares)
            found[name] = Standing(strengths[name], num_ahead, len(shares), of_task)
    return found


def _scores(model: CatalogModel, thinking: bool) -> Scores:
    """The wanted ones come last, and stay."""
    ordered = sorted(model.scores, key=lambda score: score.is_thinking == thinking)
    return {score.benchmark: score.value for score in ordered}


def _share(mine: Scores, theirs: Scores, benchmarks: Collection[str]) -> float | None:
    """Of the benchmarks that both have, the share in which `mine` is ahead, a tie counting half; None without any."""
    shared = [one for one in benchmarks if one in mine and one in theirs]
    if not shared:
        return None
    return sum((mine[one] > theirs[one]) + 0.5 * (mine[one] == theirs[one]) for one in shared) / len(shared)


def _comparisons(scores: Mapping[str, Scores], own: Collection[str]) -> dict[str, dict[str, _Comparison]]:
    others = {benchmark for values in scores.values() for benchmark in values} - set(own)
    found: dict[str, dict[str, _Comparison]] = {name: {} for name in scores}
    for name, mine in scores.items():
        for other, theirs in scores.items():
            if other == name:
                continue
            weight = won = 0.0
            for benchmarks, counts in ((own, 1.0), (others, _OTHER_TASKS)):
                share = _share(mine, theirs, benchmarks)
                if share is not None:
                    weight += counts
                    won += counts * share
            if weight:
                found[name][other] = _Comparison(weight, won)
    return found


def _strengths(comparisons: Mapping[str, Mapping[str, _Comparison]]) -> dict[str, float]:
    strengths = dict.fromkeys(comparisons, 1.0)
    won = {name: sum(one.won for one in against.values()) + _PRIOR / 2 for name, against in comparisons.items()}
    for _ in range(_NUM_ITERATIONS):
        strengths = {
            name: won[name]
            / (
                sum(one.weight / (strengths[name] + strengths[other]) for other, one in against.items())
                + _PRIOR / (strengths[name] + 1)
            )
            for name, against in comparisons.items()
        }
    return strengths
