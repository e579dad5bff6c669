"""The specification of sampling: order of the stages, truncation, the draw."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from step_feeding import logit_rows

from abaci.kernels.batch import BIAS, HISTORY, StepBatch
from abaci.kernels.reference_sampling import NO_TOKEN, SampledRow, philox, sample_row, truncate, uniform

LOGITS = np.array([0.0, 2.0, 1.0, -1.0, 2.0, -3.0], np.float32)

some_logits = arrays(np.float32, st.integers(1, 40), elements=st.floats(-20, 20, width=32))


def sample(
    logits: np.ndarray = LOGITS,
    history: list[tuple[int, int, int]] = (),
    bias: list[tuple[int, float]] = (),
    mask: list[int] | None = None,
    **fields: object,
) -> SampledRow:
    """One row: `history` of (token, in prompt, output count), `bias` of (token, bias), `mask` of allowed tokens."""
    rows = logit_rows(1, history_end=len(history), bias_end=len(bias), **fields)
    bits = np.zeros(32 * -(-logits.size // 32), np.uint8)
    if mask is not None:
        rows["mask_row"] = 0
        bits[mask] = 1
    batch = StepBatch(
        token_ids=np.zeros(1, np.int32),
        sequence_offsets=np.array([0, 1], np.int32),
        first_positions=np.zeros(1, np.int32),
        page_tables=(),
        logit_rows=rows,
        history=np.array(list(history), HISTORY),
        bias=np.array(list(bias), BIAS),
        masks=np.packbits(bits, bitorder="little").view(np.uint32)[np.newaxis],
    )
    return sample_row(logits, batch, 0)


def frequencies(logits: np.ndarray, num_draws: int = 2000, **fields: object) -> np.ndarray:
    """How often each token is drawn over many token indices; temperature 1 unless told."""
    fields = {"temperature": 1.0, "seed": 7} | fields
    drawn = [sample(logits, token_index=index, **fields).token_id for index in range(num_draws)]
    return np.bincount(drawn, minlength=logits.size) / num_draws


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(counter: tuple, key: tuple, expected: tuple) -> None:
    assert philox(counter, key) == expected


def test_uniform_is_uniform_and_depends_on_each_of_its_keys() -> None:
    numbers = np.array([uniform(2**63 + 5, token, sample_index) for token in range(200) for sample_index in range(10)])
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert len(np.unique(numbers)) == numbers.size
    assert abs(numbers.mean() - 0.5) < 0.03
    assert np.histogram(numbers, 10, (0, 1))[0].min() > 140
    assert uniform(5, 0, 0) != uniform(5 + 2**32, 0, 0)


def test_greedy_takes_the_lowest_of_equals() -> None:
    assert sample().token_id == 1


def test_target_is_looked_up_not_drawn() -> None:
    row = sample(target=3, num_top=2, bias=[(3, 50.0)], temperature=1.0)
    assert row.token_id == 3
    expected = LOGITS[3] - np.log(np.exp(LOGITS.astype(np.float64)).sum())
    assert row.logprob == pytest.approx(expected)
    assert row.top_ids.tolist() == [1, 4]


def test_logprobs_are_of_the_unmodified_logits() -> None:
    plain = sample(num_top=6)
    changed = sample(num_top=6, bias=[(0, 9.0)], history=[(1, 1, 3)], repetition_penalty=2.0, top_k=1, temperature=0.3)
    assert changed.token_id == 0
    np.testing.assert_array_equal(changed.top_logprobs, plain.top_logprobs)
    assert np.exp(plain.top_logprobs).sum() == pytest.approx(1)
    assert plain.top_ids.tolist() == [1, 4, 2, 0, 3, 5]


def test_no_logprobs_unless_asked_for() -> None:
    row = sample()
    assert row.logprob == 0
    assert row.top_ids.size == 0
    assert sample(num_top=0).logprob < 0


def test_bias_adds_and_bans() -> None:
    assert sample(bias=[(5, 5.5)]).token_id == 5
    assert sample(bias=[(1, -np.inf)]).token_id == 4


def test_bias_comes_before_repetition_penalty() -> None:
    # (0 + 5) / 2 = 2.5 wins over 2; penalising first would leave 0 + 5
    assert sample(history=[(0, 1, 0)], repetition_penalty=2.0, bias=[(0, 5.0)]).token_id == 0
    assert sample(history=[(0, 1, 0)], repetition_penalty=3.0, bias=[(0, 5.0)]).token_id == 1


def test_repetition_penalty_lowers_logits_of_either_sign() -> None:
    logits = np.array([3.0, 2.0, -1.0, -1.5], np.float32)
    assert sample(logits, history=[(0, 1, 0)], repetition_penalty=2.0).token_id == 1
    assert sample(logits, history=[(2, 0, 1)], repetition_penalty=2.0, mask=[2, 3]).token_id == 3


def test_presence_and_frequency_count_output_only() -> None:
    logits = np.array([3.0, 2.0], np.float32)
    assert sample(logits, history=[(0, 1, 0)], presence_penalty=2.0, frequency_penalty=2.0).token_id == 0
    assert sample(logits, history=[(0, 0, 1)], presence_penalty=2.0).token_id == 1
    assert sample(logits, history=[(0, 0, 1)], frequency_penalty=0.6).token_id == 0
    assert sample(logits, history=[(0, 0, 2)], frequency_penalty=0.6).token_id == 1


def test_mask_allows_only_its_tokens() -> None:
    assert sample(mask=[0, 3, 5]).token_id == 0
    assert set(np.flatnonzero(frequencies(LOGITS, 300, mask=[2, 3]))) == {2, 3}


def test_nothing_allowed_is_no_token() -> None:
    assert sample(mask=[]).token_id == NO_TOKEN
    row = sample(mask=[], num_top=1, temperature=1.0)
    assert (row.token_id, row.logprob) == (NO_TOKEN, 0)


@pytest.mark.parametrize("logit", [np.nan, np.inf, -np.inf])
def test_a_row_without_finite_maximum_is_no_token(logit: float) -> None:
    row = sample(np.full(4, logit, np.float32), num_top=2, target=1)
    assert (row.token_id, row.logprob, row.top_ids.size) == (NO_TOKEN, 0, 0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_follow_the_distribution(temperature: float) -> None:
    expected = np.exp(LOGITS / temperature) / np.exp(LOGITS / temperature).sum()
    np.testing.assert_allclose(frequencies(LOGITS, temperature=temperature), expected, atol=0.03)


def test_truncation_keeps_proportions() -> None:
    expected = np.exp([2.0, 2.0, 1.0]) / np.exp([2.0, 2.0, 1.0]).sum()
    np.testing.assert_allclose(frequencies(LOGITS, top_k=3)[[1, 4, 2]], expected, atol=0.03)


def test_samples_of_one_prompt_differ_and_repeat() -> None:
    first = [sample(temperature=1.0, seed=1, sample_index=index).token_id for index in range(40)]
    assert len(set(first)) > 2
    assert first == [sample(temperature=1.0, seed=1, sample_index=index).token_id for index in range(40)]


def test_top_k_keeps_the_lowest_ids_of_equals() -> None:
    candidates, _ = truncate(np.zeros(6, np.float32), 3, 1.0, 0.0)
    assert candidates.tolist() == [0, 1, 2]


def test_top_p_counts_after_top_k() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    assert truncate(logits, 0, 0.69, 0.0)[0].tolist() == [0, 1]
    assert truncate(logits, 0, 0.71, 0.0)[0].tolist() == [0, 1, 2]
    assert truncate(logits, 2, 0.56, 0.0)[0].tolist() == [0]  # 0.4 / 0.7 = 0.571


def test_min_p_is_relative_to_the_likeliest() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    assert truncate(logits, 0, 1.0, 0.49)[0].tolist() == [0, 1, 2]
    assert truncate(logits, 0, 1.0, 0.51)[0].tolist() == [0, 1]
    assert truncate(logits, 0, 1.0, 1.0)[0].tolist() == [0]


@given(logits=some_logits, top_k=st.integers(0, 50), top_p=st.floats(0.01, 1), min_p=st.floats(0, 1))
def test_truncation_keeps_a_run_of_the_likeliest(logits: np.ndarray, top_k: int, top_p: float, min_p: float) -> None:
    candidates, weights = truncate(logits, top_k, top_p, min_p)
    assert 1 <= candidates.size <= min(top_k or logits.size, logits.size)
    assert (weights > 0).all()
    if 0 < top_k < logits.size or top_p < 1 or min_p > 0:
        order = sorted(range(logits.size), key=lambda token: (-logits[token], token))
        assert candidates.tolist() == order[: candidates.size]
        assert (weights >= min_p * weights[0]).all()
    else:
        assert candidates.tolist() == list(range(logits.size))


@given(logits=some_logits, top_k=st.integers(0, 4), top_p=st.floats(0.1, 1), seed=st.integers(0, 2**64 - 1))
def test_a_drawn_token_is_a_candidate(logits: np.ndarray, top_k: int, top_p: float, seed: int) -> None:
    token_id = sample(logits, temperature=0.7, top_k=top_k, top_p=top_p, seed=seed).token_id
    assert token_id in truncate(logits / np.float32(0.7), top_k, float(np.float32(top_p)), 0.0)[0]
