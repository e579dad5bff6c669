"""Ropes as folders publish them: what turns how fast, in which layers, written out by formulas; and the way back."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_folders import FOLDER_NAMES, golden_folder

from abaci.errors import FileFormatError, UnsupportedModelError
from abaci.formats.huggingface import HuggingFaceCheckpoint
from abaci.formats.publishing import publish
from abaci.kernels.dequantise import dequantise
from abaci.models.families import spec_from_gguf
from abaci.models.spec import Attention, LatentAttention, ModelSpec, Rope

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
KEPT = ("rope_theta", "partial_rotary_factor", "mrope_section", "mrope_interleaved")
WHOLE_HEADS = ("gemma3_text", "llama", "mistral", "olmo3", "qwen2", "qwen3", "smollm3")
"""Types that turn whole heads, whatever the file says."""


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """Makes a copy of a golden folder whose rope has other parameters: `kept` of the old ones and `values`."""

    def change(name: str, values: dict[str, Any], kept: tuple[str, ...] = KEPT, **outer: object) -> Path:
        folder = Path(shutil.copytree(golden_folder(name), tmp_path / "model"))
        config = json.loads((folder / "config.json").read_text())
        everywhere = config["rope_parameters"]
        place, key = (everywhere, "full_attention") if "full_attention" in everywhere else (config, "rope_parameters")
        place[key] = {old: value for old, value in place[key].items() if old in kept} | values
        (folder / "config.json").write_text(json.dumps(config | outer))
        return folder

    return change


def spec_of(folder: Path) -> ModelSpec:
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        return spec_from_gguf(checkpoint.metadata, checkpoint.tensors)


def ropes(spec: ModelSpec) -> list[tuple[Rope, int | None]]:
    """Of every layer that turns, with its window."""
    mixers = [layer.mixer for layer in spec.layers if isinstance(layer.mixer, Attention | LatentAttention)]
    return [(mixer.rope, getattr(mixer, "window", None)) for mixer in mixers if mixer.rope is not None]


def llama3_divisor(frequency: float) -> float:
    """As Llama 3.1's paper and code have it, for one pair."""
    wavelength, context = 2 * math.pi / frequency, LLAMA3["original_max_position_embeddings"]
    if wavelength < context / LLAMA3["high_freq_factor"]:
        return 1.0
    if wavelength > context / LLAMA3["low_freq_factor"]:
        return LLAMA3["factor"]
    share = (context / wavelength - LLAMA3["low_freq_factor"]) / (
        LLAMA3["high_freq_factor"] - LLAMA3["low_freq_factor"]
    )
    return 1 / ((1 - share) / LLAMA3["factor"] + share)


