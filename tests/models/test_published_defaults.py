"""Settings that `config.json` leaves out are what the original library takes for them, whichever rule asks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from abaci.errors import FileFormatError, UnsupportedModelError
from abaci.formats.published_model import PublishedModel
from abaci.models.huggingface import known_model_types, mapping_of
from abaci.models.huggingface.model_types import gpt_oss, qwen3, qwen3_moe
from abaci.models.huggingface.published_config import PublishedConfig

DEFAULTS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "published_defaults.json").read_text())
"""By type of model, as scripts/make_published_defaults.py wrote them."""
WITHOUT_DEFAULT = ("num_experts_per_tok",)
"""Of DeepSeek V2."""


def described(values: dict[str, Any]) -> dict[str, Any]:
    """Everything that a model's `config.json` says of it."""
    model = PublishedModel.read(values)
    tables = {rule.gguf: rule.compute(model.config) for rule in model.mapping.computed}
    lists = {name: None if table is None else np.asarray(table).tolist() for name, table in tables.items()}
    return {**model.settings, **lists, "is_tied": model.is_tied}


def test_every_type_has_its_defaults_here() -> None:
    assert sorted(DEFAULTS) == [name for name in known_model_types() if mapping_of(name).model_type == name]


@pytest.mark.parametrize("model_type", DEFAULTS)
def test_each_key_may_be_left_out(model_type: str) -> None:
    full = DEFAULTS[model_type]
    expected = described(full)
    for key in full.keys() - {"model_type"}:
        rest = {name: value for name, value in full.items() if name != key}
        if model_type == "deepseek_v2" and key in WITHOUT_DEFAULT:
            with pytest.raises(FileFormatError, match=f"the setting {key} is missing"):
                described(rest)
        else:
            assert described(rest) == expected, key


@pytest.mark.parametrize("model_type", DEFAULTS)
def test_all_keys_may_be_left_out(model_type: str) -> None:
    required = {key: DEFAULTS[model_type][key] for key in WITHOUT_DEFAULT if model_type == "deepseek_v2"}
    assert described({"model_type": model_type, **required}) == described(DEFAULTS[model_type])


@pytest.mark.parametrize("model_type", DEFAULTS)
def test_full_settings_are_all_known(model_type: str) -> None:
    assert PublishedModel.read(DEFAULTS[model_type]).notes == []


def test_gemma_3_4b_as_published_leaves_out_heads_and_ropes() -> None:
    published = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    settings = PublishedModel.read({"model_type": "gemma3", "text_config": published}).settings
    assert (settings["attention.head_count"], settings["attention.head_count_kv"]) == (8, 4)
    assert (settings["attention.key_length"], settings["rope.scaling.factor"]) == (256, 8.0)


def test_a_default_stretch_does_not_mix_with_settings_that_are_there() -> None:
    for given in ({"rope_parameters": {"rope_theta": 1e4}}, {"rope_scaling": {"rope_type": "default"}}):
        for model_type in ("gpt_oss", "ministral3"):
            settings = described({"model_type": model_type, **given})
            assert "rope.scaling.type" not in settings
            assert settings.get("attention.temperature_scale", 0.0) == 0


def test_a_default_stretch_holds_beside_an_older_base() -> None:
    settings = described({"model_type": "gpt_oss", "rope_theta": 250000.0, "rope_scaling": None})
    assert (settings["rope.freq_base"], settings["rope.scaling.factor"]) == (250000.0, 32.0)


def test_null_is_none_and_not_the_default() -> None:
    config = PublishedConfig({"sliding_window": None, "outer": {"a": 1}}, {"sliding_window": 8, "outer": {"b": 2}})
    assert config.value("sliding_window") is None
    assert config.value("outer.b") is None
    assert PublishedConfig({"outer": None}, {"outer": {"b": 2}}).value("outer.b") == 2
    for mapping in (qwen3.MAPPING, gpt_oss.MAPPING):
        values = DEFAULTS[mapping.model_type] | {"num_key_value_heads": None, "num_attention_heads": 24}
        assert PublishedModel.read(values).settings["attention.head_count_kv"] == 24


def test_layers_have_padded_numbers() -> None:
    full = DEFAULTS["gemma4_text"]
    assert "05" in full["per_layer_config"]
    by_kind = {key: value for key, value in full.items() if key != "per_layer_config"} | {"global_head_dim": 384}
    by_layer = full | {"per_layer_config": {name: {"head_dim": 384} for name in full["per_layer_config"]}}
    assert described(by_layer) == described(by_kind)
    with pytest.raises(FileFormatError, match="beyond the 30"):
        described(full | {"per_layer_config": {"30": {"head_dim": 512}}})


@pytest.mark.parametrize(
    ("model_type", "idle", "meant"),
    [
        ("qwen2", {"use_mrope": False}, {"use_mrope": True}),
        (
            "qwen3_moe",
            {"use_qk_norm": True, "qkv_bias": False, "shared_expert_intermediate_size": 0, "rope_scaling": None},
            {"use_qk_norm": False, "qkv_bias": True, "shared_expert_intermediate_size": 8},
        ),
        ("qwen3_next", {"use_sliding_window": False, "num_labels": 1}, {"use_sliding_window": True}),
    ],
)
def test_keys_are_named_only_where_they_say_something(
    model_type: str, idle: dict[str, Any], meant: dict[str, Any]
) -> None:
    assert PublishedModel.read(DEFAULTS[model_type] | idle).notes == []
    (note,) = PublishedModel.read(DEFAULTS[model_type] | meant).notes
    assert note.endswith(", ".join(sorted(meant)))


def test_an_older_name_of_a_key_counts_before_the_default() -> None:
    other = {"model_type": qwen3_moe.MAPPING.model_type, "num_local_experts": 16}
    assert PublishedModel.read(other).settings["expert_count"] == 16


def test_kimi_k2_is_deepseek_v3_by_another_name() -> None:
    own = {
        "n_routed_experts": 384,
        "num_attention_heads": 64,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
    }
    settings = {**DEFAULTS["deepseek_v3"], "num_key_value_heads": 64, **own}
    assert described({**settings, "model_type": "kimi_k2"}) == described(settings)
    with pytest.raises(UnsupportedModelError) as caught:
        mapping_of("kimi_k9")
    assert "kimi_k2" in str(caught.value.hint)
