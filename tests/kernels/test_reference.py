"""The reference executor's parts against plain formulas, its cache, and its refusal of batches that cannot be."""

from dataclasses import replace

import numpy as np
import pytest
from golden_models import golden_path, golden_sequences, opened_model
from hypothesis import given
from hypothesis import strategies as st
from step_feeding import Chunk, StepFeeder, logit_rows

from abaci.kernels.batch import BIAS, HISTORY, PAGE_TOKENS, StepBatch
from abaci.kernels.dequantise import decode
from abaci.kernels.random_weights import random_blocks
from abaci.kernels.reference import ReferenceExecutor
from abaci.kernels.reference_math import (
    ACTIVATION_GROUP,
    FEW_LEVELS,
    LARGEST_ONE_SIDED_SUM,
    MOST_ABOVE,
    MOST_BELOW,
    attend,
    gelu_tanh,
    multiply_integers,
    quantise_activations,
    rotate_heads,
    silu,
)
from abaci.models.spec import RopeStyle
from abaci.tensor import CacheType, WeightFormat

QUANTISED = [weight_format for weight_format in WeightFormat if weight_format.is_quantised]


@pytest.mark.parametrize("weight_format", QUANTISED, ids=lambda weight_format: weight_format.label)
def test_integer_product_is_the_product_of_the_rounded_values(weight_format: WeightFormat) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(0, 3, (5, 512)).astype(np.float32)
    weight = decode(weight_format, (7, 512), random_blocks(weight_format, 7 * 512 // weight_format.block_size))
    codes, scales = quantise_activations(x)
    rounded = codes.astype(np.float64) * np.repeat(scales, ACTIVATION_GROUP, axis=1)
    expected = rounded @ weight.to_float().astype(np.float64).T
    # Steps: a group's dot product keeps 15 bits, of which a usual one fills ten.
    tolerance = (2e-5 if weight.steps is None else 5e-4) * np.abs(expected).max()
    np.testing.assert_allclose(multiply_integers(x, weight), expected, rtol=2e-5, atol=tolerance)


@given(seed=st.integers(0), magnitude=st.floats(1e-6, 1e6), extremes=st.floats(0, 1))
def test_quantised_activations_are_within_half_a_step(seed: int, magnitude: float, extremes: float) -> None:
    rng = np.random.default_rng(seed)
    usual, extreme = rng.normal(0, 1, (3, 64)), rng.choice([-1, 1], (3, 64)) * rng.uniform(0.85, 1, (3, 64))
    x = (magnitude * np.where(rng.random((3, 64)) < extremes, extreme, usual)).astype(np.float32)
    codes, scales = quantise_activations(x)
    groups = codes.astype(int).reshape(3, 2, ACTIVATION_GROUP)
    assert (groups >= -MOST_BELOW).all()
    assert (groups <= MOST_ABOVE).all()
    least, most = groups.min(axis=-1), groups.max(axis=-1)
    assert ((least == -MOST_BELOW) | (most == MOST_ABOVE) | (least == -FEW_LEVELS)).all()
    assert (-least >= most).all()
    steps = np.repeat(scales, ACTIVATION_GROUP, axis=1)
    assert (np.abs(codes * steps - x) <= 0.5001 * np.abs(steps)).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_codes_of_one_sign_leave_room_for_16_bits(sign: int) -> None:
    x = sign * np.float32(3.7) * np.linspace(1, [1.0, 0.9, 0.5, 0.0, -1.0], 32, dtype=np.float32, axis=1)
    codes, scales = quantise_activations(x)
    assert np.abs(codes).max(axis=1).tolist() == [68, 68, 68, 127, 113]  # the last of both signs
    assert (np.abs(codes.astype(int)).sum(axis=1) <= LARGEST_ONE_SIDED_SUM).all()
    np.testing.assert_allclose(codes[0] * scales[0], x[0], rtol=1e-6)  # a constant is exact


def test_zero_activations_have_zero_codes_and_scale() -> None:
    codes, scales = quantise_activations(np.zeros((2, 32), np.float32))
    assert not codes.any()
    assert not scales.any()


@pytest.mark.parametrize("style", list(RopeStyle))
def test_rope_is_a_rotation_of_pairs(style: RopeStyle) -> None:
    rng = np.random.default_rng(2)
    heads = rng.normal(size=(4, 2, 10)).astype(np.float32)
    angles = rng.uniform(0, 6, (4, 4))
    rotated = rotate_heads(heads, angles, style)
    pairs = [(i, i + 4) if style is RopeStyle.HALF else (2 * i, 2 * i + 1) for i in range(4)]
    for index, (first, second) in enumerate(pairs):
        turned = (heads[..., first] + 1j * heads[..., second]) * np.exp(1j * angles[:, index])[:, np.newaxis]
        np.testing.assert_allclose(rotated[..., first] + 1j * rotated[..., second], turned, atol=1e-6)
    np.testing.assert_array_equal(rotated[..., 8:], heads[..., 8:])


def test_attention_of_one_position_is_its_value() -> None:
    values = np.array([[[1.0, 2.0]]], np.float16)
    mixed = attend(np.ones((1, 3, 2), np.float32), np.ones((1, 1, 2), np.float16), values, 0.5)
    np.testing.assert_array_equal(mixed, [1, 2, 1, 2, 1, 2])


def test_activations() -> None:
    x = np.array([-200.0, -1.0, 0.0, 1.0, 200.0], np.float32)
    np.testing.assert_allclose(silu(x), [0, -0.26894142, 0, 0.73105858, 200], rtol=1e-6)
    np.testing.assert_allclose(gelu_tanh(x), [0, -0.15880801, 0, 0.84119199, 200], rtol=1e-5)


def test_smaller_caches_are_close() -> None:
    sequence = golden_sequences("qwen2")[0]
    logprobs, sizes = [], []
    for cache_type in (CacheType.F16, "float32", CacheType.INT8):
        with opened_model(golden_path("qwen2")) as (spec, tensors):
            executor = ReferenceExecutor(spec, tensors, cache_type=cache_type)
            sizes.append(executor.page_bytes(0))
            logprobs.append(StepFeeder(executor, spec, 1, 64).logprobs(sequence.token_ids))
    heads = 2 * 2 * PAGE_TOKENS * 2
    assert sizes == [heads * 16 * 2, heads * 16 * 4, heads * (16 + 2)]
    assert 0 < np.abs(logprobs[0] - logprobs[1]).max() < 0.02
    assert 0 < np.abs(logprobs[2] - logprobs[1]).max() < 0.2


def test_sliding_pages_before_the_window_are_never_read() -> None:
    token_ids = np.tile(golden_sequences("gemma3")[0].token_ids, 2)  # 90 tokens, window 16: the first page is let go
    with opened_model(golden_path("gemma3")) as (spec, tensors):
        feeder = StepFeeder(ReferenceExecutor(spec, tensors), spec, 1, 96)
        whole = feeder.logprobs(token_ids)
        chunked = feeder.logprobs(token_ids, [40, 40, 10])
        last = feeder.step([Chunk(0, 88, token_ids[88:])])
    np.testing.assert_array_equal(chunked, whole)
    np.testing.assert_array_equal(last.top_logprobs[:, 0], whole[88:].max(axis=1))


def test_only_the_asked_rows_are_answered_in_order() -> None:
    with opened_model(golden_path("llama")) as (spec, tensors):
        feeder = StepFeeder(ReferenceExecutor(spec, tensors), spec, 1, 64)
        rows = logit_rows(3, row=[1, 4, 4], target=[-1, 7, -1], num_top=[-1, 0, 2])
        output = feeder.step([Chunk(0, 0, range(5))], rows)
    assert output.token_ids[1] == 7
    assert output.token_ids[2] == output.top_ids[2, 0]
    assert output.top_ids.shape == (3, 2)
    assert (output.top_ids[:2] == -1).all()
    assert output.logprobs[0] == 0
    assert output.logprobs[2] == output.top_logprobs[2, 0]


@pytest.fixture(scope="module")
def executor() -> ReferenceExecutor:
    with opened_model(golden_path("llama")) as (spec, tensors):
        executor = ReferenceExecutor(spec, tensors)
        executor.allocate_cache((3,))
        executor.step(valid_batch())
    return executor


def valid_batch() -> StepBatch:
    return StepBatch(
        token_ids=np.array([1, 2, 3], np.int32),
        sequence_offsets=np.array([0, 2, 3], np.int32),
        first_positions=np.array([31, 0], np.int32),
        page_tables=(np.array([[2, 0], [1, -1]], np.int32),),
        logit_rows=logit_rows(3),
        history=np.empty(0, HISTORY),
        bias=np.empty(0, BIAS),
        masks=np.empty((0, 9), np.uint32),
    )


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("token_ids", np.array([1, 2, 280 + 3], np.int32), "token ids"),
        ("token_ids", np.array([1, 2, -1], np.int32), "token ids"),
        ("token_ids", np.empty(0, np.int32), "without tokens"),
        ("sequence_offsets", np.array([0, 3], np.int32), "length"),
        ("sequence_offsets", np.array([0, 3, 3], np.int32), "split"),
        ("sequence_offsets", np.array([0, 2, 4], np.int32), "split"),
        ("first_positions", np.array([31, -1], np.int32), "negative"),
        ("first_positions", np.array([63, 0], np.int32), "too short"),
        ("first_positions", np.array([31, 32], np.int32), "no page"),
        ("page_tables", (), "per cache group"),
        ("page_tables", (np.array([[2, 3], [1, -1]], np.int32),), "page tables"),
        ("page_tables", (np.array([[2, 0]], np.int32),), "page tables"),
        ("logit_rows", logit_rows(4), "logit rows"),
        ("logit_rows", logit_rows(2, row=[1, 0]), "logit rows"),
        ("logit_rows", logit_rows(1, target=283), "targets"),
        ("logit_rows", logit_rows(1, num_top=1000), "num_top"),
        ("logit_rows", logit_rows(1, mask_row=0), "mask"),
        ("logit_rows", logit_rows(1, history_end=1), "history"),
        ("logit_rows", logit_rows(1, bias_begin=1), "bias"),
        ("bias", np.array([(283, 1.0)], BIAS), "bias"),
    ],
)
def test_batch_that_cannot_be_is_refused(
    executor: ReferenceExecutor, field: str, value: object, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        executor.step(replace(valid_batch(), **{field: value}))


def test_cache_is_allocated_once_before_the_first_step() -> None:
    with opened_model(golden_path("llama")) as (spec, tensors):
        executor = ReferenceExecutor(spec, tensors)
        with pytest.raises(ValueError, match="no cache"):
            executor.step(valid_batch())
        with pytest.raises(ValueError, match="per cache group"):
            executor.allocate_cache((1, 1))
        executor.allocate_cache((3,))
        with pytest.raises(ValueError, match="already"):
            executor.allocate_cache((3,))
