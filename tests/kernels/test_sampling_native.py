"""The compiled sampler against its specification in numpy, and its targets against each other, byte for byte.

Logits are chosen freely by a program of two operations: token t embeds as the t-th unit vector, and the head's matrix
holds row t of the logits as its column t.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from packing import packed_matrix
from step_feeding import logit_rows

from abaci.kernels import _native, native
from abaci.kernels.batch import BIAS, HISTORY, SAMPLE, StepBatch, StepOutput
from abaci.kernels.reference_sampling import NO_TOKEN, adjust, sample_row, truncate, uniform
from abaci.tensor import WeightFormat

Floats = NDArray[np.float32]

TARGETS = native.targets()
IS_REDUCED = os.environ.get("ABACI_TEST_REDUCED") == "1"
"""Set where the same tests run slowly, under sanitizers."""
NUM_EXAMPLES = 15 if IS_REDUCED else 120
VOCAB_SIZES = (1, 31, 65, 1025, 3000)
NEAR = 1e-5
"""Where weights in float32 and in float64 may disagree about a threshold, relative to it."""


@dataclass(frozen=True)
class Asked:
    """One logit row, with its own history, biases (token id to value) and mask (allowed token ids, None for all)."""

    fields: Mapping[str, float]
    history: Mapping[int, int] = field(default_factory=dict)
    bias: Mapping[int, float] = field(default_factory=dict)
    allowed: frozenset[int] | None = None


def step_batch(asked: Sequence[Asked], vocab_size: int, num_tokens: int) -> StepBatch:
    """Row i of the batch asks for logits i modulo `num_tokens`."""
    rows = logit_rows(len(asked))
    history, bias, masks = [], [], []
    for index, one in enumerate(asked):
        row = rows[index]
        row["row"] = index % num_tokens
        for name, value in one.fields.items():
            row[name] = value
        row["history_begin"], row["bias_begin"] = len(history), len(bias)
        history += [(token_id, count == 0, count) for token_id, count in one.history.items()]
        bias += one.bias.items()
        row["history_end"], row["bias_end"] = len(history), len(bias)
        if one.allowed is not None:
            row["mask_row"] = len(masks)
            masks.append(np.isin(np.arange(-(-vocab_size // 32) * 32), list(one.allowed)))
    words = [np.packbits(mask, bitorder="little").view(np.uint32) for mask in masks]
    return StepBatch(
        token_ids=np.arange(num_tokens, dtype=np.int32),
        sequence_offsets=np.array([0, num_tokens], np.int32),
        first_positions=np.zeros(1, np.int32),
        page_tables=(np.zeros((1, -(-num_tokens // 32)), np.int32),),
        logit_rows=rows,
        history=np.array(history, HISTORY),
        bias=np.array(bias, BIAS),
        masks=np.array(words, np.uint32).reshape(len(words), -(-vocab_size // 32)),
    )


def run(
    target: str, logits: Floats, batch: StepBatch, num_threads: int = 2, max_tokens: int | None = None
) -> StepOutput:
    """Sample from rows of logits, (tokens, vocab); there must be at least as many tokens in the vocabulary as rows."""
    num_tokens, vocab_size = logits.shape
    pool = native.thread_pool(num_threads)
    max_tokens = max_tokens or max(num_tokens, len(batch.logit_rows))
    program = _native.StepProgram(pool, target, max_tokens, vocab_size, [0])
    slot = program.add_slot(num_tokens)
    program.embed(_matrix(np.eye(vocab_size, num_tokens, dtype=np.float32)), 1.0, slot)
    program.head(slot, _matrix(np.ascontiguousarray(logits.T)), None)
    program.allocate_cache([1])
    rows = len(batch.logit_rows)
    width = max(0, int(batch.logit_rows["num_top"].max()))
    output = StepOutput(
        token_ids=np.empty(rows, np.int32),
        logprobs=np.empty(rows, np.float32),
        top_ids=np.full((rows, width), -1, np.int32),
        top_logprobs=np.full((rows, width), -np.inf, np.float32),
    )
    program.step(
        batch.token_ids,
        batch.sequence_offsets,
        batch.first_positions,
        batch.page_tables,
        batch.logit_rows,
        batch.history,
        batch.bias,
        batch.masks,
        output.token_ids,
        output.logprobs,
        output.top_ids,
        output.top_logprobs,
        batch.hidden_rows,
        output.hidden,
        batch.states,
    )
    return output


def _matrix(values: Floats) -> _native.Matrix:
    matrix = packed_matrix(WeightFormat.F32, *values.shape, values)
    assert matrix is not None
    return matrix


def sampled_bytes(output: StepOutput) -> bytes:
    arrays = (output.token_ids, output.logprobs, output.top_ids, output.top_logprobs)
    return b"".join(array.tobytes() for array in arrays)


def acceptable_tokens(logits: Floats, batch: StepBatch, index: int) -> set[int]:
    """What the specification draws, or would draw if its thresholds lay a hair to either side."""
    row = batch.logit_rows[index]
    exact = sample_row(logits, batch, index).token_id
    if row["target"] != SAMPLE or row["temperature"] == 0 or exact == NO_TOKEN:
        return {exact}
    adjusted = adjust(logits, batch, index) / row["temperature"]
    drawn = uniform(int(row["seed"]), int(row["token_index"]), int(row["sample_index"]))
    tokens = {exact}
    for hair in (-NEAR, NEAR):
        top_p = min(1.0, float(row["top_p"]) * (1 + hair)) if row["top_p"] < 1 else 1.0
        for min_p in (row["min_p"] * (1 - NEAR), row["min_p"] * (1 + NEAR)):
            candidates, weights = truncate(adjusted, int(row["top_k"]), top_p, float(min_p))
            cumulative = np.cumsum(weights)
            for threshold in (drawn - NEAR, drawn + NEAR):
                at = np.searchsorted(cumulative, threshold * cumulative[-1], side="right")
                tokens.add(int(candidates[min(at, len(candidates) - 1)]))
    return tokens


def check(logits: Floats, asked: Sequence[Asked]) -> None:
    batch = step_batch(asked, logits.shape[1], len(logits))
    output = run(TARGETS[0], logits, batch)
    for target in TARGETS:
        assert sampled_bytes(run(target, logits, batch, 1)) == sampled_bytes(output), target
    for index in range(len(asked)):
        of_row = logits[index % len(logits)]
        expected = sample_row(of_row, batch, index)
        token_id = int(output.token_ids[index])
        assert token_id in acceptable_tokens(of_row, batch, index), (token_id, expected.token_id)
        if token_id == expected.token_id:
            np.testing.assert_allclose(output.logprobs[index], expected.logprob, rtol=1e-6, atol=3e-6)
        count = len(expected.top_ids)
        np.testing.assert_array_equal(output.top_ids[index, :count], expected.top_ids)
        np.testing.assert_allclose(output.top_logprobs[index, :count], expected.top_logprobs, rtol=1e-6, atol=3e-6)
        assert (output.top_ids[index, count:] == -1).all()
        assert (output.top_logprobs[index, count:] == -np.inf).all()


def asked_rows(vocab_size: int) -> st.SearchStrategy[Asked]:
    token_ids = st.integers(0, vocab_size - 1)
    fields = {
        "seed": st.integers(0, 2**64 - 1),
        "sample_index": st.integers(0, 2**32 - 1),
        "token_index": st.integers(0, 2**32 - 1),
        "temperature": st.one_of(st.just(0.0), st.just(1.0), st.floats(0.125, 5, width=32)),
        "top_k": st.one_of(st.just(0), st.integers(1, vocab_size + 3)),
        "top_p": st.one_of(st.just(1.0), st.floats(2**-10, 1, width=32)),
        "min_p": st.one_of(st.just(0.0), st.floats(0, 0.875, width=32)),
        "repetition_penalty": st.one_of(st.just(1.0), st.floats(0.5, 2, width=32)),
        "presence_penalty": st.floats(-2, 2, width=32),
        "frequency_penalty": st.floats(-2, 2, width=32),
        "target": st.one_of(st.just(SAMPLE), st.just(SAMPLE), token_ids),
        "num_top": st.integers(-1, min(vocab_size, 70)),
    }
    return st.builds(
        Asked,
        fields=st.fixed_dictionaries(fields),
        history=st.dictionaries(token_ids, st.integers(0, 5), max_size=8),
        bias=st.dictionaries(token_ids, st.one_of(st.just(-np.inf), st.floats(-100, 100, width=32)), max_size=8),
        allowed=st.one_of(st.none(), st.frozensets(token_ids, max_size=20)),
    )


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@settings(max_examples=NUM_EXAMPLES, deadline=None)
@given(data=st.data())
def test_agrees_with_the_specification(vocab_size: int, data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32), label="seed of logits"))
    logits = 4 * random.normal(size=(min(vocab_size, 3), vocab_size))
    if data.draw(st.booleans(), label="many ties"):
        logits = np.rint(logits)
    asked = data.draw(st.lists(asked_rows(vocab_size), min_size=1, max_size=6), label="rows")
    check(logits.astype(np.float32), asked)


def test_more_rows_than_one_tile_of_logits() -> None:
    random = np.random.default_rng(3)
    logits = random.normal(size=(3, 130)).astype(np.float32)
    asked = [
        Asked({"seed": seed, "top_p": 0.9, "num_top": seed % 4}, history={seed: 1}, bias={2 * seed % 130: 3.0})
        for seed in range(129)
    ]
    check(logits, asked)


def test_more_rows_than_there_is_room_for_are_refused() -> None:
    logits = np.zeros((3, 130), np.float32)
    with pytest.raises(ValueError, match="more logit rows than tokens"):
        run(TARGETS[0], logits, step_batch([Asked({})] * 4, 130, 3), max_tokens=3)


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
def test_equal_logits_go_to_the_lowest_id(vocab_size: int) -> None:
    logits = np.zeros((1, vocab_size), np.float32)
    count = min(vocab_size, 5)
    greedy = Asked({"num_top": count})
    first_only = Asked({"temperature": 1.0, "top_k": 1, "seed": 7})
    unbanned = Asked({"temperature": 0.0}, bias={0: -np.inf} if vocab_size > 1 else {})
    output = run(TARGETS[0], logits, step_batch([greedy, first_only, unbanned], vocab_size, 1))
    assert output.token_ids.tolist() == [0, 0, min(1, vocab_size - 1)]
    assert output.top_ids[0].tolist() == list(range(count))
    check(logits, [greedy, first_only, unbanned])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_allowed_gives_no_token(temperature: float) -> None:
    logits = np.array([[1.0, 2.0, 3.0]], np.float32)
    everything_banned = Asked({"temperature": temperature, "num_top": 1}, bias=dict.fromkeys(range(3), -np.inf))
    nothing_allowed = Asked({"temperature": temperature, "top_k": 2}, allowed=frozenset())
    output = run(TARGETS[0], logits, step_batch([everything_banned, nothing_allowed], 3, 1))
    assert output.token_ids.tolist() == [NO_TOKEN, NO_TOKEN]
    check(logits, [everything_banned, nothing_allowed])


@pytest.mark.parametrize("temperature", [1.2e-38, 1e-20, 1e-4])
def test_the_coldest_draw_is_greedy(temperature: float) -> None:
    logits = np.array([[3.0, 1.0, 5.0, -2.0]], np.float32)
    asked = [
        Asked({"temperature": temperature, "seed": seed, "top_p": top_p}) for seed in range(8) for top_p in (1, 0.5)
    ]
    for target in TARGETS:
        assert run(target, logits, step_batch(asked, 4, 1)).token_ids.tolist() == [2] * len(asked)


LOGITS = np.array([[0.0, 1.0, 2.0, -1.0, 0.5, 0.5, -3.0, 1.5, 0.0, -0.5]], np.float32)
HIGHEST_CHI_SQUARE = 33.7
"""Exceeded once in ten thousand times by draws of ten kinds."""


@pytest.mark.parametrize("vocab_size", [10, 2100])
@pytest.mark.parametrize(
    "fields",
    [{}, {"temperature": 2.0}, {"temperature": 0.5, "top_k": 7}, {"top_p": 0.8}, {"min_p": 0.2, "top_p": 0.95}],
)
def test_draws_follow_the_distribution(fields: Mapping[str, float], vocab_size: int) -> None:
    """Tokens beyond the ten have no weight; among 2,100 the ten lie apart, in several blocks."""
    num_draws = 200 if IS_REDUCED else 4000
    places = np.arange(10) * (vocab_size // 10)
    logits = np.full((1, vocab_size), -1000, np.float32)
    logits[:, places] = LOGITS
    plain = Asked({"temperature": 1.0, "seed": 42} | fields)
    asked = [replace(plain, fields=plain.fields | {"token_index": index}) for index in range(num_draws)]
    batch = step_batch(asked, vocab_size, 1)
    drawn = run(TARGETS[0], logits, batch).token_ids
    row = batch.logit_rows[0]
    kept, weights = truncate(
        logits[0] / row["temperature"], int(row["top_k"]), float(row["top_p"]), float(row["min_p"])
    )
    expected = np.zeros(vocab_size)
    expected[kept] = weights / weights.sum() * num_draws
    counts = np.bincount(drawn, minlength=vocab_size)
    assert (counts[expected == 0] == 0).all()
    likely = expected > 0
    assert ((counts - expected)[likely] ** 2 / expected[likely]).sum() < HIGHEST_CHI_SQUARE
    assert len(set(drawn.tolist())) > 2
