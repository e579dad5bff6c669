"""Which models of the catalog to run on this machine: those that fit, by published quality, fast enough.

A score is never invented: models without a published one for the task come after all that have one. How much a
quantisation loses is published for hardly any model, so it orders nothing: each model comes in the quantisation that
its catalog entry prefers, or where that is too slow or too large, in the largest that is neither.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from abaci.hub.catalog import Catalog, CatalogModel, Task, Variant
from abaci.kernels.footprint import Footprint
from abaci.models.families import known_architectures
from abaci.runtime.fit import Memory, MemoryForecast, SpeedForecast, Verdict, forecast_memory, forecast_speed
from abaci.runtime.machine_rates import MachineRates
from abaci.runtime.quality import Standing, standings
from abaci.runtime.shape_footprint import shape_footprint
from abaci.tensor import WeightFormat

MeasureRates = Callable[[frozenset[WeightFormat]], MachineRates]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What somebody asks of a model."""

    task: Task
    context_length: int
    min_tokens_per_second: float
    memory: Memory


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A model that does what is asked."""

    name: str
    """To pull it by."""
    title: str
    quantisation: str
    licence: str
    memory: MemoryForecast
    speed: SpeedForecast
    standing: Standing | None
    """None: nobody published a score for the task."""


@dataclass(frozen=True, slots=True)
class Recommendations:
    """Best first, and how many models of the task are not among them and why."""

    models: tuple[Recommendation, ...]
    num_unsupported: int
    """Of an architecture that this version does not run."""
    num_unknown: int
    """Of an unpublished shape, or without files that can be run."""
    num_short: int
    """Whose context is shorter than asked for."""
    num_too_large: int
    num_too_slow: int


@dataclass(frozen=True, slots=True)
class _Candidate:
    model: CatalogModel
    variant: Variant
    footprint: Footprint
    memory: MemoryForecast


def recommend(catalog: Catalog, wishes: Wishes, measure: MeasureRates) -> Recommendations:
    """Rank the catalog's models. `measure` gives the rates of the storage formats that the candidates have."""
    supported = set(known_architectures())
    of_task = [model for model in catalog.models.values() if wishes.task in model.tasks]
    runnable = [model for model in of_task if model.architecture in supported]
    described = {model.name: list(_variants(model)) for model in runnable}
    known = [model for model in runnable if described[model.name]]
    long = [model for model in known if described[model.name][0][1].context_length >= wishes.context_length]
    fitting = {model.name: list(_fitting(model, described[model.name], wishes)) for model in long}
    formats = {
        product.weight_format
        for candidates in fitting.values()
        for candidate in candidates
        for product in candidate.footprint.products
    }
    benchmarks = [name for name, one in catalog.benchmarks.items() if wishes.task in one.tasks]
    by_name = standings(catalog.models.values(), benchmarks, thinking=wishes.task is Task.REASONING)
    found: list[Recommendation] = []
    if formats:
        rates = measure(frozenset(formats))
        for candidates in fitting.values():
            found.extend(_first_fast_enough(candidates, wishes, rates, by_name))
    found.sort(key=_order)
    num_fitting = sum(1 for candidates in fitting.values() if candidates)
    return Recommendations(
        models=tuple(found),
        num_unsupported=len(of_task) - len(runnable),
        num_unknown=len(runnable) - len(known),
        num_short=len(known) - len(long),
        num_too_large=len(long) - num_fitting,
        num_too_slow=num_fitting - len(found),
    )


def _variants(model: CatalogModel) -> Iterator[tuple[Variant, Footprint]]:
    """Those whose footprint is known: the preferred one first, then the larger before the smaller."""
    if model.shape is None or model.context is None:
        return
    described = []
    for variant in model.variants:
        counted = shape_footprint(model.shape, variant.quantisation, model.context.num_tokens)
        if counted is not None:
            described.append((variant, counted))
    preferred = model.variant()
    yield from sorted(described, key=lambda one: (one[0] is not preferred, -one[1].weight_bytes))


def _fitting(model: CatalogModel, variants: list[tuple[Variant, Footprint]], wishes: Wishes) -> Iterator[_Candidate]:
    for variant, counted in variants:
        memory = forecast_memory(counted, wishes.context_length, wishes.memory)
        if memory.verdict is Verdict.FITS:
            yield _Candidate(model, variant, counted, memory)


def _first_fast_enough(
    candidates: list[_Candidate], wishes: Wishes, rates: MachineRates, by_name: dict[str, Standing]
) -> Iterator[Recommendation]:
    for candidate in candidates:
        speed = forecast_speed(candidate.footprint, rates, wishes.context_length)
        if speed.decode_tokens_per_second < wishes.min_tokens_per_second:
            continue
        model, variant = candidate.model, candidate.variant
        preferred = variant is model.variant()
        yield Recommendation(
            name=model.name if preferred else f"{model.name}-{variant.quantisation.lower()}",
            title=model.title,
            quantisation=variant.quantisation,
            licence=model.licence.expression,
            memory=candidate.memory,
            speed=speed,
            standing=by_name.get(model.name),
        )
        return


def _order(one: Recommendation) -> tuple[bool, float, float]:
    """With a score before without; the stronger, then the faster first."""
    strength = 0.0 if one.standing is None else one.standing.strength
    return one.standing is None, -strength, -one.speed.decode_tokens_per_second
