"""Hugging Face folders: the original's logits, and everything that is refused or told."""

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_folders import FOLDER_NAMES, folder_sequences, golden_folder
from golden_models import CheckpointTensors
from step_feeding import StepFeeder, log_softmax

from abaci.errors import FileFormatError, ModelNotFoundError, UnsupportedModelError
from abaci.formats.huggingface import HuggingFaceCheckpoint
from abaci.formats.publishing import publish
from abaci.kernels.dequantise import dequantise
from abaci.kernels.reference import ReferenceExecutor
from abaci.models.families import spec_from_gguf
from abaci.models.huggingface import known_model_types
from abaci.tensor import WeightFormat

TOLERANCE = 3e-5
HYBRID_TOLERANCE = 3e-4
"""Delta nets amplify rounding: the original in float32 is as far from itself in float64."""


@pytest.mark.parametrize("name", FOLDER_NAMES)
def test_logits_are_the_originals(name: str) -> None:
    sequences = folder_sequences(name)
    with HuggingFaceCheckpoint.open(golden_folder(name)) as checkpoint:
        spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
        executor = ReferenceExecutor(spec, CheckpointTensors(checkpoint), cache_type="float32")
        feeder = StepFeeder(executor, spec, num_sequences=1, max_tokens=64)
        for sequence in sequences:
            logprobs = feeder.logprobs(sequence.token_ids)
            tolerance = HYBRID_TOLERANCE if spec.state_layers() else TOLERANCE
            np.testing.assert_allclose(logprobs, log_softmax(sequence.logits), atol=tolerance, rtol=0)
        executor.close()


def test_every_model_type_has_a_golden_folder() -> None:
    types = {json.loads((golden_folder(name) / "config.json").read_text())["model_type"] for name in FOLDER_NAMES}
    assert types == set(known_model_types())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a sound folder, to damage."""
    return Path(shutil.copytree(golden_folder("llama"), tmp_path / "model"))


def change_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def set_config(folder: Path, **values: object) -> None:
    change_config(folder, lambda config: config.update(values))


def rename_tensor(folder: Path, old: str, new: str) -> None:
    rename_all(folder, lambda name: new if name == old else name)


def rename_all(folder: Path, rename: Callable[[str], str]) -> None:
    header, data = read_weights(folder)
    write_weights(folder, {name if name == "__metadata__" else rename(name): header[name] for name in header}, data)


def copy_tensor(folder: Path, source: str, destination: str) -> None:
    """Put the bytes of one tensor in place of another's of the same size."""
    header, data = read_weights(folder)
    begin, end = header[source]["data_offsets"]
    to, to_end = header[destination]["data_offsets"]
    assert to_end - to == end - begin
    data[to:to_end] = data[begin:end]
    write_weights(folder, header, data)


def change_byte(folder: Path, name: str, place: int) -> None:
    """Of a tensor's bytes one; -1 is the last."""
    header, data = read_weights(folder)
    begin, end = header[name]["data_offsets"]
    data[range(begin, end)[place]] ^= 1
    write_weights(folder, header, data)


def read_weights(folder: Path) -> tuple[dict[str, Any], bytearray]:
    content = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])


def write_weights(folder: Path, header: dict[str, Any], data: bytes) -> None:
    encoded = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)


def test_what_needs_no_change_is_read_from_the_file(folder: Path) -> None:
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        stored = {name for name, tensor in checkpoint.tensors.items() if checkpoint.is_stored(tensor)}
        assert {"token_embd.weight", "blk.1.attn_v.weight", "output.weight"} <= stored
        assert {"blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_norm.weight", "rope_freqs.weight"}.isdisjoint(
            stored
        )
        tensor = checkpoint.tensors["token_embd.weight"]
        with checkpoint.paths[tensor.file_index].open("rb") as file, checkpoint.data(tensor) as data:
            file.seek(tensor.offset)
            assert bytes(data) == file.read(tensor.num_bytes)
        for tensor in checkpoint.tensors.values():
            assert checkpoint.data(tensor).nbytes == tensor.num_bytes
            checkpoint.release(tensor)


def test_vectors_are_float32(folder: Path) -> None:
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        formats = {tensor.format for tensor in checkpoint.tensors.values() if len(tensor.shape) == 1}
    assert formats == {WeightFormat.F32}


def test_settings_nobody_knows_are_named(folder: Path) -> None:
    set_config(folder, swivel_factor=3, moon_phase=None)
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        assert any("moon_phase, swivel_factor" in note for note in checkpoint.notes)
    with HuggingFaceCheckpoint.open(golden_folder("llama")) as checkpoint:
        assert checkpoint.notes == ()


