"""The decoder, run by the reference executor, against the original implementation's logits."""

import inspect
from collections.abc import Iterator

import numpy as np
import pytest
from golden_models import GOLDEN_NAMES, golden_path, golden_sequences, opened_model
from step_feeding import Chunk, StepFeeder, by_token_id, log_softmax

from abaci.kernels.reference import ReferenceExecutor
from abaci.models import decoder
from abaci.models.families import known_architectures

TOLERANCE = 1e-4


@pytest.fixture(params=GOLDEN_NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def feeder(name: str) -> Iterator[StepFeeder]:
    with opened_model(golden_path(name)) as (spec, tensors):
        executor = ReferenceExecutor(spec, tensors, cache_type="float32")
        yield StepFeeder(executor, spec, num_sequences=2, max_tokens=64)
        executor.close()


def test_whole_prompt_gives_the_original_logits(name: str, feeder: StepFeeder) -> None:
    for sequence in golden_sequences(name):
        logprobs = feeder.logprobs(sequence.token_ids)
        np.testing.assert_allclose(logprobs, log_softmax(sequence.logits), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("first_chunk", [1, 7, 33])
def test_chunks_and_single_tokens_give_the_same_bytes(name: str, feeder: StepFeeder, first_chunk: int) -> None:
    token_ids = golden_sequences(name)[0].token_ids
    whole = feeder.logprobs(token_ids)
    num_single = 5
    rest = len(token_ids) - first_chunk - num_single
    chunked = feeder.logprobs(token_ids, [first_chunk, rest] + [1] * num_single)
    np.testing.assert_array_equal(chunked, whole)


def test_a_neighbour_in_the_step_changes_nothing(name: str, feeder: StepFeeder) -> None:
    first, second = (sequence.token_ids for sequence in golden_sequences(name))
    alone = feeder.logprobs(second)
    together = by_token_id(feeder.step([Chunk(1, 0, first), Chunk(0, 0, second)]))
    np.testing.assert_array_equal(together[len(first) :], alone)


def test_golden_sequences_outgrow_the_window() -> None:
    with opened_model(golden_path("gemma3")) as (spec, _):
        windows = [group.window for group in spec.cache_groups()]
    assert windows == [None, 16]
    assert len(golden_sequences("gemma3")[0].token_ids) > 2 * 16


def test_int8_activations_stay_close(name: str) -> None:
    sequence = golden_sequences(name)[0]
    with opened_model(golden_path(name)) as (spec, tensors):
        executor = ReferenceExecutor(spec, tensors, activations="int8")
        logprobs = StepFeeder(executor, spec, num_sequences=1, max_tokens=64).logprobs(sequence.token_ids)
    expected = log_softmax(sequence.logits)
    divergence = (np.exp(expected) * (expected - logprobs)).sum(axis=1).mean()
    assert 0 < divergence < 2e-3


def test_decoder_knows_no_family() -> None:
    source = inspect.getsource(decoder).lower()
    for architecture in known_architectures():
        assert architecture.rstrip("0123456789") not in source
    assert "architecture" not in source
