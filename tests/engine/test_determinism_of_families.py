"""The same request gives the same bytes whatever else happens, for every kind of layer: tiny models, compiled kernels.

Experts see their rows in another order beside others, latents are shared between heads, states are kept and continued:
none of it may show. Real weights, and what a caller sees: test_determinism.py, tests/determinism.
"""

from contextlib import contextmanager

import pytest
from engine_answers import answers
from golden_folders import golden_folder
from golden_models import CheckpointTensors

from abaci.engine.engine import Engine, EngineConfig
from abaci.formats.huggingface import HuggingFaceCheckpoint
from abaci.generation import GenerationRequest
from abaci.kernels import native
from abaci.kernels.batch import PAGE_TOKENS
from abaci.models.families import spec_from_gguf

NAMES = (
    "qwen3_next",
    "qwen3_5_text",
    "deepseek_v3",
    "gpt_oss",
    "qwen3_moe",
    "olmo3",
    "gemma4_text",
    "gemma4_text-mixture",
)
NUM_PAGES = 64
VOCAB_SIZE = 96
"""Token ids that all of them have."""
PROMPT = tuple((7919 * i + 13) % VOCAB_SIZE for i in range(75))
SAMPLED = GenerationRequest("sampled", PROMPT, 40, temperature=0.8, top_k=50, seed=11, num_logprobs=3)


@contextmanager
def opened(name, *, target=None, num_threads=1, max_step_tokens=512, num_pages=NUM_PAGES, num_states=12):
    """An engine with pools of exactly that size."""
    with HuggingFaceCheckpoint.open(golden_folder(name)) as checkpoint:
        spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
        executor = native.NativeExecutor(
            spec,
            CheckpointTensors(checkpoint),
            max_step_tokens=max_step_tokens,
            pool=native.thread_pool(num_threads),
            target=target,
        )
    groups = spec.cache_groups()
    num_states = num_states if spec.state_layers() else 0
    executor.allocate_cache((num_pages,) * len(groups), num_states)
    engine = Engine(
        executor,
        EngineConfig(
            vocab_size=spec.vocab_size,
            context_length=num_pages * PAGE_TOKENS,
            windows=tuple(group.window for group in groups),
            num_pages=(num_pages,) * len(groups),
            max_sequences=min(40, max_step_tokens),
            max_step_tokens=max_step_tokens,
            num_states=num_states,
        ),
    )
    yield engine
    engine.close()


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def alone(name):
    """What the request gives when nothing else happens."""
    with opened(name) as engine:
        return answers(engine, SAMPLED)["sampled"]


def test_among_others(name, alone):
    others = [GenerationRequest(f"o{i}", PROMPT[i : i + 5 + i], 10, seed=i) for i in range(16)]
    with opened(name, num_threads=2, num_states=60) as engine:
        assert answers(engine, *others[:8], SAMPLED, *others[8:])["sampled"] == alone
        assert engine.stats().steps < 80


def test_in_chunks_of_7(name, alone):
    with opened(name, max_step_tokens=7) as engine:
        assert answers(engine, SAMPLED)["sampled"] == alone
        assert engine.stats().prompt_chunks >= 10


def test_with_the_prefix_cached(name, alone):
    with opened(name) as engine:
        answers(engine, GenerationRequest("before", PROMPT, 1))
        assert answers(engine, SAMPLED)["sampled"] == alone
        assert engine.stats().prefix_hit_tokens == 2 * PAGE_TOKENS


def test_a_conversation_sent_again_goes_on_where_it_ended(name, alone):
    answer = tuple(token_id for token_ids, _ in alone for token_id in token_ids)
    again = GenerationRequest("again", (*PROMPT, *answer, 5, 7), 10, temperature=0.0, num_logprobs=2)
    with opened(name) as engine:
        fresh = answers(engine, again)
    with opened(name) as engine:
        answers(engine, SAMPLED)
        assert answers(engine, again) == fresh
        assert engine.stats().prefix_hit_tokens == (len(PROMPT) + len(answer) - 1) // PAGE_TOKENS * PAGE_TOKENS


def test_preempted(name, alone):
    older = GenerationRequest("older", PROMPT[60:0:-1], 60, seed=1)
    with opened(name, num_pages=6) as engine:
        assert answers(engine, older, SAMPLED)["sampled"] == alone
        assert engine.stats().preemptions > 0


@pytest.mark.parametrize("target", native.targets())
def test_on_every_target(name, alone, target):
    with opened(name, target=target) as engine:
        assert answers(engine, SAMPLED)["sampled"] == alone
