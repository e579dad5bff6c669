"""This engine as a contender, through the doors that everyone uses: LLM, and requests to its engine."""

import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from time import perf_counter
from typing import Any

from abaci.bench.contender import FIRST_TOKEN_PROMPT, Description, PythonShare, Timing
from abaci.engine.loader import LoadedModel, LoadOptions, load
from abaci.errors import AbaciError
from abaci.formats.checkpoint import Checkpoint
from abaci.generation import GenerationRequest, SamplingParams, TokenEvent
from abaci.kernels import native  # noqa: F401  # as llama.cpp's library is with its contender: off the clock of loads
from abaci.runtime.llm import LLM
from abaci.version import __version__

_SHARE_STEPS = 128
_NO_LIMIT_SECONDS = 600.0


class AbaciContender:
    """Lives in a child process; answers in plain values (see `contender.Contender` for what the calls mean)."""

    def __init__(self) -> None:
        self._llm: LLM | None = None
        self._model: LoadedModel | None = None
        self._request_numbers = itertools.count()
        self._known_prompts: Sequence[Sequence[int]] = ()

    def open(self, path: str, num_threads: int, kv_type: str) -> dict[str, Any]:
        self._llm = LLM(path, threads=num_threads, kv_type=kv_type, loader=self._load)
        info = self._llm.info
        facts = {
            "threads": f"{info.num_threads}, {'pinned' if info.threads_pinned else 'not pinned'}",
            "kernels": ", ".join(f"{weights}: {kernel}" for weights, kernel in info.kernels.items()),
            "cache_bytes": f"{info.cache_bytes:,}",
            "cache": kv_type,
            "max_step_tokens": str(LoadOptions().max_step_tokens),
        }
        return asdict(Description(__version__, facts, self._loaded().spec.vocab_size))

    def options(self, num_streams: int, num_new_tokens: int) -> dict[str, list[int]]:
        return {}  # the same engine, whatever the work

    def configure(self, settings: dict[str, Any]) -> None:
        if settings:
            raise ValueError(f"nothing to set: {settings}")

    def prefill(self, token_ids: list[int]) -> dict[str, Any]:
        begin = perf_counter()
        recording = self._generate([token_ids], max_tokens=1, limit_seconds=_NO_LIMIT_SECONDS)
        (end,) = recording.first_seconds()
        return asdict(Timing(len(token_ids), end - begin))

    def decode(self, prompts: list[list[int]], num_tokens: int, limit_seconds: float) -> dict[str, Any]:
        if prompts != self._known_prompts:
            self._generate(prompts, max_tokens=1, limit_seconds=_NO_LIMIT_SECONDS)
            self._known_prompts = prompts
        return asdict(self._generate(prompts, max_tokens=num_tokens + 1, limit_seconds=limit_seconds).steady_timing())

    def first_token(self, path: str, num_threads: int) -> float:
        begin = perf_counter()
        with LLM(path, threads=num_threads) as llm:
            llm.generate(FIRST_TOKEN_PROMPT, SamplingParams(temperature=0.0, max_tokens=1))
            return perf_counter() - begin

    def python_share(self) -> dict[str, Any]:
        """A stream as a user reads it: the events go through the queue and the detokeniser to another thread."""
        assert self._llm is not None
        engine = self._loaded().engine
        params = SamplingParams(temperature=0.0, max_tokens=_SHARE_STEPS + 2, ignore_eos=True)
        stream = self._llm.stream(FIRST_TOKEN_PROMPT, params)
        next(stream)
        begin, before = perf_counter(), engine.stats()
        end = begin
        for _ in stream:
            end = perf_counter()
        after = engine.stats()
        return asdict(PythonShare(after.steps - before.steps, end - begin, after.step_seconds - before.step_seconds))

    def _load(self, checkpoint: Checkpoint, options: LoadOptions) -> LoadedModel:
        self._model = load(checkpoint, options)
        return self._model

    def _loaded(self) -> LoadedModel:
        assert self._model is not None
        return self._model

    def _generate(self, prompts: Sequence[Sequence[int]], *, max_tokens: int, limit_seconds: float) -> "Recording":
        engine = self._loaded().engine
        requests = [
            GenerationRequest(
                f"bench-{next(self._request_numbers)}", tuple(prompt), max_tokens=max_tokens, temperature=0.0
            )
            for prompt in prompts
        ]
        recording = Recording(len(requests))
        for request in requests:
            engine.submit(request, recording.take)
        if not recording.wait(limit_seconds):
            for request in requests:
                engine.cancel(request.request_id)
            recording.wait(_NO_LIMIT_SECONDS)
        return recording


class Recording:
    """When which stream got how many tokens. `take` is a sink: called on the engine's thread."""

    def __init__(self, num_streams: int) -> None:
        self._num_running = num_streams
        self._arrivals: dict[str, list[tuple[float, int]]] = {}
        self._error: Exception | None = None
        self._all_done = threading.Event()

    def take(self, event: TokenEvent) -> None:
        self.add(time.perf_counter(), event)

    def add(self, seconds: float, event: TokenEvent) -> None:
        """An event, and when it came."""
        if event.token_ids:
            self._arrivals.setdefault(event.request_id, []).append((seconds, len(event.token_ids)))
        self._error = self._error or event.error
        if event.finish_reason is not None:
            self._num_running -= 1
            if self._num_running == 0:
                self._all_done.set()

    def wait(self, limit_seconds: float) -> bool:
        """Whether every stream ended within the limit. Raises what stopped one."""
        is_done = self._all_done.wait(limit_seconds)
        if self._error is not None:
            raise self._error
        return is_done

    def first_seconds(self) -> list[float]:
        """When each stream got its first token."""
        return [arrivals[0][0] for arrivals in self._arrivals.values()]

    def steady_timing(self) -> Timing:
        """Whole steps between the last stream's first token and the first stream's last: all streams were in them.

        A step's events come one after another. From one token of the last stream to its next, every stream gets one.
        """
        streams = self._arrivals.values()
        first_end = min(arrivals[-1][0] for arrivals in streams)
        reference = [seconds for seconds, _ in max(streams, key=lambda arrivals: arrivals[0][0])]
        begin, end = reference[0], max([seconds for seconds in reference if seconds <= first_end], default=0.0)
        if end <= begin:
            raise AbaciError("the streams never all ran together", hint="Measure more tokens, or allow more time.")
        num_tokens = sum(count for arrivals in streams for seconds, count in arrivals if begin < seconds <= end)
        return Timing(num_tokens, end - begin)
