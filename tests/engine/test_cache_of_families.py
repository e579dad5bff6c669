"""What conversations hold of the cache, by the shapes of published models: a window, or a latent."""

import pytest

from abaci.engine.kv_cache import KVCache
from abaci.engine.memory import size_cache
from abaci.kernels.batch import PAGE_TOKENS
from abaci.kernels.footprint import Footprint, footprint
from abaci.models.families import spec_from_gguf
from abaci.models.spec import ModelSpec
from abaci.quantize.shapes import shape_named
from abaci.tensor import CacheType, TensorInfo, WeightFormat

CONTEXT = 8192


def described(family: str, size: str, cache_type: CacheType = CacheType.F16) -> tuple[ModelSpec, Footprint]:
    shape = shape_named(family, size)
    infos = {name: TensorInfo(name, WeightFormat.F16, sizes, 0, 0) for name, sizes in shape.tensors()}
    spec = spec_from_gguf(shape.metadata(), infos)
    return spec, footprint(spec, dict.fromkeys(infos, WeightFormat.F16), cache_type=cache_type)


def pages_of_a_conversation(windows: tuple[int | None, ...], num_tokens: int) -> list[int]:
    """That it holds per group when it is so long, computed in steps of 512."""
    cache = KVCache(windows, (1024,) * len(windows), PAGE_TOKENS)
    table = cache.acquire((), 0)
    token_ids = list(range(num_tokens))
    for begin in range(0, num_tokens, 512):
        end = min(begin + 512, num_tokens)
        cache.extend(table, end)
        cache.advance(table, token_ids[:end], end)
        cache.check_integrity()
    return [cache.pages_held(table, group) for group in range(len(windows))]


@pytest.mark.parametrize(("family", "size"), [("gemma3", "270m"), ("gemma3", "1b"), ("gpt-oss", "20b")])
def test_layers_with_a_window_keep_their_window(family: str, size: str) -> None:
    spec, counted = described(family, size)
    whole, windowed = spec.cache_groups()
    assert whole.window is None
    assert windowed.window is not None
    assert len(windowed.layers) >= len(whole.layers)
    held = pages_of_a_conversation(counted.windows, CONTEXT)
    assert held[0] == CONTEXT // PAGE_TOKENS
    assert windowed.window // PAGE_TOKENS <= held[1] <= windowed.window // PAGE_TOKENS + 1
    num_pages = size_cache(
        windows=counted.windows,
        page_bytes=counted.page_bytes,
        page_tokens=PAGE_TOKENS,
        model_context=spec.context_length,
        requested_context=CONTEXT,
        max_sequences=4,
        max_step_tokens=512,
        available_bytes=1 << 40,
    ).num_pages
    assert num_pages[1] == 4 * (windowed.window // PAGE_TOKENS + 1) + 512 // PAGE_TOKENS < num_pages[0]


@pytest.mark.parametrize(("size", "num_layers"), [("v2-lite", 27), ("v3", 61)])
def test_a_latent_is_all_that_is_kept(size: str, num_layers: int) -> None:
    """512 values of the latent and 64 of the rotated key, whatever the number of heads."""
    for cache_type, token_bytes in ((CacheType.F16, 2 * 576), (CacheType.INT8, 576 + 2 * 18)):
        spec, counted = described("deepseek", size, cache_type)
        assert counted.page_bytes == (num_layers * token_bytes * PAGE_TOKENS,)
        assert [group.window for group in spec.cache_groups()] == [None]


def test_int8_holds_nearly_twice_the_context() -> None:
    longest = {}
    for cache_type in CacheType:
        spec, counted = described("llama3", "8b", cache_type)
        cache = size_cache(
            windows=counted.windows,
            page_bytes=counted.page_bytes,
            page_tokens=PAGE_TOKENS,
            model_context=spec.context_length,
            requested_context=None,
            max_sequences=1,
            max_step_tokens=512,
            available_bytes=16 << 30,
        )
        longest[cache_type] = cache.context_length
    assert longest[CacheType.BF16] == longest[CacheType.F16]
    assert 1.85 < longest[CacheType.INT8] / longest[CacheType.F16] < 1.9
