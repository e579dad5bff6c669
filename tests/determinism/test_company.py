"""What a caller of LLM sees stays the same, to the bit, whatever runs beside it: on real weights.

What else the engine may do to a request (chunks, cache, preemption, threads, targets): engine/test_determinism.py.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from answers import PROMPT, REQUESTS, Answer, answer_of, answers_alone

from abaci import LLM, SamplingParams
from abaci.engine.loader import LoadedModel, LoadOptions, load
from abaci.formats.gguf import GgufCheckpoint
from abaci.generation import GenerationRequest, TokenEvent
from abaci.kernels import native


@pytest.fixture(scope="module")
def llm(smollm2_path: Path) -> Iterator[LLM]:
    with LLM(smollm2_path, context=512, threads=1) as llm:
        yield llm


@pytest.fixture(scope="module")
def alone(llm: LLM) -> list[Answer]:
    return answers_alone(llm)


def test_the_samplers_give_different_answers(alone: list[Answer]) -> None:
    assert len({answer.token_ids for answer in alone}) == len(REQUESTS)
    assert all(len(answer.logprobs) == len(answer.token_ids) > 0 for answer in alone)


def test_among_32_others_of_all_kinds(llm: LLM, alone: list[Answer]) -> None:
    others = [
        SamplingParams(
            max_tokens=2 + index % 11,
            seed=index,
            temperature=(0, 0.7, 1.5)[index % 3],
            top_k=None if index % 2 else 20,
            top_p=(1.0, 0.9)[index % 2],
            repetition_penalty=(1.0, 1.2)[index // 2 % 2],
            logprobs=(None, 5)[index // 3 % 2],
            ignore_eos=True,
        )
        for index in range(32)
    ]
    prompts = [PROMPT[: 3 + 2 * index] for index in range(32)]
    for place in (0, 13, 32):
        results = llm.generate(
            [*prompts[:place], *[PROMPT] * len(REQUESTS), *prompts[place:]],
            [*others[:place], *REQUESTS, *others[place:]],
        )
        assert [answer_of(result) for result in results[place : place + len(REQUESTS)]] == alone, place


def test_beside_another_model_at_work(smollm2_path: Path, alone: list[Answer]) -> None:
    """Two models share the threads of one pool, and keep out of each other's numbers."""
    spans: dict[str, tuple[float, float]] = {}
    found: dict[str, list[Answer]] = {}
    start = threading.Barrier(2)

    def work(name: str, model: LLM) -> None:
        start.wait()
        begin = time.perf_counter()
        found[name] = answers_alone(model)
        spans[name] = (begin, time.perf_counter())

    with LLM(smollm2_path, context=512, threads=2) as one, LLM(smollm2_path, context=512, threads=2) as other:
        threads = [threading.Thread(target=work, args=pair) for pair in (("one", one), ("other", other))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {"one": alone, "other": alone}
    assert max(begin for begin, _ in spans.values()) < min(end for _, end in spans.values())


def numpy_features() -> list[str]:
    """Those of this processor's features that numpy uses and lets one disable."""
    umath = np._core._multiarray_umath  # type: ignore[attr-defined]
    return [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__[name]]


@pytest.mark.parametrize("target", native.targets()[:2])  # the portable one would take half a minute
def test_whatever_numpy_runs_on(smollm2_path: Path, alone: list[Answer], target: str) -> None:
    """In a process whose numpy uses no more than it must, and where the kernels are another processor's."""
    features = numpy_features()
    assert features
    environment = os.environ | {
        "NPY_DISABLE_CPU_FEATURES": " ".join(features),
        native.TARGET_VARIABLE: target,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    script = Path(__file__).parent / "answers.py"
    process = subprocess.run(
        [sys.executable, script, smollm2_path, *features], env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    expected = json.loads(json.dumps([asdict(answer) for answer in alone]))
    assert json.loads(process.stdout) == {"target": target, "answers": expected}


@pytest.fixture
def loaded(smollm2_path: Path) -> Iterator[LoadedModel]:
    model = load(GgufCheckpoint.open(smollm2_path), LoadOptions(context_length=512, num_threads=1))
    yield model
    model.close()


def test_who_comes_late_is_served_at_once(loaded: LoadedModel) -> None:
    running = GenerationRequest("running", PROMPT, 40, temperature=0.9, seed=3, num_logprobs=2)
    late = GenerationRequest("late", PROMPT[::-1], 5, temperature=0.0, num_logprobs=2)
    together = _events(loaded, running, late, after=4)
    names = [event.request_id for event in together]
    last_of_running = max(index for index, name in enumerate(names) if name == "running")
    assert names.index("late") < last_of_running
    assert names.count("running") > 20
    for request in (running, late):
        by_itself = _events(loaded, request)
        assert _tokens(by_itself, request) == _tokens(together, request)


def _events(
    model: LoadedModel, first: GenerationRequest, *others: GenerationRequest, after: int = 0
) -> list[TokenEvent]:
    """All events in the order of their arrival; the others are submitted after some of the first one's."""
    heard: queue.SimpleQueue[TokenEvent] = queue.SimpleQueue()
    model.engine.submit(first, heard.put)
    events = [heard.get(timeout=60) for _ in range(after)]
    for other in others:
        model.engine.submit(other, heard.put)
    while sum(event.finish_reason is not None for event in events) <= len(others):
        events.append(heard.get(timeout=60))
    return events


def _tokens(events: list[TokenEvent], request: GenerationRequest) -> list[object]:
    return [(event.token_ids, event.logprobs) for event in events if event.request_id == request.request_id]