def test_code_in_a_folder_is_not_run(folder: Path) -> None:
    set_config(folder, auto_map={"AutoModelForCausalLM": "modeling_other.OtherForCausalLM"})
    (folder / "modeling_other.py").write_text("raise SystemExit('run')")
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        assert any("not run" in note for note in checkpoint.notes)
    set_config(folder, model_type="other")
    with pytest.raises(UnsupportedModelError, match=r"'other'.* never run"):
        HuggingFaceCheckpoint.open(folder)


FULL, SLIDING = "full_attention", "sliding_attention"


@pytest.mark.parametrize("name", ["gemma3_text", "gpt_oss", "olmo3"])
def test_windows_may_be_in_any_layers(name: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(golden_folder(name), tmp_path / name))
    num_layers = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
    types = [FULL, FULL, *[SLIDING] * (num_layers - 2)]
    set_config(folder, layer_types=types)
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
        assert publish(checkpoint, dequantise).config["layer_types"] == types
    assert [layer.mixer.window is not None for layer in spec.layers] == [kind == SLIDING for kind in types]
    for wrong in ({"layer_types": types[:-1]}, {"layer_types": [*types[:-1], "chunked_attention"]}):
        set_config(folder, **wrong)
        with pytest.raises(UnsupportedModelError, match="layer_types"):
            HuggingFaceCheckpoint.open(folder)


@pytest.mark.parametrize("name", ["gemma3_text", "gpt_oss", "olmo3", "smollm3"])
def test_settings_make_no_long_lists(name: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(golden_folder(name), tmp_path / name))
    set_config(folder, num_hidden_layers=(1 << 31) - 1, layer_types=None, no_rope_layers=None)
    with pytest.raises(FileFormatError, match="num_hidden_layers"):
        HuggingFaceCheckpoint.open(folder)


def test_a_period_of_no_layers_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(golden_folder("gemma3_text"), tmp_path / "model"))
    set_config(folder, layer_types=None, sliding_window_pattern=0)
    with pytest.raises(FileFormatError, match="sliding_window_pattern"):
        HuggingFaceCheckpoint.open(folder)


BIASED = re.compile(r"model\.layers\.[01]\.self_attn\.([qkvo]_proj|q_a_proj|kv_a_proj_with_mqa)\.weight")


@pytest.mark.parametrize("name", ["qwen3", "qwen3_moe", "gemma3_text", "smollm3", "deepseek_v2", "deepseek_v3"])
def test_attention_may_have_biases(name: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(golden_folder(name), tmp_path / name))
    header, data = read_weights(folder)
    biases = {}
    for tensor, entry in header.items():
        if BIASED.fullmatch(tensor):
            values = np.arange(entry["shape"][0], dtype=np.float32).tobytes()
            place = [len(data), len(data) + len(values)]
            bias = f"{tensor.removesuffix('weight')}bias"
            biases[bias] = {"dtype": "F32", "shape": entry["shape"][:1], "data_offsets": place}
            data += values
    write_weights(folder, header | biases, data)
    set_config(folder, attention_bias=True)
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
        assert publish(checkpoint, dequantise).config["attention_bias"] is True
    found = {linear.bias for linear in spec.linears()} - {None}
    assert len(found) == len(biases) > 0
    assert found <= checkpoint.tensors.keys()


def test_pickles_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match=r"pytorch_model\.bin, a pickle") as caught:
        HuggingFaceCheckpoint.open(folder)
    assert "safetensors" in str(caught.value.hint)


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileFormatError, match=r"no model\.safetensors"):
        HuggingFaceCheckpoint.open(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        HuggingFaceCheckpoint.open(folder)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"model_type": 3}, "model_type"),
        ({"hidden_size": "32"}, "hidden_size"),
        ({"hidden_size": 1 << 40}, "hidden_size"),
        ({"num_attention_heads": -4}, "num_attention_heads"),
        ({"num_attention_heads": 5}, "5 heads"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"rope_parameters": {"rope_type": "spiral", "rope_theta": 10000.0}}, "spiral"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "twist": 1}}, "twist"),
        ({"rope_parameters": 7}, "rope_parameters"),
    ],
)
def test_settings_that_cannot_be_are_refused(folder: Path, values: dict[str, object], complaint: str) -> None:
    set_config(folder, **values)
    with pytest.raises(FileFormatError, match=complaint):
        HuggingFaceCheckpoint.open(folder)


