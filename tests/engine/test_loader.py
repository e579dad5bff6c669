"""From a file to answers: the committed tiny models through the whole engine, on the reference executor."""

import queue

import numpy as np
import pytest
from golden_models import GOLDEN_NAMES, golden_path, golden_sequences

from abaci.engine.loader import LoadOptions, load, reference_backend
from abaci.errors import FileFormatError, ModelNotFoundError, UsageError
from abaci.generation import GenerationRequest


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
    model = load(golden_path(name), LoadOptions(num_threads=1, max_sequences=4, max_step_tokens=7), reference_backend)
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
    whole = load(golden_path("gemma3"), LoadOptions(num_threads=1), reference_backend)
    chunked = load(
        golden_path("gemma3"), LoadOptions(num_threads=1, max_sequences=7, max_step_tokens=7), reference_backend
    )
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


def test_what_cannot_be_loaded_says_why_and_leaves_nothing_open(tmp_path):
    with pytest.raises(ModelNotFoundError):
        load(tmp_path / "absent.gguf", LoadOptions(), reference_backend)
    (tmp_path / "noise.gguf").write_bytes(b"noise" * 100)
    with pytest.raises(FileFormatError):
        load(tmp_path / "noise.gguf", LoadOptions(), reference_backend)
    with pytest.raises(UsageError, match="context of 1000000000"):
        load(golden_path("llama"), LoadOptions(context_length=10**9), reference_backend)
