"""The footprint, held against what a real executor allocates and runs."""

import pytest
from golden_models import GOLDEN_NAMES, golden_path, opened_model

from abaci.formats.gguf import GgufCheckpoint
from abaci.kernels import native
from abaci.kernels.footprint import footprint, workspace_bytes
from abaci.models.families import spec_from_gguf

MAX_STEP_TOKENS = 128
HEAD_TILE = 64
SLACK_BYTES = 4096


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_bytes_are_those_of_an_executor(name):
    with GgufCheckpoint.open(golden_path(name)) as checkpoint:
        spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
        model = footprint(spec, {info.name: info.format for info in checkpoint.tensors.values()})
    with opened_model(golden_path(name)) as (spec, source):
        pool = native.thread_pool(1)
        executor = native.NativeExecutor(spec, source, max_step_tokens=MAX_STEP_TOKENS, pool=pool)
        groups = range(len(spec.cache_groups()))
        # A source that is no file has its embedding packed, whether tied or not.
        embedding = 0 if spec.embedding.weight == spec.head.weight else executor.weight_bytes - model.weight_bytes
        assert embedding >= 0
        assert executor.weight_bytes == model.weight_bytes + embedding
        assert tuple(executor.page_bytes(group) for group in groups) == model.page_bytes
        expected = workspace_bytes(model, MAX_STEP_TOKENS, HEAD_TILE)
        assert expected <= executor.workspace_bytes() <= expected + SLACK_BYTES
        executor.close()


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_products_are_all_matrices_of_a_step(name):
    with GgufCheckpoint.open(golden_path(name)) as checkpoint:
        spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
        model = footprint(spec, {info.name: info.format for info in checkpoint.tensors.values()})
    assert len(model.products) == 7 * len(spec.layers) + 1
    assert [product.asked_only for product in model.products][-5:] == [False, True, True, True, True]
    assert sum(product.asked_only for product in model.products) == 4
    assert model.products_bytes == model.weight_bytes
    assert sum(layer.cache_bytes for layer in model.attention) * 32 == sum(model.page_bytes)
