"""The requests whose answers must not change, and what counts as an answer. As a script: prints the answers as JSON.

python answers.py MODEL [FEATURE ...], where numpy must run without the features of the processor named.
"""

import json
import sys
from dataclasses import asdict, dataclass

import numpy as np

from abaci import LLM, SamplingParams
from abaci.kernels import native
from abaci.runtime.results import GenerationResult

PROMPT = tuple((7919 * i + 13) % 40000 + 100 for i in range(45))
REQUESTS = [
    SamplingParams(temperature=0, max_tokens=10, logprobs=2, ignore_eos=True),
    SamplingParams(temperature=0.8, top_k=50, seed=11, max_tokens=10, logprobs=2, ignore_eos=True),
    SamplingParams(
        temperature=1.3,
        top_p=0.95,
        min_p=0.01,
        seed=5,
        max_tokens=8,
        logprobs=2,
        repetition_penalty=1.1,
        ignore_eos=True,
    ),
]


@dataclass(frozen=True)
class Answer:
    """Tokens, and all log-probabilities spelled in hexadecimal: equal only if every bit is."""

    token_ids: tuple[int, ...]
    logprobs: tuple[tuple[tuple[int, str], ...], ...]


def answer_of(result: GenerationResult) -> Answer:
    assert result.error is None
    assert result.logprobs is not None
    entries = [((entry.token_id, entry.logprob), *entry.top) for entry in result.logprobs]
    return Answer(result.token_ids, tuple(tuple((i, p.hex()) for i, p in entry) for entry in entries))


def answers_alone(llm: LLM) -> list[Answer]:
    """One request after another."""
    return [answer_of(llm.generate(PROMPT, params)) for params in REQUESTS]


def main(model: str, *features: str) -> None:
    umath = np._core._multiarray_umath  # type: ignore[attr-defined]
    enabled = [name for name in features if umath.__cpu_features__[name]]
    assert not enabled, f"numpy still uses {enabled}"
    with LLM(model, context=512, threads=1) as llm:
        answers = [asdict(answer) for answer in answers_alone(llm)]
    sys.stdout.write(json.dumps({"target": native.choose_target(), "answers": answers}))


if __name__ == "__main__":
    main(*sys.argv[1:])
