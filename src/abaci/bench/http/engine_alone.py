"""The engine without a server around it: `LLM.chat` of the same conversations, all given at once.

A server's speed as a share of this is what HTTP costs. Started as `python -m abaci.bench.http.engine_alone`, it answers
calls (`bench.protocol`) in a process of its own.
"""

import os
import subprocess
import sys
from dataclasses import asdict
from time import perf_counter
from typing import Any, Self

from abaci.bench.http.client import Exchange
from abaci.bench.http.generator import Run
from abaci.bench.http.servers import Plan
from abaci.bench.http.workloads import Load
from abaci.bench.protocol import Caller, serve
from abaci.errors import AbaciError

NAME = "engine"


class EngineAlone:
    """A child process with a loaded model; a context manager, which ends it."""

    name = NAME

    def __init__(self, plan: Plan) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "abaci.bench.http.engine_alone"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._caller = Caller(self._process.stdout, self._process.stdin, self._describe_end)
        sizes = {"num_threads": plan.num_threads, "num_streams": plan.num_streams}
        try:
            self._caller.call("open", path=str(plan.model_path), **sizes)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, load: Load) -> Run:
        """Conversations of one turn each, as one exchange whose single tokens nobody saw."""
        prompts = [conversation.turns[0] for conversation in load.conversations]
        num_tokens = load.conversations[0].answer_tokens
        return Run((Exchange(**self._caller.call("run", prompts=prompts, num_tokens=num_tokens)),), (), 0.0)

    def close(self) -> None:
        """End the process. Idempotent."""
        self._process.kill()
        self._process.communicate()

    def _describe_end(self) -> AbaciError:
        return AbaciError(
            f"the process of the engine ended with code {self._process.wait()}",
            hint="Its own error stands above; where there is none, memory may have run out.",
        )


class _Child:
    def __init__(self) -> None:
        self._llm: Any = None

    def open(self, path: str, num_threads: int, num_streams: int) -> None:
        from abaci.runtime.llm import LLM

        self._llm = LLM(path, threads=num_threads, max_sequences=num_streams)
        self.run(["Hello"], 2)

    def run(self, prompts: list[str], num_tokens: int) -> dict[str, Any]:
        from abaci.generation import SamplingParams

        params = SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True)
        begin_seconds = perf_counter()
        results = self._llm.chat([[{"role": "user", "content": prompt}] for prompt in prompts], params)
        exchange = Exchange(
            sent_seconds=begin_seconds,
            token_seconds=(),
            end_seconds=perf_counter(),
            prompt_tokens=sum(result.usage.prompt_tokens for result in results),
            cached_tokens=sum(result.usage.cached_tokens for result in results),
            output_tokens=sum(result.usage.completion_tokens for result in results),
            text="",
            error=next((str(result.error) for result in results if result.error is not None), None),
        )
        return asdict(exchange)


def main() -> None:
    """Serve calls until standard input ends."""
    child = _Child()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # whatever a library prints must not land among the answers
        serve(sys.stdin, answers, {"open": child.open, "run": child.run})


if __name__ == "__main__":
    main()
