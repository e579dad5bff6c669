"""The cache in bfloat16 and int8: native against the reference, the same bytes on every target, tokens kept apart."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from random_models import PLAIN, SHAPES, VOCAB_SIZE, RandomTensors, random_model
from step_feeding import Chunk, StepFeeder, by_token_id

from abaci.kernels import native
from abaci.kernels.footprint import footprint
from abaci.kernels.reference import ReferenceExecutor
from abaci.kernels.reference_math import mix_heads, round_to_int8
from abaci.models.spec import ModelSpec
from abaci.tensor import CACHE_GROUP, CacheType, WeightFormat

TARGETS = native.targets()
NUM_TOKENS = 75
TOKEN_IDS = np.random.default_rng(3).integers(0, VOCAB_SIZE, NUM_TOKENS).tolist()


def native_logprobs(
    name: str,
    cache_type: CacheType = CacheType.INT8,
    *,
    target: str = TARGETS[0],
    chunk_sizes: Sequence[int] | None = None,
    num_threads: int = 1,
    model: tuple[ModelSpec, RandomTensors] | None = None,
) -> NDArray[np.float32]:
    spec, source = random_model(SHAPES[name]) if model is None else model
    pool = native.thread_pool(num_threads)
    executor = native.NativeExecutor(spec, source, max_step_tokens=128, pool=pool, target=target, cache_type=cache_type)
    logprobs = StepFeeder(executor, spec, 2, NUM_TOKENS).logprobs(TOKEN_IDS, chunk_sizes)
    executor.close()
    return logprobs


@pytest.mark.parametrize(("cache_type", "share"), [(CacheType.BF16, 0.1), (CacheType.INT8, 0.01)])
@pytest.mark.parametrize("name", SHAPES)
def test_agrees_with_the_reference(name: str, cache_type: CacheType, share: float) -> None:
    spec, source = random_model(SHAPES[name])
    reference = ReferenceExecutor(spec, source, cache_type=cache_type)
    expected = StepFeeder(reference, spec, 1, NUM_TOKENS).logprobs(TOKEN_IDS)
    actual, of_float16 = native_logprobs(name, cache_type), native_logprobs(name, CacheType.F16)
    # A value may fall on the other side of a half; that is one step of one value.
    np.testing.assert_allclose(actual, expected, atol=2e-3)
    assert np.abs(actual - expected).mean() < share * np.abs(actual - of_float16).mean()


@pytest.mark.parametrize("cache_type", [CacheType.BF16, CacheType.INT8])
@pytest.mark.parametrize("name", SHAPES)
def test_targets_chunks_and_threads_give_the_same_bytes(name: str, cache_type: CacheType) -> None:
    whole = native_logprobs(name, cache_type)
    chunkings = [40, 35], [7] * 10 + [5], [1] * NUM_TOKENS
    for target, chunk_sizes in itertools.product(TARGETS, chunkings):
        for num_threads in (1, 2):
            again = native_logprobs(name, cache_type, target=target, chunk_sizes=chunk_sizes, num_threads=num_threads)
            assert again.tobytes() == whole.tobytes(), (target, len(chunk_sizes), num_threads)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("cache_type", CacheType)
def test_no_token_after_it_is_lost_to_one_that_is_not_finite(target: str, cache_type: CacheType) -> None:
    spec, source = random_model(PLAIN)
    # The first norm makes infinity of what only this token has.
    source.arrays["blk.0.attn_norm.weight"][0] = 3e38
    source.arrays[spec.embedding.weight][:, 0] = np.where(np.arange(VOCAB_SIZE) == 5, 100, 0)
    others = [token_id for token_id in TOKEN_IDS if token_id != 5]
    token_ids = [*others[:34], 5, *others[34:40]]
    with np.errstate(all="ignore"):
        exact = StepFeeder(ReferenceExecutor(spec, source, cache_type="float32"), spec, 1, NUM_TOKENS)
        assert not np.isfinite(by_token_id(exact.step([Chunk(0, 0, token_ids)]))[34:]).any()
    pool = native.thread_pool(1)
    executor = native.NativeExecutor(spec, source, max_step_tokens=128, pool=pool, target=target, cache_type=cache_type)
    logprobs = StepFeeder(executor, spec, 1, NUM_TOKENS).logprobs(token_ids)
    executor.close()
    assert np.isfinite(logprobs).all()


@pytest.mark.parametrize("cache_type", CacheType)
@pytest.mark.parametrize("name", SHAPES)
def test_pages_take_the_bytes_that_were_counted(name: str, cache_type: CacheType) -> None:
    spec, source = random_model(SHAPES[name])
    counted = footprint(spec, dict.fromkeys(source.arrays, WeightFormat.F32), cache_type=cache_type).page_bytes
    pool = native.thread_pool(1)
    for executor in (
        native.NativeExecutor(spec, source, max_step_tokens=8, pool=pool, cache_type=cache_type),
        ReferenceExecutor(spec, source, cache_type=cache_type),
    ):
        assert tuple(executor.page_bytes(group) for group in range(len(counted))) == counted
        executor.close()


def test_a_head_takes_a_byte_for_each_value_and_two_for_each_group() -> None:
    assert [CacheType.INT8.head_bytes(head_dim) for head_dim in (16, 64, 80, 576)] == [18, 68, 86, 612]
    assert CacheType.F16.head_bytes(80) == CacheType.BF16.head_bytes(80) == 160


@pytest.mark.parametrize("target", TARGETS)
def test_bfloat16_holds_what_float16_cuts_off(target: str) -> None:
    spec, source = random_model(PLAIN)
    source.arrays["blk.0.attn_v.weight"] *= 1e6
    exact = StepFeeder(ReferenceExecutor(spec, source, cache_type="float32"), spec, 1, NUM_TOKENS).logprobs(TOKEN_IDS)
    off = {
        cache_type: np.abs(native_logprobs("plain", cache_type, target=target, model=(spec, source)) - exact).max()
        for cache_type in (CacheType.BF16, CacheType.F16)
    }
    assert off[CacheType.BF16] < 0.1 < off[CacheType.F16]


def test_a_large_element_of_the_keys_costs_the_others_little() -> None:
    """As Qwen2.5's have them: with the step of its group as wide as it makes it, the rest would be rounded away."""
    spec, source = random_model(PLAIN)
    source.arrays["blk.0.attn_k.bias"][3] = 80
    exact = StepFeeder(ReferenceExecutor(spec, source, cache_type="float32"), spec, 1, NUM_TOKENS).logprobs(TOKEN_IDS)
    pool = native.thread_pool(1)
    executor = native.NativeExecutor(spec, source, max_step_tokens=128, pool=pool, cache_type=CacheType.INT8)
    actual = StepFeeder(executor, spec, 1, NUM_TOKENS).logprobs(TOKEN_IDS)
    executor.close()
    assert np.abs(actual - exact).max() < 0.1


