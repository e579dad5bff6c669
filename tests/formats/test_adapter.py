"""Adapters that are damaged, of another kind or of another model: each is refused with what, where and what to do."""

import json
from pathlib import Path

import numpy as np
import pytest
from adapter_files import RandomAdapter, opened_with, random_adapter
from golden_folders import golden_folder
from golden_models import golden_path

from abaci.errors import AbaciError, FileFormatError, ModelNotFoundError, UnsupportedModelError, UsageError
from abaci.formats.adapter import LoraChoice
from abaci.formats.gguf import GgufCheckpoint
from abaci.formats.safetensors import write_safetensors
from abaci.formats.weight_arrays import as_bytes
from abaci.models.families import spec_from_gguf
from abaci.tensor import WeightFormat

BASE = golden_path("llama-float")
TARGET = "blk.0.attn_q.weight"


def refusal(path: Path, base: Path = BASE, scale: float = 1.0) -> AbaciError:
    with pytest.raises(AbaciError) as caught:
        opened_with(base, [LoraChoice(path, scale)])
    assert caught.value.hint
    return caught.value


def one_pair(down: tuple[int, int] = (4, 64), up: tuple[int, int] = (64, 4), target: str = TARGET) -> RandomAdapter:
    pair = np.zeros(down, np.float32), np.zeros(up, np.float32)
    return RandomAdapter("llama", 8.0, WeightFormat.F32, {target: pair})


@pytest.mark.parametrize(
    ("metadata", "kind", "complaint"),
    [
        ({"general.type": "model"}, FileFormatError, "not an adapter: general.type is 'model'"),
        ({"general.type": None}, FileFormatError, "general.type is None"),
        ({"adapter.type": "dora"}, UnsupportedModelError, "adapter.type is 'dora'"),
        ({"general.architecture": "qwen2"}, UsageError, "architecture 'qwen2'; the model's is 'llama'"),
        ({"adapter.lora.alpha": -1.0}, FileFormatError, "adapter.lora.alpha is -1.0"),
        ({"adapter.lora.alpha": False}, FileFormatError, "adapter.lora.alpha is False"),
        ({"adapter.lora.alpha": float("nan")}, FileFormatError, "alpha is nan"),
        ({"adapter.lora.alpha": "16"}, FileFormatError, "alpha is '16'"),
        ({"adapter.alora.invocation_tokens": [1, 2]}, UnsupportedModelError, "adapter.alora.invocation_tokens"),
    ],
)
def test_files_of_another_kind(tmp_path: Path, metadata: dict, kind: type, complaint: str) -> None:
    path = one_pair().write(tmp_path / "a.gguf", **metadata)
    error = refusal(path)
    assert type(error) is kind
    assert complaint in error.message
    assert str(path) in error.message


@pytest.mark.parametrize(
    ("adapter", "kind", "complaint"),
    [
        (one_pair(up=(64, 5)), FileFormatError, "rank 4"),
        (one_pair(down=(4, 32)), UsageError, r"(64, 32); the model's has (64, 64)"),
        (one_pair(up=(96, 4)), UsageError, r"(96, 64); the model's has (64, 64)"),
        (one_pair(target="blk.77.attn_q.weight"), UsageError, "blk.77.attn_q.weight, which the model does not have"),
        (one_pair(target="token_embd.weight"), UnsupportedModelError, "token_embd.weight; only matrices of layers"),
    ],
)
def test_adapters_of_another_model(tmp_path: Path, adapter: RandomAdapter, kind: type, complaint: str) -> None:
    error = refusal(adapter.write(tmp_path / "a.gguf"))
    assert type(error) is kind
    assert complaint in error.message


def test_experts_are_refused_by_name(tmp_path: Path) -> None:
    base = golden_folder("qwen3_moe")
    adapter = RandomAdapter("qwen3moe", 8.0, WeightFormat.F32, one_pair(target="blk.0.ffn_up_exps.weight").pairs)
    assert "blk.0.ffn_up_exps.weight" in refusal(adapter.write(tmp_path / "a.gguf"), base).message


def test_a_half_alone_and_other_tensors(tmp_path: Path) -> None:
    from abaci.formats.gguf import write_gguf

    keys = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}
    half = np.zeros((4, 64), np.float32)
    for name, complaint in (
        (f"{TARGET}.lora_a", f"{TARGET}.lora_b is missing"),
        (f"{TARGET}.lora_b", f"{TARGET}.lora_a is missing"),
        ("blk.0.attn_norm.weight", "no low-rank updates: blk.0.attn_norm.weight"),
    ):
        tensors = [(name, WeightFormat.F32, half.shape, as_bytes(half))]
        write_gguf(tmp_path / "a.gguf", keys | {"adapter.lora.alpha": 8.0}, tensors)
        assert complaint in refusal(tmp_path / "a.gguf").message
    write_gguf(tmp_path / "a.gguf", keys | {"adapter.lora.alpha": 8.0}, [])
    assert "empty" in refusal(tmp_path / "a.gguf").message


