"""Footprints from published shapes: close to those of real files, and of the right size where no file is at hand."""

from dataclasses import replace

import pytest

from abaci.hub.catalog import Experts, LatentAttention, LinearAttention, Shape, SlidingWindow
from abaci.runtime.shape_footprint import shape_footprint
from abaci.tensor import CacheType

QWEN = Shape(24, 896, 14, 2, 64, 4864, 151_936, True, "https://huggingface.co/Qwen/Qwen2.5-0.5B")
LLAMA = Shape(32, 4096, 32, 8, 128, 14_336, 128_256, False, "https://huggingface.co/meta-llama/Llama-3.1-8B")
MIXTRAL = Shape(
    32, 4096, 32, 8, 128, 0, 32_000, False, "https://huggingface.co/mistralai/Mixtral-8x7B-v0.1", Experts(8, 2, 14_336)
)


def test_weights_of_a_small_tied_model():
    """Its rows are no multiple of 256: Q4_K files of it hold Q5_0 and Q8_0."""
    counted = shape_footprint(QWEN, "Q4_K_M", 32_768)
    assert counted.weight_bytes == pytest.approx(391.6e6, rel=0.05)
    assert counted.page_bytes == (24 * 2 * 2 * 64 * 2 * 32,)


def test_weights_of_a_large_untied_model():
    """4.92 GB is the published file; the embedding's rows, 0.3 GB, stay in it."""
    counted = shape_footprint(LLAMA, "Q4_K_M", 131_072)
    assert counted.weight_bytes == pytest.approx(4.92e9 - 128_256 * 4096 * 4.5 / 8, rel=0.02)
    assert counted.products_bytes == counted.weight_bytes


def test_experts_weigh_and_are_not_all_met():
    counted = shape_footprint(MIXTRAL, "Q8_0", 32_768)
    per_weight = 34 / 32
    assert counted.weight_bytes == pytest.approx(46.7e9 * per_weight, rel=0.02)
    assert counted.products_bytes == pytest.approx(12.9e9 * per_weight, rel=0.02)


def test_better_quantisations_weigh_more():
    sizes = [
        shape_footprint(LLAMA, name, 8192).weight_bytes
        for name in ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")
    ]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == len(sizes)


def test_a_latent_cache_is_one_vector_per_position_and_layer():
    latent = replace(LLAMA, latent_attention=LatentAttention(512, 64, 128, 128))
    assert shape_footprint(latent, "Q8_0", 8192).page_bytes == (32 * (512 + 64) * 2 * 32,)
    assert shape_footprint(latent, "Q8_0", 8192, CacheType.INT8).page_bytes == (32 * (512 + 64 + 2 * 18) * 32,)


def test_layers_of_linear_attention_keep_no_cache():
    linear = replace(LLAMA, linear_attention=LinearAttention(24, 16, 32, 128, 128, 4))
    whole = shape_footprint(LLAMA, "Q8_0", 8192).page_bytes
    assert sum(shape_footprint(linear, "Q8_0", 8192).page_bytes) == sum(whole) // 4


def test_windows_are_groups_of_their_own():
    windowed = shape_footprint(replace(LLAMA, sliding_window=SlidingWindow(1024, 24)), "Q8_0", 8192)
    assert windowed.windows == (None, 1024)
    assert windowed.page_bytes[1] == 3 * windowed.page_bytes[0]


def test_an_unknown_quantisation_is_not_guessed():
    assert shape_footprint(LLAMA, "Q9_X", 8192) is None


@pytest.mark.parametrize(
    ("quantisation", "published"),
    [("Q2_K", 3.18e9), ("Q3_K_M", 4.02e9), ("Q4_0", 4.66e9), ("Q5_K_M", 5.73e9), ("Q6_K", 6.60e9), ("Q8_0", 8.54e9)],
)
def test_sizes_are_near_those_of_published_files(quantisation, published):
    """Llama 3.1 8B, as https://huggingface.co/bartowski/Meta-Llama-3.1-8B-Instruct-GGUF lists its files."""
    counted = shape_footprint(LLAMA, quantisation, 8192)
    in_file = counted.weight_bytes + 128_256 * 4096 * counted.products[0].num_bytes * 2 / counted.products[0].operations
    assert in_file == pytest.approx(published, rel=0.06)
