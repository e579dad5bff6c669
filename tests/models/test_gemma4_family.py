"""Gemma 4's description: which layer's cache a layer reads, and files in which there is none to read."""

from collections.abc import Iterator
from typing import Any

import pytest
from golden_folders import golden_folder

from abaci.errors import FileFormatError
from abaci.formats.huggingface import HuggingFaceCheckpoint
from abaci.models.families import spec_from_gguf
from abaci.models.spec import Attention


@pytest.fixture
def checkpoint() -> Iterator[HuggingFaceCheckpoint]:
    with HuggingFaceCheckpoint.open(golden_folder("gemma4_text")) as opened:
        yield opened


def test_last_layers_read_the_last_cache_of_their_kind(checkpoint: HuggingFaceCheckpoint) -> None:
    spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
    mixers = [layer.mixer for layer in spec.layers]
    assert [mixer.cache_of for mixer in mixers if isinstance(mixer, Attention)] == [None, None, None, 1, 1, 2]
    assert [(group.window, group.layers) for group in spec.cache_groups()] == [(None, (2,)), (16, (0, 1))]
    assert spec.attending_layers() == (0, 1, 2, 3, 4, 5)


def test_only_the_table_that_is_no_head_is_read_by_rows(checkpoint: HuggingFaceCheckpoint) -> None:
    spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
    assert [table.weight for table in spec.row_tables()] == ["per_layer_token_embd.weight"]


BAD_VALUES: tuple[tuple[str, Any], ...] = (
    ("attention.shared_kv_layers", 4),  # then no layer before them has full attention
    ("attention.shared_kv_layers", 6),
    ("attention.head_count_kv", [2, 2, 2, 1, 1, 1]),
    ("attention.head_count_kv", [2, 2, 2, 2, 2]),
    ("attention.head_count_kv", [2, 2, 2, 2, 2, True]),
    ("attention.sliding_window_pattern", [True, 1]),
    ("rope.dimension_count_swa", 64),
    ("final_logit_softcapping", -1.0),
)


@pytest.mark.parametrize(("key", "value"), BAD_VALUES)
def test_settings_that_cannot_be_are_refused(checkpoint: HuggingFaceCheckpoint, key: str, value: object) -> None:
    with pytest.raises(FileFormatError):
        spec_from_gguf({**checkpoint.metadata, f"gemma4.{key}": value}, checkpoint.tensors)
