"""What folders say of embeddings; templates and sampling are tested with the folders themselves."""

import json

import pytest

from abaci.errors import UnsupportedModelError
from abaci.formats.huggingface_text import pooling_metadata


def pooled(folder, **modes):
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 8, **modes}))
    return pooling_metadata(folder, "qwen3")


def test_pooling(tmp_path):
    assert pooling_metadata(tmp_path, "qwen3") == {}
    found = pooled(tmp_path, pooling_mode_cls_token=False, pooling_mode_lasttoken=True, include_prompt=True)
    assert found == {"qwen3.pooling_type": 3}


def test_the_mean(tmp_path):
    assert pooled(tmp_path, pooling_mode_mean_tokens=True) == {"qwen3.pooling_type": 1}


@pytest.mark.parametrize(
    "modes", [{"pooling_mode_cls_token": True}, {"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": True}]
)
def test_other_ways_are_refused_by_name(tmp_path, modes):
    with pytest.raises(UnsupportedModelError, match=sorted(modes)[0]):
        pooled(tmp_path, **modes)