def test_scales(tmp_path: Path) -> None:
    path = one_pair().write(tmp_path / "a=b.gguf")
    assert LoraChoice.from_text(str(path)) == LoraChoice(path)
    assert LoraChoice.from_text(f"{path}=0.5") == LoraChoice(path, 0.5)
    assert LoraChoice.from_text("x.gguf=-2") == LoraChoice(Path("x.gguf"), -2.0)
    for text in ("x.gguf=half", "x.gguf=nan", "x.gguf=inf"):
        with pytest.raises(UsageError, match=r"x\.gguf"):
            LoraChoice.from_text(text)
    assert isinstance(refusal(path, scale=float("inf")), UsageError)
    with pytest.raises(ModelNotFoundError):
        opened_with(BASE, [LoraChoice(tmp_path / "none.gguf")])


@pytest.mark.parametrize(("alpha", "factor"), [(8.0, 6.0), (None, 3.0), (0.0, 3.0), (0, 3.0)])
def test_without_alpha_the_rank_does_not_count(alpha: float | None, factor: float, tmp_path: Path) -> None:
    path = one_pair().write(tmp_path / "a.gguf", **{"adapter.lora.alpha": alpha})
    spec, checkpoint = opened_with(BASE, [LoraChoice(path, 3.0)])
    checkpoint.close()
    (low_rank,) = spec.low_ranks()
    assert low_rank.scale == factor


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    path = random_adapter(BASE).write(tmp_path / "a.gguf")
    with GgufCheckpoint.open(path) as file, pytest.raises(UnsupportedModelError, match="no model by itself") as caught:
        spec_from_gguf(file.metadata, file.tensors)
    assert "--lora" in (caught.value.hint or "")


def test_what_an_adapter_expects_is_said(tmp_path: Path) -> None:
    path = one_pair().write(tmp_path / "a.gguf", **{"adapter.lora.prompt_prefix": "Law:"})
    _, checkpoint = opened_with(BASE, [LoraChoice(path)])
    assert any("'Law:'" in note for note in checkpoint.notes)
    checkpoint.close()


def peft_folder(folder: Path, names: tuple[str, ...] | None = None, **config: object) -> Path:
    folder.mkdir()
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    names = names or (f"{module}.lora_A.weight", f"{module}.lora_B.weight")
    shapes = [(4, 64) if ".lora_A." in name else (64, 4) for name in names]
    write_safetensors(
        folder / "adapter_model.safetensors",
        [(name, "F32", shape, [bytes(4 * 4 * 64)]) for name, shape in zip(names, shapes, strict=True)],
    )
    settings = {key: value for key, value in ({"peft_type": "LORA", "lora_alpha": 8} | config).items() if value != "-"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"peft_type": "IA3"}, "peft_type = 'IA3'"),
        ({"use_dora": True}, "use_dora = True"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"lora_alpha": "-"}, "lora_alpha is None"),
        ({"lora_alpha": -1}, "lora_alpha is -1"),
        ({"use_rslora": "yes"}, "use_rslora = 'yes'"),
        ({"alpha_pattern": {"(q|v)_proj": 4}}, "only names of modules"),
        ({"alpha_pattern": {"q_proj": 0}}, "alpha_pattern of q_proj is 0"),
        ({"alpha_pattern": [1]}, "alpha_pattern is not an object"),
    ],
)
def test_peft_settings_that_change_the_mathematics(tmp_path: Path, config: dict, complaint: str) -> None:
    error = refusal(peft_folder(tmp_path / "adapter", **config))
    assert complaint in error.message
    assert "adapter" in error.message


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",), "lora_b is missing"),
        (("base_model.model.lm_head.weight",), "lm_head.weight"),
        (("base_model.model.model.layers.0.self_attn.w_proj.lora_A.weight",), "self_attn.w_proj"),
    ],
)
def test_peft_tensors_that_do_not_fit(tmp_path: Path, names: tuple[str, ...], complaint: str) -> None:
    assert complaint in refusal(peft_folder(tmp_path / "adapter", names)).message


def test_peft_factors(tmp_path: Path) -> None:
    factors = []
    for i, config in enumerate(
        ({}, {"use_rslora": True}, {"alpha_pattern": {"self_attn.q_proj": 2}}, {"alpha_pattern": {"proj": 2}})
    ):
        spec, checkpoint = opened_with(BASE, [LoraChoice(peft_folder(tmp_path / str(i), **config), 3.0)])
        checkpoint.close()
        (low_rank,) = spec.low_ranks()
        factors.append(low_rank.scale)
    assert factors == [6.0, 12.0, 1.5, 6.0]


def test_peft_folders_without_weights(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 8}')
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80")
    assert "pickle" in refusal(tmp_path).message
    empty = tmp_path / "empty"
    empty.mkdir()
    assert isinstance(refusal(empty), ModelNotFoundError)


def test_unknown_peft_settings_are_named(tmp_path: Path) -> None:
    _, checkpoint = opened_with(BASE, [LoraChoice(peft_folder(tmp_path / "adapter", novelty=3))])
    assert any("novelty" in note for note in checkpoint.notes)
    checkpoint.close()