@pytest.mark.parametrize(("head_dim", "size"), [(1, 1), (64, 64), (96, 32), (40, 8)])
def test_mixed_heads_have_the_products_that_they_had(head_dim: int, size: int) -> None:
    query, key = np.random.default_rng(1).normal(0, 1, (2, 5, 3 * head_dim)).astype(np.float32)
    mixed_query, mixed_key = mix_heads(query, head_dim), mix_heads(key, head_dim)
    np.testing.assert_allclose(mix_heads(mixed_query, head_dim), query, atol=1e-5)
    for begin in range(0, 3 * head_dim, head_dim):
        head = slice(begin, begin + head_dim)
        expected = (query[:, head] * key[:, head]).sum(axis=1)
        np.testing.assert_allclose((mixed_query[:, head] * mixed_key[:, head]).sum(axis=1), expected, atol=1e-4)
    single = np.zeros((1, head_dim), np.float32)
    single[0, 0] = 1
    np.testing.assert_allclose(mix_heads(single, head_dim)[0, :size], size**-0.5, rtol=1e-6)


@given(
    seed=st.integers(0),
    head_dim=st.sampled_from([1, 31, 32, 33, 80]),
    exponent=st.floats(-4, 4),
)
def test_what_is_kept_is_within_half_a_step_and_depends_on_its_group_only(
    seed: int, head_dim: int, exponent: float
) -> None:
    heads = (np.random.default_rng(seed).normal(0, 10**exponent, (3, head_dim))).astype(np.float32)
    kept = round_to_int8(heads)
    for begin in range(0, head_dim, CACHE_GROUP):
        group = slice(begin, begin + CACHE_GROUP)
        largest = np.abs(heads[:, group]).max(axis=1, keepdims=True)
        # Half a step; a scale among the smallest float16 is coarser than one step.
        assert (np.abs(kept - heads)[:, group] <= 0.505 * largest / 127 + 127 * 2.0**-25).all()
        np.testing.assert_array_equal(round_to_int8(heads[1:2, group]), kept[1:2, group])


def test_nothing_is_kept_of_nothing() -> None:
    np.testing.assert_array_equal(round_to_int8(np.zeros((2, 40), np.float32)), 0)
