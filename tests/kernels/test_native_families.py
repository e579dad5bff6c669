"""Every model type through the compiled kernels: as floats like the original, quantised like the reference."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from golden_folders import FOLDER_NAMES, folder_sequences, golden_folder
from golden_models import CheckpointTensors
from numpy.typing import NDArray
from step_feeding import Chunk, StepFeeder, log_softmax, logit_rows

from abaci.engine.quantised import QuantisedCheckpoint
from abaci.formats.checkpoint import Checkpoint
from abaci.formats.huggingface import HuggingFaceCheckpoint
from abaci.kernels import native
from abaci.kernels.batch import Executor
from abaci.kernels.reference import ReferenceExecutor
from abaci.kernels.weights import TensorSource
from abaci.models.families import spec_from_gguf
from abaci.models.mixtures import mixture_named
from abaci.models.spec import ModelSpec

POOL = native.thread_pool(2)


@contextmanager
def opened(name: str, mixture: str | None = None) -> Iterator[tuple[ModelSpec, TensorSource]]:
    checkpoint: Checkpoint = HuggingFaceCheckpoint.open(golden_folder(name))
    if mixture is not None:
        checkpoint = QuantisedCheckpoint(checkpoint, mixture_named(mixture), POOL)
    yield spec_from_gguf(checkpoint.metadata, checkpoint.tensors), CheckpointTensors(checkpoint)
    checkpoint.close()


def logprobs_of(executor: Executor, spec: ModelSpec, token_ids: NDArray[np.int32]) -> NDArray[np.float32]:
    found = StepFeeder(executor, spec, num_sequences=1, max_tokens=64).logprobs(token_ids)
    executor.close()
    return found


@pytest.mark.parametrize("name", FOLDER_NAMES)
def test_floats_give_the_original_logits(name: str) -> None:
    """But for keys and values, which are kept in half precision."""
    sequence = folder_sequences(name)[0]
    with opened(name) as (spec, source):
        executor = native.NativeExecutor(spec, source, max_step_tokens=64, pool=POOL)
        found = logprobs_of(executor, spec, sequence.token_ids)
    difference = np.abs(found - log_softmax(sequence.logits))
    assert difference.mean() < 1e-3
    assert difference.max() < 0.03


@pytest.mark.parametrize("name", FOLDER_NAMES)
def test_quantised_weights_agree_with_the_reference(name: str) -> None:
    token_ids = folder_sequences(name)[0].token_ids
    with opened(name, "q8_0") as (spec, source):
        assert any(source.tensor(linear.weight).format.is_quantised for linear in spec.linears())
        reference = ReferenceExecutor(spec, source, activations="int8")
        expected = logprobs_of(reference, spec, token_ids)
        executor = native.NativeExecutor(spec, source, max_step_tokens=64, pool=POOL)
        found = logprobs_of(executor, spec, token_ids)
    # Activations that round to the other integer are seen by later tokens; a router may then choose another expert.
    np.testing.assert_allclose(found[:2], expected[:2], atol=2e-3)
    assert np.median(np.abs(found - expected)) < 0.01


@pytest.mark.parametrize("name", FOLDER_NAMES)
def test_rows_that_are_not_asked_for_change_nothing(name: str) -> None:
    token_ids = folder_sequences(name)[0].token_ids[:9]
    chunk = [Chunk(0, 0, token_ids)]
    everything = logit_rows(len(token_ids), num_top=5)
    some = everything[[3, 7]]
    with opened(name, "q8_0") as (spec, source):
        executor = native.NativeExecutor(spec, source, max_step_tokens=64, pool=POOL)
        feeder = StepFeeder(executor, spec, num_sequences=1, max_tokens=64)
        whole = feeder.step(chunk, everything, hidden_rows=range(len(token_ids)))
        part = feeder.step(chunk, some, hidden_rows=[5, 3])
        nothing = feeder.step(chunk, everything[:0])
        executor.close()
    assert part.top_logprobs.tobytes() == whole.top_logprobs[[3, 7]].tobytes()
    assert part.token_ids.tobytes() == whole.token_ids[[3, 7]].tobytes()
    assert part.hidden.tobytes() == whole.hidden[[5, 3]].tobytes()
    assert len(nothing.token_ids) == len(nothing.hidden) == 0
