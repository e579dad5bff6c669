"""Prometheus metrics: vLLM's names, labels and buckets under our prefix, and a few that only a CPU has.

Counters and histograms are written by the server as requests go by; what an engine knows is read when somebody asks.
"""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from abaci.chat.served import ServedModel
from abaci.generation import FinishReason
from abaci.server.histogram import Observations, TokenHistogram
from abaci.version import __version__

if TYPE_CHECKING:
    from abaci.server.generating import RequestRecord

PREFIX = "abaci_"
VLLM_PREFIX = "vllm:"

_LABELS: Final = ("model_name", "engine")
_ENGINE: Final = "0"
"""vLLM numbers its engines; a model here has one."""

_LATENCY: Final = "inter_token_latency_seconds"
_OLDER_LATENCY: Final = "time_per_output_token_seconds"
"""vLLM's earlier name of it, which dashboards still ask for: exported as a copy."""

_FIRST_TOKEN_SECONDS: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_NEXT_TOKEN_SECONDS: Final = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_REQUEST_SECONDS: Final = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0),
    *(1920.0, 7680.0),
)
_TOKENS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000)
_SAMPLES: Final = (1, 2, 5, 10, 20)
_DELIVERY_SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256)


@dataclass(frozen=True, slots=True)
class TokenTimes:
    """Where seconds of one model's tokens are counted."""

    first: Observations
    """From a request's arrival to its first token."""
    next: Observations
    """From one token of a sample to the next."""
    delivery: Observations
    """From the engine's commit to the bytes on the socket."""


