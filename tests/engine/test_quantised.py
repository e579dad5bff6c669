"""Float weights quantised as they are loaded: the same bytes as a file quantised beforehand has."""

from pathlib import Path

import numpy as np
import pytest
from golden_folders import golden_folder
from golden_models import golden_path

from abaci.engine.loader import LoadOptions, load
from abaci.engine.quantised import QuantisedCheckpoint
from abaci.errors import UsageError
from abaci.formats.gguf import GgufCheckpoint
from abaci.formats.huggingface import HuggingFaceCheckpoint
from abaci.formats.opening import open_checkpoint
from abaci.kernels.dequantise import dequantise
from abaci.kernels.native import thread_pool
from abaci.models.mixtures import mixture_named
from abaci.quantize.quantising import plan_quantisation, write_quantised
from abaci.tensor import WeightFormat


def quantised(path: Path, name: str) -> QuantisedCheckpoint:
    return QuantisedCheckpoint(open_checkpoint(path), mixture_named(name), thread_pool(1))


@pytest.mark.parametrize("name", ["q8_0", "q4_0", "q4_k_m", "f16"])
def test_bytes_are_those_of_a_quantised_file(tmp_path: Path, name: str) -> None:
    source = golden_path("llama-float")
    with GgufCheckpoint.open(source) as checkpoint:
        plan = plan_quantisation(checkpoint, mixture_named(name))
        write_quantised(checkpoint, plan, tmp_path / "model.gguf", extra_metadata={}, pool=thread_pool(1))
    loading = quantised(source, name)
    with GgufCheckpoint.open(tmp_path / "model.gguf") as file:
        assert loading.metadata["general.file_type"] == file.metadata["general.file_type"]
        for tensor in file.tensors.values():
            found = loading.tensors[tensor.name]
            assert (found.format, found.shape, found.num_bytes) == (tensor.format, tensor.shape, tensor.num_bytes)
            assert bytes(loading.data(found)) == bytes(file.data(tensor))
    loading.close()


def test_folders_are_quantised_too() -> None:
    loading = quantised(golden_folder("llama"), "q8_0")
    tensor = loading.tensors["blk.0.attn_q.weight"]
    assert tensor.format is WeightFormat.Q8_0
    assert not loading.is_stored(tensor)
    with HuggingFaceCheckpoint.open(golden_folder("llama")) as source:
        exact = source.tensors[tensor.name]
        values = dequantise(exact.format, exact.shape, source.data(exact))
    found = dequantise(tensor.format, tensor.shape, loading.data(tensor))
    np.testing.assert_allclose(found, values, atol=np.abs(values).max() / 200)
    assert (found != values).any()
    loading.release(tensor)
    assert any("quantised to Q8_0" in note for note in loading.notes)
    loading.close()


def test_what_is_quantised_already_is_refused() -> None:
    with GgufCheckpoint.open(golden_path("qwen2")) as source, pytest.raises(UsageError, match="quantised already"):
        QuantisedCheckpoint(source, mixture_named("q8_0"), thread_pool(1))


def test_a_model_runs_with_weights_quantised_at_load() -> None:
    model = load(open_checkpoint(golden_path("llama-float")), LoadOptions(num_threads=1, quantize="q8_0"))
    try:
        assert set(model.kernels) == {"Q8_0"}
        assert model.metadata["general.file_type"] == 7
    finally:
        model.close()


def test_an_unknown_mixture_is_refused() -> None:
    with pytest.raises(UsageError, match="q9_9"):
        load(open_checkpoint(golden_path("llama-float")), LoadOptions(num_threads=1, quantize="q9_9"))
