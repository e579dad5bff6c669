"""Settings and tensors of a GGUF file to a spec: what is read, and what is refused."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from golden_folders import golden_folder
from golden_models import golden_path
from hypothesis import given
from hypothesis import strategies as st

from abaci.errors import AbaciError, FileFormatError, UnsupportedModelError
from abaci.formats.gguf import GgufCheckpoint
from abaci.formats.huggingface import HuggingFaceCheckpoint
from abaci.models.families import known_architectures, spec_from_gguf
from abaci.models.spec import GatedMlp, Rope, RopeStyle
from abaci.tensor import TensorInfo, WeightFormat

Description = tuple[dict[str, object], dict[str, TensorInfo]]


def describe(path: Path) -> Description:
    with GgufCheckpoint.open(path) as checkpoint:
        return dict(checkpoint.metadata), dict(checkpoint.tensors)


GGUF_NAMES = ("llama", "qwen2", "gemma3")
"""Architectures with a golden GGUF file."""


@pytest.fixture(params=GGUF_NAMES)
def description(request: pytest.FixtureRequest) -> Description:
    return describe(golden_path(request.param))


def test_llama_rotates_neighbours_and_the_others_halves() -> None:
    styles = {name: spec_from_gguf(*describe(golden_path(name))).layers[0].mixer.rope.style for name in GGUF_NAMES}
    assert styles == {"llama": RopeStyle.INTERLEAVED, "qwen2": RopeStyle.HALF, "gemma3": RopeStyle.HALF}


def test_gemma3_has_one_full_layer_in_six() -> None:
    layers = spec_from_gguf(*describe(golden_path("gemma3"))).layers
    assert [layer.mixer.window for layer in layers] == [16] * 5 + [None] + [16]
    assert {layer.mixer.rope.theta for layer in layers if layer.mixer.window} == {10000.0}
    assert layers[5].mixer.rope.theta == 1000000.0


def test_gemma3_stretches_full_attention_only() -> None:
    metadata, tensors = describe(golden_path("gemma3"))
    metadata |= {"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8.0}
    layers = spec_from_gguf(metadata, tensors).layers
    assert [layer.mixer.rope.linear_scale for layer in layers] == [1.0] * 5 + [8.0] + [1.0]


def test_frequency_factors_are_used_where_the_file_has_them() -> None:
    for name, factors in (("llama-float", "rope_freqs.weight"), ("llama", None)):
        spec = spec_from_gguf(*describe(golden_path(name)))
        assert spec.layers[0].mixer.rope.frequency_factors == factors


def test_head_is_tied_only_without_its_own_matrix() -> None:
    assert spec_from_gguf(*describe(golden_path("llama"))).head.weight == "token_embd.weight"
    assert spec_from_gguf(*describe(golden_path("qwen2"))).head.weight == "output.weight"


@pytest.mark.parametrize(
    ("name", "layer", "changed"),
    [
        ("deepseek_v3", 0, {"deepseek2.leading_dense_block_count": 3}),
        ("glm4_moe", 0, {"glm4moe.leading_dense_block_count": 3}),
        ("qwen3_next", 3, {"qwen3next.full_attention_interval": 1}),
    ],
)
def test_settings_of_parts_that_no_layer_has_are_passed_over(name: str, layer: int, changed: dict[str, object]) -> None:
    with HuggingFaceCheckpoint.open(golden_folder(name)) as checkpoint:
        metadata, tensors = {**checkpoint.metadata, **changed}, dict(checkpoint.tensors)
    num_layers = len(spec_from_gguf(checkpoint.metadata, tensors).layers)
    alike = {key: tensor for key, tensor in tensors.items() if not key.startswith("blk.")}
    for key, tensor in tensors.items():
        if key.startswith(f"blk.{layer}."):
            for number in range(num_layers):
                alike[re.sub(r"\d+", str(number), key, count=1)] = replace(tensor, name=key)
    spec = spec_from_gguf(metadata, alike)
    assert {type(each.mixer) for each in spec.layers} == {type(spec.layers[layer].mixer)}
    assert {type(each.mlp) for each in spec.layers} == {type(spec.layers[layer].mlp)}


@pytest.mark.parametrize("name", ["qwen2_moe", "qwen3_moe", "qwen3_next"])
def test_a_layer_of_a_mixture_without_a_router_is_dense(name: str) -> None:
    with HuggingFaceCheckpoint.open(golden_folder(name)) as checkpoint:
        metadata, tensors = checkpoint.metadata, dict(checkpoint.tensors)
    embedding = tensors["token_embd.weight"]
    size = metadata[f"{metadata['general.architecture']}.feed_forward_length"]
    for key in [key for key in tensors if key.startswith("blk.1.ffn_") and "norm" not in key]:
        del tensors[key]
    for part, shape in (("gate", (size, 32)), ("up", (size, 32)), ("down", (32, size))):
        key = f"blk.1.ffn_{part}.weight"
        tensors[key] = replace(embedding, name=key, shape=shape)
    spec = spec_from_gguf(metadata, tensors)
    assert isinstance(spec.layers[1].mlp, GatedMlp)


def test_unknown_architecture_is_named_with_the_known_ones() -> None:
    with pytest.raises(UnsupportedModelError, match="'mamba'") as caught:
        spec_from_gguf({"general.architecture": "mamba"}, {})
    for architecture in known_architectures():
        assert architecture in (caught.value.hint or "")


@pytest.mark.parametrize("architecture", ["__init__", "../llama", "Llama", "llama.x", "", 3, None])
def test_only_a_family_is_ever_imported(architecture: object) -> None:
    with pytest.raises(FileFormatError):
        spec_from_gguf({"general.architecture": architecture}, {})


REQUIRED = (
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.layer_norm_rms_epsilon",
)


@pytest.mark.parametrize("key", REQUIRED)
def test_missing_setting_is_named(description: Description, key: str) -> None:
    metadata, tensors = description
    full_key = f"{metadata['general.architecture']}.{key}"
    del metadata[full_key]
    with pytest.raises(FileFormatError, match=full_key):
        spec_from_gguf(metadata, tensors)


BAD_VALUES = (
    ("block_count", 0),
    ("block_count", 10**9),
    ("block_count", True),
    ("context_length", -1),
    ("embedding_length", "64"),
    ("embedding_length", 65),
    ("feed_forward_length", [1.5, 2]),
    ("feed_forward_length", [96]),
    ("attention.head_count", 0),
    ("attention.head_count_kv", 7),
    ("attention.key_length", 15),
    ("attention.layer_norm_rms_epsilon", float("nan")),
    ("attention.layer_norm_rms_epsilon", 0.0),
    ("rope.freq_base", -1.0),
    ("rope.freq_base", float("inf")),
    ("rope.dimension_count", 3),
    ("rope.dimension_count", 4096),
    ("rope.scaling.type", 1),
)


@pytest.mark.parametrize(("key", "value"), BAD_VALUES)
def test_senseless_setting_is_named(description: Description, key: str, value: object) -> None:
    metadata, tensors = description
    architecture = metadata["general.architecture"]
    metadata[f"{architecture}.{key}"] = value
    with pytest.raises(FileFormatError, match=rf"{architecture}\."):
        spec_from_gguf(metadata, tensors)


UNSUPPORTED = (
    ("expert_count", 8),
    ("attention.logit_softcapping", 50.0),
    ("rope.scaling.type", "spiral"),
    ("attention.value_length", 8),
)


@pytest.mark.parametrize(("key", "value"), UNSUPPORTED)
def test_setting_that_would_change_the_mathematics_is_refused(
    description: Description, key: str, value: object
) -> None:
    metadata, tensors = description
    metadata[f"{metadata['general.architecture']}.{key}"] = value
    is_mixture = metadata["general.architecture"] == "llama" and key == "expert_count"  # then more is missing
    with pytest.raises(FileFormatError if is_mixture else UnsupportedModelError):
        spec_from_gguf(metadata, tensors)


NEUTRAL = (
    ("attention.causal", True, False),
    ("expert_shared_feed_forward_length", 0, 64),
    ("expert_shared_count", 0, 1),
    ("rope.scaling.yarn_ext_factor", 1.0, 0.5),
)


@pytest.mark.parametrize(("key", "neutral", "other"), NEUTRAL)
def test_setting_that_says_nothing_new_is_let_pass(
    description: Description, key: str, neutral: object, other: object
) -> None:
    metadata, tensors = description
    plain = spec_from_gguf(metadata, tensors)
    metadata[f"{metadata['general.architecture']}.{key}"] = neutral
    assert spec_from_gguf(metadata, tensors) == plain
    metadata[f"{metadata['general.architecture']}.{key}"] = other
    with pytest.raises(UnsupportedModelError, match=re.escape(key)):
        spec_from_gguf(metadata, tensors)


@pytest.mark.parametrize("key", ["rope.scaling.factor", "rope.scale_linear"])
def test_a_stretch_without_a_type_is_linear(key: str) -> None:
    metadata, tensors = describe(golden_path("qwen2"))
    metadata[f"qwen2.{key}"] = 4.0
    assert spec_from_gguf(metadata, tensors).layers[0].mixer.rope.linear_scale == 4.0


def test_magnitude_of_yarn() -> None:
    metadata, tensors = describe(golden_path("qwen2"))
    metadata |= {"qwen2.rope.scaling.type": "yarn", "qwen2.rope.scaling.factor": 8.0}

    def rope() -> Rope:
        return spec_from_gguf(metadata, tensors).layers[0].mixer.rope

    usual = 1 + 0.1 * math.log(8)
    assert rope().magnitude == usual
    assert rope().yarn.original_context == metadata["qwen2.context_length"]
    metadata["qwen2.rope.scaling.attn_factor"] = 1.25
    assert rope().magnitude == usual * 1.25
    metadata["qwen2.rope.scaling.yarn_attn_factor"] = 1.5  # as converters write the published attention_factor
    assert rope().magnitude == 1.5


def test_dynamic_scaling_is_none_up_to_the_original_context(description: Description) -> None:
    metadata, tensors = description
    prefix = f"{metadata['general.architecture']}.rope.scaling."
    plain = spec_from_gguf(metadata, tensors)
    metadata |= {f"{prefix}type": "dynamic", f"{prefix}factor": 2.0}
    assert spec_from_gguf(metadata, tensors) == plain
    metadata |= {f"{prefix}original_context_length": plain.context_length // 2}
    assert spec_from_gguf(metadata, tensors, served_context=plain.context_length // 2) == plain
    for served_context in (None, plain.context_length // 2 + 1):
        with pytest.raises(UnsupportedModelError, match="rotates every token anew") as caught:
            spec_from_gguf(metadata, tensors, served_context)
        assert f"--context {plain.context_length // 2}" in str(caught.value.hint)


def test_each_tensor_is_needed_and_shaped(description: Description) -> None:
    metadata, tensors = description
    for name, info in tensors.items():
        if name == "output.weight":
            continue  # without it the head is tied
        without = {other: tensors[other] for other in tensors if other != name}
        with pytest.raises(FileFormatError, match=name.replace(".", r"\.")):
            spec_from_gguf(metadata, without)
        misshapen = TensorInfo(name, info.format, (*info.shape[:-1], 2 * info.shape[-1]), info.offset, info.num_bytes)
        with pytest.raises(FileFormatError, match=name.replace(".", r"\.")):
            spec_from_gguf(metadata, tensors | {name: misshapen})


def test_surplus_tensor_is_refused(description: Description) -> None:
    metadata, tensors = description
    surplus = TensorInfo("blk.0.ffn_gate_exps.weight", WeightFormat.F32, (2, 2), 0, 16)
    with pytest.raises(UnsupportedModelError, match="ffn_gate_exps"):
        spec_from_gguf(metadata, tensors | {surplus.name: surplus})


def test_layers_beyond_the_count_are_refused(description: Description) -> None:
    metadata, tensors = description
    count = f"{metadata['general.architecture']}.block_count"
    num_blocks = metadata[count]
    assert isinstance(num_blocks, int)
    with pytest.raises(UnsupportedModelError, match=rf"does not use here: blk\.{num_blocks - 1}\."):
        spec_from_gguf(metadata | {count: num_blocks - 1}, tensors)
    stray = TensorInfo(f"blk.{num_blocks}.attn_q.weight", WeightFormat.F32, (2, 2), 0, 16)
    with pytest.raises(UnsupportedModelError, match=stray.name):
        spec_from_gguf(metadata, tensors | {stray.name: stray})


def test_only_layers_declared_as_speculative_are_left(description: Description) -> None:
    metadata, tensors = description
    prefix = str(metadata["general.architecture"])
    num_blocks = metadata[f"{prefix}.block_count"]
    assert isinstance(num_blocks, int)
    plain = spec_from_gguf(metadata, tensors)

    def with_layer(layer: int) -> dict[str, TensorInfo]:
        names = (f"blk.{layer}.attn_q.weight", f"blk.{layer}.nextn.eh_proj.weight")
        return tensors | {name: TensorInfo(name, WeightFormat.F32, (2, 2), 0, 16) for name in names}

    one_more = {f"{prefix}.block_count": num_blocks + 1, f"{prefix}.nextn_predict_layers": 1}
    assert spec_from_gguf(metadata | one_more, with_layer(num_blocks)) == plain
    assert spec_from_gguf(metadata | one_more, tensors) == plain
    with pytest.raises(UnsupportedModelError, match=rf"blk\.{num_blocks}\."):
        spec_from_gguf(metadata, with_layer(num_blocks))
    with pytest.raises(UnsupportedModelError, match=rf"blk\.{num_blocks + 1}\."):
        spec_from_gguf(metadata | one_more, with_layer(num_blocks + 1))
    with pytest.raises(UnsupportedModelError, match=rf"blk\.{num_blocks - 1}\."):
        spec_from_gguf(metadata | {f"{prefix}.nextn_predict_layers": 1}, tensors)


@given(data=st.data())
def test_any_setting_gives_a_spec_or_a_clear_error(data: st.DataObject) -> None:
    metadata, tensors = describe(golden_path(data.draw(st.sampled_from(GGUF_NAMES))))
    own_keys = sorted(key for key in metadata if key.startswith(str(metadata["general.architecture"])))
    text = st.sampled_from(["", "none", "linear", "yarn", "dynamic", "64"])
    value = st.one_of(st.integers(), st.floats(), text, st.booleans(), st.lists(st.integers(), max_size=3))
    metadata |= data.draw(st.dictionaries(st.sampled_from(own_keys), value, max_size=3))
    try:
        spec = spec_from_gguf(metadata, tensors)
    except AbaciError as error:
        assert error.message
    else:
        assert dict(spec.tensors()).keys() == tensors.keys()


@pytest.mark.parametrize("name", ["qwen3_next", "qwen3_5_text"])
def test_a_hybrid_without_full_attention_is_refused(name: str) -> None:
    with HuggingFaceCheckpoint.open(golden_folder(name)) as checkpoint:
        metadata, tensors = dict(checkpoint.metadata), dict(checkpoint.tensors)
    architecture = metadata["general.architecture"]
    metadata[f"{architecture}.full_attention_interval"] = 1000
    with pytest.raises(UnsupportedModelError, match="attends in full"):
        spec_from_gguf(metadata, tensors)


def test_early_conversions_of_qwen3_next_are_refused_with_a_way_out() -> None:
    with HuggingFaceCheckpoint.open(golden_folder("qwen3_next")) as checkpoint:
        metadata, tensors = checkpoint.metadata, dict(checkpoint.tensors)
    name = "blk.0.ssm_in.weight"
    tensors = {
        key: info for key, info in tensors.items() if key not in ("blk.0.attn_gate.weight", "blk.0.attn_qkv.weight")
    }
    tensors[name] = TensorInfo(name, WeightFormat.F32, (192, 32), 0, 0)
    with pytest.raises(UnsupportedModelError, match=name) as caught:
        spec_from_gguf(metadata, tensors)
    assert "newer GGUF" in str(caught.value.hint)
