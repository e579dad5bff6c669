"""From a file to answers: the committed tiny models through the whole engine, on the reference executor."""

import queue

import numpy as np
import pytest
from golden_folders import golden_folder
from golden_models import GOLDEN_NAMES, golden_path, golden_sequences
from waiting import wait_until

from abaci.engine import loader
from abaci.engine.loader import LoadOptions, load, reference_backend
from abaci.errors import FileFormatError, ResourceError, UsageError
from abaci.formats.gguf import GgufCheckpoint, write_gguf
from abaci.formats.huggingface import HuggingFaceCheckpoint
from abaci.generation import GenerationRequest
from abaci.kernels import native
from abaci.kernels.dequantise import dequantise
from abaci.kernels.packed_store import PackedStore
from abaci.models.families import spec_from_gguf
from abaci.tensor import WeightFormat


def load_golden(name, **options):
    return load(GgufCheckpoint.open(golden_path(name)), LoadOptions(num_threads=1, **options), reference_backend)


def run(model, *requests):
    """Events of all requests, which run together."""
    heard = queue.SimpleQueue()
    for request in requests:
        model.engine.submit(request, heard.put)
    events = []
    while sum(event.finish_reason is not None for event in events) < len(requests):
        events.append(heard.get(timeout=60))
    return events


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_prompt_logprobs_are_those_of_the_original(name):
    sequence = golden_sequences(name)[0]
    token_ids = tuple(sequence.token_ids.tolist())
    model = load_golden(name, max_sequences=4, max_step_tokens=7)
    request = GenerationRequest("a", token_ids, 0, num_prompt_logprobs=2)
    (event,) = run(model, request)
    chunks = model.engine.stats().prompt_chunks
    model.close()
    assert chunks == (len(token_ids) - 1) // 7
    shifted = sequence.logits - sequence.logits.max(-1, keepdims=True).astype(np.float64)
    expected = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    given = [entry.logprob for entry in event.prompt_logprobs[1:-1]]
    wanted = expected[np.arange(len(token_ids) - 1), token_ids[1:]]
    np.testing.assert_allclose(given, wanted, atol=2e-2)
    assert set(model.kernels.values()) == {"reference"}


def test_chunks_company_and_cache_change_no_bit():
    token_ids = tuple(golden_sequences("gemma3")[0].token_ids.tolist())
    request = GenerationRequest("a", token_ids, 12, num_logprobs=3, seed=7, temperature=0.8)
    others = [GenerationRequest(f"o{i}", token_ids[i:], 9, seed=i) for i in range(1, 4)]
    whole = load_golden("gemma3")
    chunked = load_golden("gemma3", max_sequences=7, max_step_tokens=7)
    alone = run(whole, request)
    again = run(whole, request)
    among = [event for event in run(chunked, *others, request) if event.request_id == "a"]
    hits, chunks = whole.engine.stats().prefix_hit_tokens, chunked.engine.stats().prompt_chunks
    whole.close()
    chunked.close()
    assert hits > 0
    assert chunks > 0
    answers = [[(event.token_ids, event.logprobs) for event in events] for events in (alone, again, among)]
    assert answers[0] == answers[1] == answers[2]


def test_a_file_without_a_model_is_refused_and_closed(tmp_path):
    write_gguf(tmp_path / "empty.gguf", {"general.architecture": "llama"}, [])
    checkpoint = GgufCheckpoint.open(tmp_path / "empty.gguf")
    with pytest.raises(FileFormatError, match=r"llama\.block_count"):
        load(checkpoint, LoadOptions(), reference_backend)
    assert_closed(checkpoint)


def test_options_that_cannot_be_met_are_refused():
    with pytest.raises(UsageError, match="context of 1000000000"):
        load_golden("llama", context_length=10**9)


def test_a_backend_that_fails_leaves_nothing_open():
    def fail(*_):
        raise ResourceError("no memory")

    checkpoint = GgufCheckpoint.open(golden_path("llama-float"))
    with pytest.raises(ResourceError):
        load(checkpoint, LoadOptions(), fail)
    assert_closed(checkpoint)


def assert_closed(checkpoint):
    assert all(mapping.closed for mapping in checkpoint._mappings)


@pytest.mark.parametrize("target", native.targets())
def test_every_quantised_type_has_an_integer_kernel(target, monkeypatch):
    """That the kernels compute in integers, bit by bit, is shown in tests/kernels/test_matmul.py."""
    monkeypatch.setenv(native.TARGET_VARIABLE, target)
    kernels = {}
    for name in GOLDEN_NAMES:
        checkpoint = GgufCheckpoint.open(golden_path(name))
        stored = {tensor.format.label for tensor in checkpoint.tensors.values() if len(tensor.shape) == 2}
        model = load(checkpoint, LoadOptions(num_threads=1))
        model.close()
        assert set(model.kernels) == stored
        kernels |= model.kernels
    assert kernels == {
        weight_format.label: f"{target} {'int8' if weight_format.is_quantised else 'float'}"
        for weight_format in WeightFormat
        if weight_format.label in kernels
    }
    assert len(kernels) >= 11


def test_a_type_that_only_the_embedding_has_is_reported(tmp_path):
    tensors = []
    with GgufCheckpoint.open(golden_path("qwen2")) as checkpoint:
        for tensor in checkpoint.tensors.values():
            with checkpoint.data(tensor) as data:
                stored = tensor.format, data.tobytes()
                if tensor.name == "token_embd.weight":
                    values = dequantise(tensor.format, tensor.shape, data)
                    stored = WeightFormat.F16, values.astype(np.float16).tobytes()
            tensors.append((tensor.name, stored[0], tensor.shape, stored[1]))
        write_gguf(tmp_path / "model.gguf", checkpoint.metadata, tensors)
    model = load(GgufCheckpoint.open(tmp_path / "model.gguf"), LoadOptions(num_threads=1))
    model.close()
    assert model.kernels["F16"] == "rows from the file"


def test_experts_beyond_memory_stay_on_disk(monkeypatch, tmp_path):
    """A mixture need not fit as long as what a token meets does, and the disk takes the rest."""
    store = PackedStore(tmp_path, smallest_bytes=0)
    monkeypatch.setattr(loader, "packed_store", lambda: store)
    monkeypatch.setattr(loader, "available_memory_bytes", lambda: sizes.all - 1)
    with HuggingFaceCheckpoint.open(golden_folder("qwen3_moe")) as checkpoint:
        sizes = loader._weight_bytes(spec_from_gguf(checkpoint.metadata, checkpoint.tensors), checkpoint)
    assert sizes.met < sizes.all
    model = load(HuggingFaceCheckpoint.open(golden_folder("qwen3_moe")), LoadOptions(num_threads=1, cache_bytes=9_000))
    (event,) = run(model, GenerationRequest("a", (5, 6, 7), 1))
    assert len(event.token_ids) == 1
    model.close()
    wait_until(lambda: any(tmp_path.iterdir()))
    monkeypatch.setattr(loader, "packed_store", lambda: None)
    with pytest.raises(ResourceError, match="too few"):
        load(HuggingFaceCheckpoint.open(golden_folder("qwen3_moe")), LoadOptions(num_threads=1))
    full = PackedStore(tmp_path / "full", limit_bytes=0, smallest_bytes=0)
    monkeypatch.setattr(loader, "packed_store", lambda: full)
    with pytest.raises(ResourceError, match="could not be kept on disk"):
        load(HuggingFaceCheckpoint.open(golden_folder("qwen3_moe")), LoadOptions(num_threads=1))