class Metrics:
    """The metrics of one server. Written on the event loop."""

    def __init__(
        self, loaded: Callable[[], Sequence[ServedModel]], memory_read_bytes_per_second: float | None = None
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(loaded, memory_read_bytes_per_second))
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts, cached ones included.")
        self._success = self._counter("request_success", "Requests that ended, by reason.", "finished_reason")
        self._rejections = self._counter("admission_rejections", "Requests refused before they ran.", "reason")
        self._first_token = self._token_histogram(
            "time_to_first_token_seconds", "From arrival to the first token.", _FIRST_TOKEN_SECONDS
        )
        self._next_token = self._token_histogram(
            _LATENCY, "From one token of a sample to the next.", _NEXT_TOKEN_SECONDS
        )
        self._delivery = self._token_histogram(
            "event_delivery_seconds",
            "From the engine's commit of a token to its bytes being handed to the socket.",
            _DELIVERY_SECONDS,
            labels=(),
        )
        self._whole = self._histogram("e2e_request_latency_seconds", "From arrival to the end.", _REQUEST_SECONDS)
        self._queued = self._histogram("request_queue_time_seconds", "Waiting to be scheduled.", _REQUEST_SECONDS)
        self._running = self._histogram("request_inference_time_seconds", "Prefill and decode.", _REQUEST_SECONDS)
        self._prefill = self._histogram("request_prefill_time_seconds", "Computing the prompt.", _REQUEST_SECONDS)
        self._decode = self._histogram("request_decode_time_seconds", "First to last token.", _REQUEST_SECONDS)
        self._request_prompt = self._histogram("request_prompt_tokens", "Tokens of a prompt.", _TOKENS)
        self._request_output = self._histogram("request_generation_tokens", "Tokens of an answer.", _TOKENS)
        self._request_max = self._histogram("request_params_max_tokens", "max_tokens of a request.", _TOKENS)
        self._request_samples = self._histogram("request_params_n", "Samples of a request.", _SAMPLES)

    def token_times(self, model: ServedModel) -> TokenTimes:
        """Where the times of one call's tokens go."""
        labels = (model.status.name, _ENGINE)
        return TokenTimes(self._first_token.labels(*labels), self._next_token.labels(*labels), self._delivery.labels())

    def rejected(self, model_name: str, reason: str) -> None:
        """A request was refused before it ran."""
        self._rejections.labels(model_name, _ENGINE, reason).inc()

    def finished(self, model: ServedModel, record: "RequestRecord") -> None:
        """A request has ended, however."""
        labels = (model.status.name, _ENGINE)
        self._prompt_tokens.labels(*labels).inc(record.prompt_tokens)
        for reason in record.finish_reasons or [FinishReason.CANCELLED]:
            self._success.labels(*labels, _REASONS.get(reason, reason.value)).inc()
        self._request_prompt.labels(*labels).observe(record.prompt_tokens)
        self._request_output.labels(*labels).observe(record.completion_tokens)
        self._request_max.labels(*labels).observe(record.request.max_tokens)
        self._request_samples.labels(*labels).observe(record.request.num_samples)
        if not record.last_seconds:
            return
        self._whole.labels(*labels).observe(record.last_seconds - record.arrival_seconds)
        first = record.last_seconds if record.first_seconds is None else record.first_seconds
        self._decode.labels(*labels).observe(record.last_seconds - first)
        if record.scheduled_seconds is not None:
            self._queued.labels(*labels).observe(max(0.0, record.scheduled_seconds - record.arrival_seconds))
            self._prefill.labels(*labels).observe(max(0.0, first - record.scheduled_seconds))
            self._running.labels(*labels).observe(max(0.0, record.last_seconds - record.scheduled_seconds))

    def exposition(self, *, with_vllm_names: bool = False) -> bytes:
        """Everything in Prometheus' text format."""
        text = generate_latest(self._registry)
        older = b"".join(line + b"\n" for line in text.splitlines() if _LATENCY.encode() in line)
        text += older.replace(_LATENCY.encode(), _OLDER_LATENCY.encode())
        return text + _renamed(text) if with_vllm_names else text

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, description, (*_LABELS, *labels), registry=self._registry)

    def _token_histogram(
        self, name: str, description: str, bounds: Sequence[float], labels: Sequence[str] = _LABELS
    ) -> TokenHistogram:
        histogram = TokenHistogram(PREFIX + name, description, bounds, labels)
        self._registry.register(histogram)
        return histogram

    def _histogram(self, name: str, description: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(PREFIX + name, description, _LABELS, buckets=buckets, registry=self._registry)


_REASONS: Final = {FinishReason.CANCELLED: "abort"}


class _EngineCollector(Collector):
    """Reads the engines' own counters when a scrape comes."""

    def __init__(self, loaded: Callable[[], Sequence[ServedModel]], memory_read_bytes_per_second: float | None) -> None:
        self._loaded = loaded
        self._memory_read = memory_read_bytes_per_second

    def collect(self) -> Iterable[Metric]:
        gauges = {name: GaugeMetricFamily(PREFIX + name, text, labels=_LABELS) for name, text in _ENGINE_GAUGES.items()}
        counters = {
            name: CounterMetricFamily(PREFIX + name, text, labels=_LABELS) for name, text in _ENGINE_COUNTERS.items()
        }
        kernels = InfoMetricFamily(f"{PREFIX}kernel", "Which kernel runs a weight type.", labels=_LABELS)
        for model in self._loaded():
            figures, labels = model.figures(), (model.status.name, _ENGINE)
            read = figures.weight_bytes * figures.steps / figures.step_seconds if figures.step_seconds else 0.0
            values = {
                "num_requests_running": figures.num_running,
                "num_requests_waiting": figures.num_waiting,
                "kv_cache_usage_perc": figures.cache_used_fraction,
                "kv_cache_tokens": figures.cache_tokens,
                "cpu_threads_used": figures.num_threads,
                "cpu_cores_allowed": len(os.sched_getaffinity(0)),
                "weight_read_bytes_per_second": read,
            }
            if self._memory_read:
                values["memory_bandwidth_share"] = read / self._memory_read
            for name, value in values.items():
                gauges[name].add_metric(labels, value)
            totals = {
                "prefix_cache_queries": figures.prefix_query_tokens,
                "prefix_cache_hits": figures.prefix_hit_tokens,
                "num_preemptions": figures.preemptions,
                "iteration_tokens": figures.computed_tokens,
                "generation_tokens": figures.generated_tokens,
                "engine_steps": figures.steps,
                "engine_step_seconds": figures.step_seconds,
            }
            for name, total in totals.items():
                counters[name].add_metric(labels, total)
            for weight_type, kernel in figures.kernels.items():
                kernels.add_metric(labels, {"weight_type": weight_type, "kernel": kernel})
        build = InfoMetricFamily(f"{PREFIX}build", "This server.", value={"version": __version__})
        return [*gauges.values(), *counters.values(), kernels, build]


_ENGINE_GAUGES: Final = {
    "num_requests_running": "Sequences in the running batch.",
    "num_requests_waiting": "Sequences waiting to run.",
    "kv_cache_usage_perc": "Share of the KV cache's pages that sequences hold, 0 to 1.",
    "kv_cache_tokens": "Tokens the KV cache holds at most.",
    "cpu_threads_used": "Threads that compute.",
    "cpu_cores_allowed": "Cores that this process may run on.",
    "weight_read_bytes_per_second": "Weights times steps over the seconds spent in steps.",
    "memory_bandwidth_share": "That, over the memory read bandwidth measured at the start.",
}
_ENGINE_COUNTERS: Final = {
    "prefix_cache_queries": "Prompt tokens looked up in the prefix cache.",
    "prefix_cache_hits": "Prompt tokens found there.",
    "num_preemptions": "Sequences that gave way for lack of pages.",
    "iteration_tokens": "Tokens computed in all steps.",
    "generation_tokens": "Tokens generated.",
    "engine_steps": "Steps.",
    "engine_step_seconds": "Seconds spent in them.",
}

_OURS = re.compile(rf"^(# (?:HELP|TYPE) )?{PREFIX}".encode(), re.MULTILINE)


def _renamed(text: bytes) -> bytes:
    return _OURS.sub(rb"\g<1>" + VLLM_PREFIX.encode(), text)
