"""What a run over HTTP found, as plain values: for tables and for JSON. `summarise` makes them of exchanges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from statistics import median

from abaci.bench.http.client import Exchange
from abaci.bench.http.generator import Run
from abaci.bench.report import Machine


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of a set of times, in seconds."""

    p50: float
    p90: float
    p99: float
    num_samples: int


@dataclass(frozen=True, slots=True)
class LoadResult:
    """How a server did under one load, all rounds together."""

    load: str
    server: str
    rounds_tokens_per_second: tuple[float, ...]
    """Tokens of answers over the time from the first request to the last answer's end; empty if not measured."""
    first_token: Latency | None
    """From a request to the first text of its answer; None if there was none."""
    inter_token: Latency | None
    """From one piece of text of an answer to its next."""
    num_requests: int
    num_errors: int
    first_error: str | None
    prompt_tokens: int
    """As the server counts them; of answers without an error."""
    cached_tokens: int
    output_tokens: int
    generator_cpu_seconds: float
    """The load generator's own processor time."""

    @property
    def tokens_per_second(self) -> float | None:
        """The median of the rounds."""
        return median(self.rounds_tokens_per_second) if self.rounds_tokens_per_second else None

    @property
    def generator_seconds_per_token(self) -> float | None:
        return self.generator_cpu_seconds / self.output_tokens if self.output_tokens else None


@dataclass(frozen=True, slots=True)
class HttpReport:
    """A whole run."""

    model: str
    num_threads: int
    machine: Machine
    servers: Mapping[str, str]
    """How each was started."""
    results: tuple[LoadResult, ...]
    """Load by load, and in each server by server, the first one first."""
    neighbours_share: float
    """Of the machine's processor time, taken by others during the loads."""
    seconds: float


def summarise(load: str, server: str, runs: Sequence[Run]) -> LoadResult:
    """All rounds of a load on a server. What happened during visits is left to `summarise_visits`."""
    good = [exchange for run in runs for exchange in run.exchanges if exchange.error is None]
    gaps = [end - begin for run in runs for begin, end in _gaps(run.exchanges) if not _is_visited(run, begin, end)]
    everyone = [exchange for run in runs for exchange in (*run.exchanges, *run.visits)]
    errors = [exchange.error for exchange in everyone if exchange.error is not None]
    return LoadResult(
        load=load,
        server=server,
        rounds_tokens_per_second=tuple(rate for run in runs if (rate := _tokens_per_second(run.exchanges))),
        first_token=latency([exchange.first_token_seconds for exchange in good if exchange.token_seconds]),
        inter_token=latency(gaps),
        num_requests=len(everyone),
        num_errors=len(errors),
        first_error=errors[0] if errors else None,
        prompt_tokens=sum(exchange.prompt_tokens for exchange in good),
        cached_tokens=sum(exchange.cached_tokens for exchange in good),
        output_tokens=sum(exchange.output_tokens for exchange in good),
        generator_cpu_seconds=sum(run.generator_cpu_seconds for run in runs),
    )


def summarise_visits(load: str, server: str, runs: Sequence[Run]) -> LoadResult:
    """The streams while visitors' prompts were computed, and the visitors' own first tokens."""
    visits = [visit for run in runs for visit in run.visits if visit.error is None]
    gaps = [end - begin for run in runs for begin, end in _gaps(run.exchanges) if _is_visited(run, begin, end)]
    return LoadResult(
        load=load,
        server=server,
        rounds_tokens_per_second=(),
        first_token=latency([visit.first_token_seconds for visit in visits]),
        inter_token=latency(gaps),
        num_requests=len(visits),
        num_errors=0,
        first_error=None,
        prompt_tokens=sum(visit.prompt_tokens for visit in visits),
        cached_tokens=sum(visit.cached_tokens for visit in visits),
        output_tokens=sum(visit.output_tokens for visit in visits),
        generator_cpu_seconds=0.0,
    )


def latency(seconds: Sequence[float]) -> Latency | None:
    """Percentiles by nearest rank: each is a time that was really seen. None of nothing."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    p50, p90, p99 = (ordered[max(0, ceil(share * len(ordered)) - 1)] for share in (0.5, 0.9, 0.99))
    return Latency(p50, p90, p99, len(ordered))


def _tokens_per_second(exchanges: Sequence[Exchange]) -> float | None:
    """None where nothing came: a server that refuses everything has no speed."""
    num_tokens = sum(exchange.output_tokens for exchange in exchanges if exchange.error is None)
    if num_tokens == 0:
        return None
    begin = min(exchange.sent_seconds for exchange in exchanges)
    return num_tokens / (max(exchange.end_seconds for exchange in exchanges) - begin)


def _gaps(exchanges: Sequence[Exchange]) -> list[tuple[float, float]]:
    """From token to token of each answer: begin and end."""
    return [gap for exchange in exchanges if exchange.error is None for gap in pairwise(exchange.token_seconds)]


def _is_visited(run: Run, begin: float, end: float) -> bool:
    """Whether a visitor's prompt was waiting or being computed at any time between."""
    return any(
        begin < visit.token_seconds[0] and visit.sent_seconds < end for visit in run.visits if visit.token_seconds
    )