def test_rope_settings_of_older_folders_are_understood(folder: Path) -> None:
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        newer = dict(checkpoint.metadata)
        factors = bytes(checkpoint.data(checkpoint.tensors["rope_freqs.weight"]))

    def to_older(config: dict[str, Any]) -> None:
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope

    change_config(folder, to_older)
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        assert dict(checkpoint.metadata) == newer
        assert bytes(checkpoint.data(checkpoint.tensors["rope_freqs.weight"])) == factors


def test_a_tensor_too_many_is_refused(folder: Path) -> None:
    rename_tensor(folder, "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.side_proj.weight")
    with pytest.raises(UnsupportedModelError, match="side_proj"):
        HuggingFaceCheckpoint.open(folder)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", {}),
        ("llama", {"num_nextn_predict_layers": 1}),
        ("glm4_moe", {"num_nextn_predict_layers": 0}),
        ("deepseek_v3", {"num_hidden_layers": 1, "num_nextn_predict_layers": 1}),
    ],
)
def test_a_layer_too_many_is_refused(tmp_path: Path, name: str, settings: dict[str, object]) -> None:
    folder = Path(shutil.copytree(golden_folder(name), tmp_path / "model"))
    change_config(
        folder, lambda config: config.update({"num_hidden_layers": config["num_hidden_layers"] - 1, **settings})
    )
    with pytest.raises(FileFormatError, match=r"has the tensor 'model\.layers\.\d\..*only \d layers"):
        HuggingFaceCheckpoint.open(folder)


@pytest.mark.parametrize("name", ["glm4_moe", "deepseek_v3"])
@pytest.mark.parametrize("count", [None, 1, 2])
def test_layers_for_guessing_ahead_are_left_out(tmp_path: Path, name: str, count: int | None) -> None:
    folder = Path(shutil.copytree(golden_folder(name), tmp_path / "model"))
    last = json.loads((folder / "config.json").read_text())["num_hidden_layers"] - 1
    set_config(folder, num_hidden_layers=last, num_nextn_predict_layers=count)
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        assert not [tensor for tensor in checkpoint.tensors if tensor.startswith(f"blk.{last}.")]
        assert checkpoint.notes == ("layers for guessing several tokens at once are left out",)


def test_a_head_that_is_missing_is_not_taken_for_tied(folder: Path) -> None:
    rename_tensor(folder, "lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq")
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        assert "output.weight" not in checkpoint.tensors
        assert not spec_from_gguf(checkpoint.metadata, checkpoint.tensors).has_head
        assert any("cannot generate" in note for note in checkpoint.notes)
    set_config(folder, tie_word_embeddings=True)
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        assert "output.weight" not in checkpoint.tensors
        assert spec_from_gguf(checkpoint.metadata, checkpoint.tensors).has_head
        assert checkpoint.notes == ()


def test_a_head_that_differs_from_the_embedding_is_used_whatever_the_settings_say(folder: Path) -> None:
    set_config(folder, tie_word_embeddings=True)
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        assert checkpoint.is_stored(checkpoint.tensors["output.weight"])
        assert any("lm_head.weight differs" in note for note in checkpoint.notes)


@pytest.mark.parametrize("place", [0, -1])
def test_a_tied_head_stored_a_second_time_is_left_out(folder: Path, place: int) -> None:
    set_config(folder, tie_word_embeddings=True)
    copy_tensor(folder, "model.embed_tokens.weight", "lm_head.weight")
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        assert "output.weight" not in checkpoint.tensors
        assert checkpoint.notes == ()
    set_config(folder, tie_word_embeddings=False)
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        assert "output.weight" in checkpoint.tensors
    set_config(folder, tie_word_embeddings=True)
    change_byte(folder, "lm_head.weight", place)
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        assert "output.weight" in checkpoint.tensors


@pytest.mark.parametrize(("outer", "inner"), [(True, False), (True, None), (None, True)])
def test_outer_settings_say_first_whether_the_embedding_is_the_head(
    folder: Path, outer: bool | None, inner: bool | None
) -> None:
    def say(config: dict[str, Any]) -> None:
        inside = {**config, "tie_word_embeddings": inner}
        config.clear()
        config |= {"model_type": "seer", "tie_word_embeddings": outer, "text_config": inside}
        for values in (config, inside):
            if values["tie_word_embeddings"] is None:
                del values["tie_word_embeddings"]

    change_config(folder, say)
    rename_all(folder, lambda name: f"language_model.{name}")
    rename_tensor(folder, "language_model.lm_head.weight", "vision_tower.eye.weight")
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        assert "output.weight" not in checkpoint.tensors
        assert spec_from_gguf(checkpoint.metadata, checkpoint.tensors).has_head
    set_config(folder, tie_word_embeddings=False)
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        assert not spec_from_gguf(checkpoint.metadata, checkpoint.tensors).has_head


