"""The suite over HTTP: every server under the same loads, in turns, the others stopped meanwhile.

A round gives each server the same requests, and the next round other ones, so that no prefix cache knows them but where
that is what is measured.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from time import perf_counter
from typing import Protocol

from abaci.bench.http import engine_alone
from abaci.bench.http.engine_alone import EngineAlone
from abaci.bench.http.generator import Run
from abaci.bench.http.report import HttpReport, LoadResult, summarise, summarise_visits
from abaci.bench.http.servers import OWN_NAME, Plan, ServerProcess, launch_of
from abaci.bench.http.text import CountTokens, PromptWriter
from abaci.bench.http.workloads import Arrivals, Load, Prefix, Streams, Turns, Visits, Workload
from abaci.bench.machine import describe_machine
from abaci.bench.process import Neighbours
from abaci.formats.gguf import GgufCheckpoint
from abaci.formats.tokenizer import Tokenizer

Tell = Callable[[str], None]
"""Takes a line on what is being done."""

_WARM_UP = Streams(num_streams=2, num_requests=2, answer_tokens=4)


class Kind(StrEnum):
    """Loads to choose from."""

    STREAMS = "streams"
    ARRIVALS = "arrivals"
    PREFIX = "prefix"
    TURNS = "turns"
    VISITS = "visits"


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    num_streams: int
    requests_per_second: float
    rounds: int
    kinds: tuple[Kind, ...]
    is_quick: bool

    def workloads(self) -> list[Workload]:
        """In the order they are run."""
        made: dict[Kind, list[Workload]] = {
            Kind.STREAMS: self._streams(),
            Kind.ARRIVALS: [Arrivals(self.requests_per_second, 6 if self.is_quick else 24, 48)],
            Kind.PREFIX: [Prefix(1500, 2 if self.is_quick else 5, 8, is_shared) for is_shared in (False, True)],
            Kind.TURNS: [Turns(4, 2 if self.is_quick else 4, 48)],
            Kind.VISITS: self._visits(),
        }
        return [workload for kind in self.kinds for workload in made[kind]]

    def _streams(self) -> list[Workload]:
        per_stream = 1 if self.is_quick else 2
        return [Streams(self.num_streams, self.num_streams * per_stream, 32 if self.is_quick else 64)]

    def _visits(self) -> list[Workload]:
        times = (2.0,) if self.is_quick else (3.0, 9.0)
        return [Visits(8, 96 if self.is_quick else 320, 2000, times)]


class Contestant(Protocol):
    """Who can be put under a load: a server, or the engine without one. Idle, and taking no time, between loads."""

    @property
    def name(self) -> str:
        """As tables show it."""

    def run(self, load: Load) -> Run:
        """Hold the load's conversations."""


def compare_servers(model: str, names: Sequence[str], plan: Plan, extent: Extent, *, tell: Tell) -> HttpReport:
    """Measure this server and those of `names`. Raises AbaciError where one of them does not start."""
    begin = perf_counter()
    machine = describe_machine()
    count_tokens = _counter(plan.model_path)
    with ExitStack() as stack:
        state_folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="abaci-bench-")))
        contestants: list[Contestant] = []
        described = {}
        for name in (OWN_NAME, *names):
            tell(f"{name}: starting")
            if name == engine_alone.NAME:
                described[name] = "LLM.chat of the same conversations, no server"
                contestants.append(stack.enter_context(EngineAlone(plan)))
                continue
            launch = launch_of(name, plan, state_folder)
            described[name] = launch.describe()
            contestants.append(stack.enter_context(ServerProcess(launch)))
        neighbours = Neighbours()
        results = list(measure(contestants, extent.workloads(), extent.rounds, count_tokens, tell))
        neighbours_share = neighbours.share()
    return HttpReport(
        model=model,
        num_threads=plan.num_threads,
        machine=machine,
        servers=described,
        results=tuple(results),
        neighbours_share=neighbours_share,
        seconds=perf_counter() - begin,
    )


def measure(
    contestants: Sequence[Contestant], workloads: Sequence[Workload], rounds: int, count_tokens: CountTokens, tell: Tell
) -> Iterator[LoadResult]:
    """Load by load, each contestant in turn; before the first, a few requests that nobody looks at."""
    for contestant in contestants:
        contestant.run(_WARM_UP.load(PromptWriter(count_tokens, "warm-up")))
    for workload in workloads:
        taking_part = [one for one in contestants if one.name != engine_alone.NAME or isinstance(workload, Streams)]
        runs: dict[str, list[Run]] = {contestant.name: [] for contestant in taking_part}
        for number in range(rounds):
            load = workload.load(PromptWriter(count_tokens, f"{workload.name}, round {number}"))
            for contestant in taking_part:
                tell(f"{contestant.name}: {workload.name}, {number + 1} of {rounds}")
                runs[contestant.name].append(contestant.run(load))
        yield from (summarise(workload.name, name, held) for name, held in runs.items())
        if isinstance(workload, Visits):
            title = f"... while a prompt of {workload.visitor_tokens:,} tokens is computed"
            yield from (summarise_visits(title, name, held) for name, held in runs.items())


def _counter(path: Path) -> CountTokens:
    with GgufCheckpoint.open(path) as checkpoint:
        tokenizer = Tokenizer.from_gguf(checkpoint.metadata)
    return lambda text: len(tokenizer.encode(text, add_bos=False))