@pytest.mark.parametrize("name", [name for name in FOLDER_NAMES if not name.startswith(("gemma4", "phi3"))])
def test_every_type_turns_as_llama3_says(name: str, changed: Callable[..., Path]) -> None:
    folder = changed(name, LLAMA3)
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
        table = np.frombuffer(checkpoint.data(checkpoint.tensors["rope_freqs.weight"]), np.float32)
    windows_have_their_own = name.startswith(("gemma3", "olmo3"))
    stretched = {rope for rope, window in ropes(spec) if window is None or not windows_have_their_own}
    plain = {rope for rope, window in ropes(spec) if window is not None and windows_have_their_own}
    assert bool(plain) == windows_have_their_own
    assert all(rope.frequency_factors is None for rope in plain)
    (rope,) = stretched
    assert rope.frequency_factors == "rope_freqs.weight"
    assert (rope.linear_scale, rope.yarn, rope.magnitude) == (1.0, None, 1.0)
    expected = [llama3_divisor(rope.theta ** (-2 * pair / rope.dim)) for pair in range(rope.dim // 2)]
    assert max(expected) > 1
    np.testing.assert_allclose(table, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["phi3", "gemma4_text"])
def test_llama3_is_refused_by_name_where_the_original_has_it_not(name: str, changed: Callable[..., Path]) -> None:
    with pytest.raises(UnsupportedModelError, match="llama3"):
        spec_of(changed(name, LLAMA3))


@pytest.mark.parametrize("name", ["deepseek_v3", "gemma3_text", "mistral", "olmo3", "qwen2", "smollm3"])
def test_llama3_is_published_again(name: str, changed: Callable[..., Path]) -> None:
    with HuggingFaceCheckpoint.open(changed(name, LLAMA3)) as checkpoint:
        parameters = publish(checkpoint, dequantise).config["rope_parameters"]
    assert LLAMA3.items() <= parameters.get("full_attention", parameters).items()


def test_layers_of_olmo3_with_a_window_are_never_stretched(changed: Callable[..., Path]) -> None:
    linear = {"rope_type": "linear", "factor": 4.0}
    for rope, window in ropes(spec_of(changed("olmo3", linear))):
        assert rope.linear_scale == (4.0 if window is None else 1.0)


def test_a_window_of_olmo3_that_hides_nothing_still_keeps_its_rope(changed: Callable[..., Path]) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    layers = spec_of(changed("olmo3", yarn, sliding_window=4096, max_position_embeddings=256)).layers
    mixers = [layer.mixer for layer in layers if isinstance(layer.mixer, Attention)]
    assert all(mixer.window is None for mixer in mixers)
    is_stretched = [mixer.rope is not None and mixer.rope.yarn is not None for mixer in mixers]
    assert is_stretched == [(layer + 1) % 4 == 0 for layer in range(len(layers))]
    assert True in is_stretched


@pytest.mark.parametrize("name", ["gpt_oss", "qwen2-yarn"])
@pytest.mark.parametrize(
    ("published", "truncates"), [({}, True), ({"truncate": True}, True), ({"truncate": False}, False)]
)
def test_yarn_truncates_unless_the_file_says_not(
    name: str, published: dict[str, bool], truncates: bool, changed: Callable[..., Path]
) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    with HuggingFaceCheckpoint.open(changed(name, yarn | published)) as checkpoint:
        spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
        again = publish(checkpoint, dequantise).config["rope_parameters"]
    assert {rope.yarn and rope.yarn.truncate for rope, _ in ropes(spec)} == {truncates}
    assert again.get("truncate", True) is truncates


@pytest.mark.parametrize("name", WHOLE_HEADS)
def test_a_share_that_the_original_does_not_follow_is_named(name: str, changed: Callable[..., Path]) -> None:
    folder = changed(name, {"rope_type": "default", "partial_rotary_factor": 0.5})
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        assert any("partial_rotary_factor" in note for note in checkpoint.notes)
        spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
    heads = {layer.mixer.head_dim for layer in spec.layers if isinstance(layer.mixer, Attention)}
    assert {rope.dim for rope, _ in ropes(spec)} == heads


def test_a_share_outside_of_the_parameters_is_named_too(changed: Callable[..., Path]) -> None:
    folder = changed("llama", {"rope_type": "default"}, partial_rotary_factor=0.5)
    with HuggingFaceCheckpoint.open(folder) as checkpoint:
        assert any("follow: partial_rotary_factor" in note for note in checkpoint.notes)
        spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
    assert ropes(spec)[0][0].dim == spec.layers[0].mixer.head_dim


def test_a_share_of_one_is_nothing_to_tell(changed: Callable[..., Path]) -> None:
    with HuggingFaceCheckpoint.open(changed("llama", {"partial_rotary_factor": 1.0})) as checkpoint:
        assert checkpoint.notes == ()


def test_a_share_beside_a_stretch_is_refused(changed: Callable[..., Path]) -> None:
    with pytest.raises(UnsupportedModelError, match="partial_rotary_factor"):
        spec_of(changed("llama", {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}))


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_a_share_is_followed_where_the_original_does(share: float, changed: Callable[..., Path]) -> None:
    spec = spec_of(changed("glm4_moe", {"rope_type": "default", "partial_rotary_factor": share}))
    assert ropes(spec)[0][0].dim == int(share * spec.layers[0].mixer.head_dim)


def test_a_share_that_is_no_number_is_refused(changed: Callable[..., Path]) -> None:
    with pytest.raises(FileFormatError, match="partial_rotary_factor"):
        spec_of(changed("llama", {"partial_rotary_factor": "half"}))


@pytest.mark.parametrize(("context", "factors"), [(15, "short"), (16, "short"), (17, "long"), (None, "long")])
def test_factors_of_phi_follow_the_context_asked_for(context: int | None, factors: str) -> None:
    with HuggingFaceCheckpoint.open(golden_folder("phi3")) as checkpoint:
        spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors, context)
    assert {rope.frequency_factors for rope, _ in ropes(spec)} == {f"rope_factors_{factors}.weight"}
    assert len(spec.notes) == (factors == "long")
    assert all("a context of 16" in note for note in spec.notes)


@pytest.mark.parametrize("name", ["longrope", "su", "yarn"])
def test_older_names_of_phis_rope_are_understood(name: str, changed: Callable[..., Path]) -> None:
    everything = (
        "rope_theta",
        "partial_rotary_factor",
        "short_factor",
        "long_factor",
        "original_max_position_embeddings",
    )
    spec = spec_of(changed("phi3", {"rope_type": name}, kept=everything))
    assert spec == spec_of(golden_folder("phi3"))


@pytest.mark.parametrize("kind", ["linear", "dynamic", "llama3"])
def test_a_stretch_that_phi_never_has_is_refused(kind: str, changed: Callable[..., Path]) -> None:
    with pytest.raises(UnsupportedModelError, match=kind):
        spec_of(changed("phi3", LLAMA3 | {"rope_type": kind}))


@pytest.mark.parametrize(
    ("parameters", "share"),
    [
        (None, 0.25),
        ({"rope_type": "proportional"}, 1.0),
        ({"rope_type": "proportional", "partial_rotary_factor": 0.5}, 0.5),
        ({"rope_type": "default"}, 1.0),
    ],
)
def test_share_of_gemma4_that_turns(
    parameters: dict[str, Any] | None, share: float, changed: Callable[..., Path]
) -> None:
    nothing = {"rope_parameters": None} if parameters is None else {}
    with HuggingFaceCheckpoint.open(changed("gemma4_text", parameters or {}, kept=(), **nothing)) as checkpoint:
        factors = np.frombuffer(checkpoint.data(checkpoint.tensors["rope_freqs.weight"]), np.float32)
    turning = int(share * len(factors))
    assert (factors[:turning] == 1).all()
    assert (factors[turning:] > 1e20).all()
