"""Recommendations on a small catalog, with fixed rates: who comes first, and what is said of the others."""

from dataclasses import replace

import pytest

from abaci import hub
from abaci.hub.catalog import Benchmark, Catalog, Score, Task
from abaci.kernels.ceilings import Ceilings
from abaci.kernels.rates import FormatRates, StepRates
from abaci.runtime.fit import Memory
from abaci.runtime.machine_rates import MachineRates
from abaci.runtime.quality import standings
from abaci.runtime.recommending import Wishes, recommend

GIB = 1 << 30
CODE, CHAT = (Task.CODE,), (Task.CHAT,)
BENCHMARKS = {
    name: Benchmark(name, tasks, 100, name) for name, tasks in {"HumanEval": CODE, "MBPP": CODE, "IFEval": CHAT}.items()
}


@pytest.fixture(scope="module")
def packaged():
    return hub.load_catalog().models["qwen2.5:7b"]


def model(packaged, name, scores=None, layers=28, **changes):
    values = tuple(
        Score(benchmark, value, False, "https://example.org/paper") for benchmark, value in (scores or {}).items()
    )
    shape = replace(packaged.shape, num_layers=layers)
    return replace(packaged, name=name, aliases=(), tasks=CODE, scores=values, shape=shape, **changes)


def catalog_of(*models):
    by_name = {one.name: one for one in models}
    return Catalog(1, models[0].name, by_name, BENCHMARKS, {name: name for name in by_name})


def rates(formats):
    every = dict.fromkeys(formats, FormatRates(20e9, 500e9, 20e9))
    return MachineRates(0, 0, Ceilings(25e9, 1e12), 2e-5, StepRates(5e-6, 1e-9, 0.9, 5e10, 1e11), every)


def wishes(**changes):
    return replace(Wishes(Task.CODE, 8192, 1.0, Memory(16 * GIB, 24 * GIB)), **changes)


def test_the_published_better_comes_first_and_the_unscored_last(packaged):
    catalog = catalog_of(
        model(packaged, "unscored:7b"),
        model(packaged, "weak:7b", {"HumanEval": 30}),
        model(packaged, "strong:7b", {"HumanEval": 80}),
    )
    ranked = recommend(catalog, wishes(), rates).models
    assert [one.name for one in ranked] == ["strong:7b", "weak:7b", "unscored:7b"]
    assert ranked[0].standing.num_ahead == 1
    assert ranked[2].standing is None


def test_scores_of_other_tasks_are_none_for_this_one(packaged):
    (only,) = recommend(catalog_of(model(packaged, "chatty:7b", {"IFEval": 90})), wishes(), rates).models
    assert only.standing is None


def test_among_equals_the_faster_comes_first(packaged):
    catalog = catalog_of(model(packaged, "deep:7b"), model(packaged, "shallow:7b", layers=14))
    assert [one.name for one in recommend(catalog, wishes(), rates).models] == ["shallow:7b", "deep:7b"]


def test_what_does_not_fit_is_counted_and_not_shown(packaged):
    small = model(packaged, "small:1b", layers=4)
    catalog = catalog_of(
        small,
        replace(small, name="foreign:1b", architecture="abacus"),
        replace(small, name="shapeless:1b", shape=None),
        replace(small, name="forgetful:1b", context=replace(small.context, num_tokens=2048)),
        model(packaged, "huge:150b", layers=600),
        replace(small, name="chatty:1b", tasks=CHAT),
    )
    ranked = recommend(catalog, wishes(), rates)
    assert [one.name for one in ranked.models] == ["small:1b"]
    assert (ranked.num_unsupported, ranked.num_unknown, ranked.num_short, ranked.num_too_large) == (1, 1, 1, 1)


def test_too_slow_a_model_comes_in_a_faster_quantisation_or_not_at_all(packaged):
    catalog = catalog_of(model(packaged, "one:7b"))
    (preferred,) = recommend(catalog, wishes(), rates).models
    assert (preferred.name, preferred.quantisation) == ("one:7b", packaged.variant().quantisation)
    speed = preferred.speed.decode_tokens_per_second
    faster = recommend(catalog, wishes(min_tokens_per_second=speed * 1.02), rates).models
    assert all(one.quantisation != preferred.quantisation for one in faster)
    assert all(one.name == f"one:7b-{one.quantisation.lower()}" for one in faster)
    none = recommend(catalog, wishes(min_tokens_per_second=100 * speed), rates)
    assert (none.models, none.num_too_slow) == ((), 1)


def test_memory_is_a_wish_too(packaged):
    catalog = catalog_of(model(packaged, "one:7b"))
    assert recommend(catalog, wishes(memory=Memory(GIB, GIB)), rates).num_too_large == 1


def test_nothing_is_measured_where_nothing_fits(packaged):
    def fail(formats):
        raise AssertionError

    assert recommend(catalog_of(model(packaged, "one:7b")), wishes(memory=Memory(GIB, GIB)), fail).models == ()


def test_models_are_compared_by_shared_benchmarks_only(packaged):
    """The one with the harder benchmark has the lower number and is behind nobody it shares it with."""
    models = [
        model(packaged, "a", {"HumanEval": 90}),
        model(packaged, "b", {"HumanEval": 70, "MBPP": 40}),
        model(packaged, "c", {"MBPP": 60}),
    ]
    found = standings(models, ["HumanEval", "MBPP"])
    assert (found["c"].num_ahead, found["c"].num_compared) == (1, 1)
    assert (found["b"].num_ahead, found["b"].num_compared) == (0, 2)
    assert found["a"].strength == pytest.approx(found["c"].strength)
    assert found["b"].strength < found["a"].strength


def test_a_chain_of_comparisons_orders_models_that_share_nothing(packaged):
    models = [
        model(packaged, "top", {"HumanEval": 90}),
        model(packaged, "middle", {"HumanEval": 50, "MBPP": 50}),
        model(packaged, "bottom", {"MBPP": 10}),
    ]
    found = standings(models, ["HumanEval", "MBPP"])
    assert found["top"].strength > found["middle"].strength > found["bottom"].strength


def test_other_tasks_connect_what_the_task_does_not(packaged):
    models = [
        model(packaged, "able", {"HumanEval": 90, "IFEval": 80}),
        model(packaged, "unable", {"MBPP": 90, "IFEval": 20}),
    ]
    found = standings(models, ["HumanEval", "MBPP"])
    assert found["able"].num_compared == 0
    assert found["able"].strength > found["unable"].strength


def test_ties_are_even(packaged):
    models = [model(packaged, name, {"HumanEval": 50}) for name in "ab"]
    found = standings(models, ["HumanEval"])
    assert found["a"].strength == pytest.approx(found["b"].strength)
    assert found["a"].num_ahead == 0


def test_thought_counts_where_it_is_wanted(packaged):
    both = replace(
        packaged,
        name="both",
        scores=(Score("HumanEval", 90, True, "https://a.org/"), Score("HumanEval", 40, False, "https://a.org/")),
    )
    models = [both, model(packaged, "plain", {"HumanEval": 50})]
    assert standings(models, ["HumanEval"])["both"].scores == (("HumanEval", 40),)
    assert standings(models, ["HumanEval"], thinking=True)["both"].scores == (("HumanEval", 90),)
