"""OpenTelemetry spans, one per generation request, under vLLM's attribute names. Only there when an endpoint is set.

A span is written when its request has ended, from the times that were noted on the way: nothing is on the hot path.
"""

import time
from contextvars import ContextVar
from time import perf_counter
from typing import TYPE_CHECKING, Any

from abaci.chat.served import ServedModel
from abaci.errors import UsageError
from abaci.version import __version__

if TYPE_CHECKING:
    from abaci.server.generating import RequestRecord

TRACE_PARENT: ContextVar[str | None] = ContextVar("trace_parent", default=None)
"""The `traceparent` header of the HTTP call being answered (W3C Trace Context), set by the guard."""


class Traces:
    """Sends spans to an OTLP collector over HTTP. Raises UsageError where the OpenTelemetry packages are missing."""

    def __init__(self, endpoint: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise UsageError(
                "otlp_endpoint needs the OpenTelemetry packages", hint="Install it: pip install 'abaci[traces]'"
            ) from error
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "abaci", "service.version": __version__})
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
        self._tracer = self._provider.get_tracer("abaci.server")

    def finished(self, model: ServedModel, record: "RequestRecord") -> None:
        """Write the span of a request that has ended."""
        epoch = time.time() - perf_counter()
        span = self._tracer.start_span(
            "llm_request",
            context=_context(record.trace_parent),
            start_time=_nanoseconds(epoch + record.arrival_seconds),
            attributes=_attributes(model, record),
        )
        end = max(record.last_seconds, record.arrival_seconds)
        span.end(_nanoseconds(epoch + end))

    def close(self) -> None:
        """Send what is still to be sent."""
        self._provider.shutdown()


def _context(trace_parent: str | None) -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({} if trace_parent is None else {"traceparent": trace_parent})


def _attributes(model: ServedModel, record: "RequestRecord") -> dict[str, Any]:
    request = record.request
    attributes: dict[str, Any] = {
        "gen_ai.response.model": model.status.name,
        "gen_ai.request.id": request.request_id,
        "gen_ai.request.temperature": request.temperature,
        "gen_ai.request.top_p": request.top_p,
        "gen_ai.request.max_tokens": request.max_tokens,
        "gen_ai.request.n": request.num_samples,
        "gen_ai.usage.prompt_tokens": record.prompt_tokens,
        "gen_ai.usage.completion_tokens": record.completion_tokens,
        "gen_ai.usage.cached_tokens": record.cached_tokens,
        "gen_ai.response.finish_reasons": [str(reason) for reason in record.finish_reasons],
        "gen_ai.latency.e2e": max(0.0, record.last_seconds - record.arrival_seconds),
    }
    if record.first_seconds is not None:
        attributes["gen_ai.latency.time_to_first_token"] = record.first_seconds - record.arrival_seconds
    if record.scheduled_seconds is not None:
        attributes["gen_ai.latency.time_in_queue"] = max(0.0, record.scheduled_seconds - record.arrival_seconds)
    return attributes


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
