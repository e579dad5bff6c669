"""A file that llama.cpp itself quantised (scripts/make_llama_cpp_golden.py): its values, and what they compute."""

from collections import Counter

import gguf
import numpy as np
import pytest
from golden_models import golden_path, golden_sequences, opened_model
from numpy.typing import NDArray
from step_feeding import StepFeeder, log_softmax

from abaci.formats.gguf import GgufCheckpoint
from abaci.kernels import native
from abaci.kernels.batch import Executor
from abaci.kernels.dequantise import dequantise
from abaci.kernels.reference import ReferenceExecutor
from abaci.models.spec import ModelSpec

NAME = "llama-cpp"
SEQUENCE = golden_sequences(NAME)[0]
LARGEST_DIVERGENCE = 5e-4
"""What activations of 8 bits cost, in nats: 0.00018 here and 0.00024 in llama.cpp."""


def logprobs_of(executor: Executor, spec: ModelSpec) -> NDArray[np.float32]:
    return StepFeeder(executor, spec, 1, len(SEQUENCE.token_ids)).logprobs(SEQUENCE.token_ids)


def divergence(expected: NDArray[np.float32], actual: NDArray[np.float32]) -> float:
    """Mean over the tokens, nats."""
    return float((np.exp(expected) * (expected - actual)).sum(axis=1).mean())


@pytest.fixture(scope="module")
def float_logprobs() -> NDArray[np.float32]:
    with opened_model(golden_path(NAME)) as (spec, tensors):
        return logprobs_of(ReferenceExecutor(spec, tensors, cache_type="float32"), spec)


def test_every_value_is_what_the_formats_own_package_reads() -> None:
    expected = {tensor.name: tensor for tensor in gguf.GGUFReader(golden_path(NAME)).tensors}
    found: Counter[str] = Counter()
    with GgufCheckpoint.open(golden_path(NAME)) as checkpoint:
        assert checkpoint.tensors.keys() == expected.keys()
        for name, info in checkpoint.tensors.items():
            values = dequantise(info.format, info.shape, checkpoint.data(info))
            theirs = gguf.dequantize(expected[name].data, expected[name].tensor_type)
            np.testing.assert_array_equal(values, theirs, err_msg=f"{name}, {info.format.label}")
            found[info.format.label] += 1
    types = {"Q2_K", "Q3_K", "IQ4_NL", "IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "MXFP4"}
    assert types <= found.keys()


def test_its_own_logits_are_near_those_of_float_activations(float_logprobs: NDArray[np.float32]) -> None:
    """llama.cpp rounds activations to 8 bits, which is all that lies between the two."""
    assert 0 < divergence(float_logprobs, log_softmax(SEQUENCE.logits)) < LARGEST_DIVERGENCE


@pytest.mark.parametrize("target", native.targets())
def test_the_kernels_agree_with_the_reference(target: str, float_logprobs: NDArray[np.float32]) -> None:
    with opened_model(golden_path(NAME)) as (spec, tensors):
        executor = native.NativeExecutor(spec, tensors, max_step_tokens=64, pool=native.thread_pool(2), target=target)
        kernels = executor.kernels()
        actual = logprobs_of(executor, spec)
        executor.close()
        rounded = logprobs_of(ReferenceExecutor(spec, tensors, activations="int8"), spec)
    assert set(kernels.values()) == {f"{target} int8"}
    np.testing.assert_allclose(actual[:3], rounded[:3], atol=1e-3)
    assert np.abs(actual - rounded).mean() < 0.01
    assert 0 < divergence(float_logprobs, actual) < LARGEST_DIVERGENCE
