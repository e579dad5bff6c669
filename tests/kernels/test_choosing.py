"""The choice of experts, for any floats that a file may hold: against the reference, on every target."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from abaci.kernels import _native, native
from abaci.kernels.reference_math import choose_experts
from abaci.models.spec import Linear, Router, Scoring

Floats = NDArray[np.float32]

TARGETS = native.targets()
NUM_EXAMPLES = 100 if os.environ.get("ABACI_TEST_REDUCED") == "1" else 300
LARGEST = float(np.finfo(np.float32).max)
HOSTILE = st.sampled_from([np.nan, np.inf, -np.inf, LARGEST, -LARGEST, -3e38, -3.3e38, 0.0, -0.0])
ORDINARY = st.sampled_from([-1.0, -0.5, 0.25, 0.5, 1.0])
"""Few, so that there are ties."""
VALUES = HOSTILE | ORDINARY | st.floats(width=32)


@st.composite
def routers(draw: st.DrawFn) -> Router:
    num_groups, group_size = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    top_groups = draw(st.integers(1, num_groups))
    num_experts = num_groups * group_size
    return Router(
        logits=Linear("logits", 32, num_experts),
        num_experts=num_experts,
        num_active=draw(st.integers(1, top_groups * group_size)),
        scoring=draw(st.sampled_from(Scoring)),
        normalise=False,
        num_groups=num_groups,
        top_groups=top_groups,
        group_best=draw(st.integers(1, 2)),
    )


def floats(draw: st.DrawFn, count: int) -> Floats:
    return np.array(draw(st.lists(VALUES, min_size=count, max_size=count)), np.float32)


@st.composite
def hostile_choices(draw: st.DrawFn) -> tuple[Router, Floats, Floats]:
    """A router, three rows of logits and a bias."""
    router = draw(routers())
    logits = floats(draw, 3 * router.num_experts).reshape(3, -1)
    return router, logits, floats(draw, router.num_experts)


def choose(target: str, router: Router, logits: Floats, bias: Floats) -> tuple[NDArray[np.int32], Floats]:
    return _native.Kernels(target).choose_experts(
        logits,
        native.thread_pool(2),
        router.num_active,
        router.scoring is Scoring.SIGMOID,
        bias,
        router.num_groups,
        router.top_groups,
        router.group_best,
    )


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=NUM_EXAMPLES, deadline=None)
@given(hostile_choices())
def test_any_scores_choose_experts_that_are_there_and_none_twice(
    target: str, choice: tuple[Router, Floats, Floats]
) -> None:
    router, logits, bias = choice
    experts, _ = choose(target, router, logits, bias)
    for chosen in experts.tolist():
        assert len(set(chosen)) == router.num_active
        assert min(chosen) >= 0
        assert max(chosen) < router.num_experts
        assert len({expert * router.num_groups // router.num_experts for expert in chosen}) <= router.top_groups


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=NUM_EXAMPLES, deadline=None)
@given(hostile_choices())
def test_any_bias_chooses_what_the_reference_does(target: str, choice: tuple[Router, Floats, Floats]) -> None:
    router, logits, bias = choice
    equal = np.zeros_like(logits)  # their scores are exact in both
    with np.errstate(over="ignore", invalid="ignore"):
        expected = choose_experts(equal, bias, router)
    found = choose(target, router, equal, bias)
    assert found[0].tolist() == expected[0].tolist()
    assert found[1].tobytes() == expected[1].tobytes()


def test_what_is_no_number_comes_last() -> None:
    router = Router(Linear("logits", 32, 4), num_experts=4, num_active=4, scoring=Scoring.SIGMOID, normalise=False)
    bias = np.array([np.nan, -1, np.inf, -np.inf], np.float32)
    experts, _ = choose(TARGETS[0], router, np.zeros((1, 4), np.float32), bias)
    assert experts.tolist() == [[2, 1, 0, 3]]


def test_sums_of_a_group_that_overflow_leave_its_experts_to_be_chosen() -> None:
    router = Router(
        Linear("logits", 32, 8), num_experts=8, num_active=8, scoring=Scoring.SIGMOID, normalise=False, num_groups=4,
        top_groups=4,
    )  # fmt: skip
    experts, _ = choose(TARGETS[0], router, np.zeros((1, 8), np.float32), np.full(8, -3.3e38, np.float32))
    assert experts.tolist() == [list(range(8))]
