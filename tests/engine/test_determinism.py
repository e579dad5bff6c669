"""The same request gives the same bytes whatever else happens: on real weights, through the compiled kernels.

Everything is compared as bits, log-probabilities included, and counters show that what is tested took place.
"""

from contextlib import contextmanager

import pytest
from engine_answers import answers

from abaci.engine.engine import Engine, EngineConfig
from abaci.engine.loader import LoadOptions, native_backend
from abaci.engine.threads import plan_threads
from abaci.formats.gguf import GgufCheckpoint
from abaci.generation import GenerationRequest
from abaci.kernels import native
from abaci.kernels.batch import PAGE_TOKENS
from abaci.models.families import spec_from_gguf
from abaci.tensor import CacheType

PROMPT = tuple((7919 * i + 13) % 40000 + 100 for i in range(75))
SAMPLED = GenerationRequest("sampled", PROMPT, 12, temperature=0.8, top_k=50, seed=11, num_logprobs=3)
GREEDY = GenerationRequest("greedy", PROMPT, 12, temperature=0.0, num_logprobs=0, repetition_penalty=1.1)


@contextmanager
def opened(path, *, num_threads=1, max_step_tokens=512, num_pages=64, kv_type=CacheType.F16):
    """An engine with a pool of exactly that many pages."""
    options = LoadOptions(num_threads=num_threads, max_step_tokens=max_step_tokens, kv_type=kv_type)
    with GgufCheckpoint.open(path) as checkpoint:
        spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
        executor = native_backend(spec, checkpoint, options, plan_threads(num_threads)).executor
    executor.allocate_cache((num_pages,))
    config = EngineConfig(
        vocab_size=spec.vocab_size,
        context_length=num_pages * PAGE_TOKENS,
        windows=(None,),
        num_pages=(num_pages,),
        max_sequences=min(40, max_step_tokens),
        max_step_tokens=max_step_tokens,
    )
    engine = Engine(executor, config)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def alone(smollm2_path):
    """What each request gives when nothing else happens."""
    with opened(smollm2_path) as engine:
        sampled = answers(engine, SAMPLED)
    with opened(smollm2_path) as engine:
        return sampled | answers(engine, GREEDY)


def test_among_32_others(smollm2_path, alone):
    others = [GenerationRequest(f"o{i}", PROMPT[i : i + 5], 10, seed=i) for i in range(32)]
    with opened(smollm2_path, num_pages=128) as engine:
        found = answers(engine, *others[:16], SAMPLED, GREEDY, *others[16:])
        assert engine.stats().steps < 40
    assert {name: found[name] for name in alone} == alone


def test_in_chunks_of_7(smollm2_path, alone):
    with opened(smollm2_path, max_step_tokens=7) as engine:
        assert answers(engine, SAMPLED) == {"sampled": alone["sampled"]}
        assert engine.stats().prompt_chunks == 10


def test_with_the_prefix_cached(smollm2_path, alone):
    with opened(smollm2_path) as engine:
        answers(engine, GenerationRequest("before", PROMPT, 1))
        assert answers(engine, SAMPLED, GREEDY) == alone
        assert engine.stats().prefix_hit_tokens == 2 * 64


def test_preempted(smollm2_path, alone):
    older = GenerationRequest("older", PROMPT[60:0:-1], 30, seed=1)
    with opened(smollm2_path, num_pages=5) as engine:
        assert answers(engine, older, SAMPLED)["sampled"] == alone["sampled"]
        assert engine.stats().preemptions > 0


def test_on_two_threads(smollm2_path, alone):
    with opened(smollm2_path, num_threads=2) as engine:
        assert answers(engine, SAMPLED) | answers(engine, GREEDY) == alone


@pytest.mark.parametrize("target", native.targets())
def test_on_every_target(smollm2_path, alone, target, monkeypatch):
    monkeypatch.setenv(native.TARGET_VARIABLE, target)
    with opened(smollm2_path) as engine:
        assert answers(engine, SAMPLED) | answers(engine, GREEDY) == alone


def test_an_int8_cache_is_as_constant(smollm2_path, alone):
    older = GenerationRequest("older", PROMPT[60:0:-1], 30, seed=1)
    with opened(smollm2_path, kv_type=CacheType.INT8) as engine:
        whole = answers(engine, SAMPLED)
        assert answers(engine, SAMPLED, older)["sampled"] == whole["sampled"] != alone["sampled"]
        assert engine.stats().prefix_hit_tokens == 64
    with opened(smollm2_path, kv_type=CacheType.INT8, num_pages=5, num_threads=2) as engine:
        assert answers(engine, older, SAMPLED)["sampled"] == whole["sampled"]
        assert engine.stats().preemptions > 0
    with opened(smollm2_path, kv_type=CacheType.INT8, max_step_tokens=7) as engine:
        assert answers(engine, SAMPLED) == whole
        assert engine.stats().prompt_chunks == 10