def test_shards_are_read_together(tmp_path: Path) -> None:
    with HuggingFaceCheckpoint.open(golden_folder("qwen2")) as checkpoint:
        assert len({tensor.file_index for tensor in checkpoint.tensors.values()}) == 2
        assert [path.name for path in checkpoint.paths][:2] == [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ]
        assert len(checkpoint.descriptors) == len(checkpoint.paths)


@pytest.mark.parametrize(
    ("weight_map", "complaint"),
    [
        (None, "weight_map"),
        ({}, "0 files"),
        ({"a": "../model.safetensors"}, "not the name"),
        ({"a": "/etc/passwd"}, "not the name"),
        ({"a": "model.bin"}, "not the name"),
        ({"a": 3}, "weight_map"),
        ({"a": "gone.safetensors"}, "no such file"),
        ({"a": "model.safetensors"}, "it has not"),
    ],
)
def test_an_index_that_lies_is_refused(folder: Path, weight_map: object, complaint: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises((FileFormatError, ModelNotFoundError), match=complaint):
        HuggingFaceCheckpoint.open(folder)


@pytest.mark.parametrize("prefix", ["language_model.", "model.language_model."])
def test_the_text_model_of_a_model_with_eyes_is_used(folder: Path, prefix: str) -> None:
    inner = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "seer", "text_config": inner, "vision_config": {}}))
    content = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    named: dict[str, object] = {"vision_tower.eye.weight": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}
    for name, entry in json.loads(content[8 : 8 + length]).items():
        inside = name.removeprefix("model.") if prefix.startswith("model.") else name
        named[name if name.startswith(("__", "lm_head")) else prefix + inside] = entry
    encoded = json.dumps(named).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded + content[8 + length :])
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        assert "blk.1.ffn_down.weight" in checkpoint.tensors
        assert checkpoint.metadata["general.architecture"] == "llama"
        assert any("vision_tower" in note for note in checkpoint.notes)


def test_a_model_saved_without_its_head_is_the_same(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(golden_folder("qwen2"), tmp_path / "model"))
    for path in folder.glob("*.safetensors"):
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = content[8 : 8 + length].replace(b'"model.', b'"')
        path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace('"model.', '"'))
    with HuggingFaceCheckpoint.open(folder) as bare, HuggingFaceCheckpoint.open(golden_folder("qwen2")) as whole:
        assert bare.tensors.keys() == whole.tensors.keys()


def test_templates_and_sampling_advice_come_along(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}]})
    )
    advice = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.05}
    (folder / "generation_config.json").write_text(json.dumps(advice))
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        metadata = checkpoint.metadata
    assert metadata["tokenizer.chat_template"] == "A"
    assert metadata["tokenizer.chat_template.tool_use"] == "B"
    assert metadata["general.sampling.temp"] == 0.6
    assert metadata["general.sampling.top_k"] == 20
    assert metadata["general.sampling.penalty_repeat"] == 1.05
    (folder / "chat_template.jinja").write_text("C")
    (folder / "generation_config.json").write_text(json.dumps({**advice, "do_sample": False}))
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        assert checkpoint.metadata["tokenizer.chat_template"] == "C"
        assert checkpoint.metadata["general.sampling.temp"] == 0
        assert "general.sampling.top_k" not in checkpoint.metadata
        assert "general.sampling.penalty_repeat" in checkpoint.metadata


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"[]"),
        ("config.json", b"{"),
        ("config.json", b"\xff"),
        ("config.json", b"[" * 100_000),
        ("tokenizer_config.json", b'{"chat_template": 3}'),
        ("tokenizer_config.json", b'{"chat_template": [{"name": 1, "template": "x"}]}'),
        ("generation_config.json", b'{"temperature": "hot"}'),
        ("generation_config.json", b'{"top_p": true}'),
    ],
)
def test_damaged_json_is_refused_by_name(folder: Path, file: str, content: bytes) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(FileFormatError, match=file.replace(".", r"\.")):
        HuggingFaceCheckpoint.open(folder)


def test_a_folder_without_a_tokenizer_says_so(folder: Path) -> None:
    with (
        HuggingFaceCheckpoint.open(folder) as checkpoint,
        pytest.raises(UnsupportedModelError, match=r"tokenizer\.json"),
    ):
        checkpoint.tokenizer()
