"""A server that plays the API from a script, so that the pages are tested without a model.

What the last message says decides what happens: see `_ANSWERS`. The pages themselves come from `web_routes`.
"""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from abaci.errors import AbaciError, AuthenticationError, ContextLengthError
from abaci.server.web import web_routes
from abaci.server.wire import error_response

MARKDOWN = """\
## A prime test

A number is **prime** if nothing but 1 and itself divides it. It is enough to try divisors up to the square root:

```python
def is_prime(number: int) -> bool:
    \"\"\"Tell whether a number is prime.\"\"\"
    if number < 2:
        return False
    return all(number % divisor for divisor in range(2, int(number**0.5) + 1))
```

1. Numbers below two are not prime.
2. Otherwise, try `range(2, √n)`.

| number | prime |
|---:|---|
| 7 | yes |
| 9 | no, 3 × 3 |

> Primes thin out, but never end. See [Euclid](https://example.org/euclid).
"""
HOSTILE = """\
<img src="https://example.org/pixel.png" onerror="document.title='broken'"><script>document.title='broken'</script>

![pixel](https://example.org/pixel.png) [a link](javascript:document.title='broken')

```html
<b onclick="document.title='broken'">text</b>
```
"""


@dataclass
class Script:
    """What the server does beside answering, and what it saw."""

    required_key: str | None = None
    token_seconds: float = 0.001
    bodies: list[dict[str, Any]] = field(default_factory=list)
    num_cancelled: int = 0
    started: float = field(default_factory=time.monotonic)
    metrics: str | None = None
    usage: dict[str, Any] | None = None


@contextmanager
def serve(script: Script) -> Iterator[str]:
    """The address of a server that plays the script, on a free port."""
    config = uvicorn.Config(_application(script), port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(timeout=10)


def _application(script: Script) -> Starlette:
    async def models(request: Request) -> Response:
        names = {"qwen2.5-coder:0.5b": "loaded", "smollm2:135m": "unloaded"}
        data = [{"id": name, "max_model_len": 32768, "status": {"value": state}} for name, state in names.items()]
        return _refusal(request) or JSONResponse({"object": "list", "data": data})

    async def completions(request: Request) -> Response:
        if refusal := _refusal(request):
            return refusal
        body = json.loads(await request.body())
        script.bodies.append(body)
        said = str(body["messages"][-1]["content"])
        if "refuse" in said:
            return _error(
                ContextLengthError("the prompt has 40,000 tokens, the model holds 32,768", hint="Start a new chat.")
            )
        return StreamingResponse(_stream(body, said), media_type="text/event-stream")

    async def _stream(body: dict[str, Any], said: str) -> AsyncIterator[str]:
        try:
            yield _chunk({"role": "assistant", "content": ""})
            yield ": ping\n\n"
            async for piece in _pieces(said):
                await asyncio.sleep(script.token_seconds)
                yield piece
            reason = "tool_calls" if "tool" in said else "stop"
            yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "usage": None})
            usage = {"prompt_tokens": 1204, "completion_tokens": 318, "prompt_tokens_details": {"cached_tokens": 1024}}
            yield _event({"choices": [], "usage": usage, "timings": {"predicted_per_second": 43.21}})
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            script.num_cancelled += 1
            raise
        except RuntimeError as error:
            yield _event({"error": {"message": str(error), "hint": "Wait a moment."}})

    async def metrics(request: Request) -> Response:
        return _refusal(request) or PlainTextResponse(script.metrics or _metrics(time.monotonic() - script.started))

    async def usage(request: Request) -> Response:
        return _refusal(request) or JSONResponse(script.usage or _usage())

    async def top(request: Request) -> Response:
        return _refusal(request) or JSONResponse(_top())

    def _refusal(request: Request) -> Response | None:
        if script.required_key in (None, request.headers.get("authorization", "").removeprefix("Bearer ")):
            return None
        return _error(AuthenticationError("no API key was sent", hint="Send it as `Authorization: Bearer KEY`."))

    return Starlette(
        routes=[
            *web_routes(),
            Route("/v1/models", models),
            Route("/v1/chat/completions", completions, methods=["POST"]),
            Route("/metrics", metrics),
            Route("/usage", usage),
            Route("/usage/top", top),
        ]
    )


async def _pieces(said: str) -> AsyncIterator[str]:
    if "hostile" in said:
        yield _chunk({"content": HOSTILE})
    elif "break" in said:
        yield _chunk({"content": "As far as"})
        raise RuntimeError("the engine ran out of memory")
    elif "slow" in said:
        for number in range(1000):
            await asyncio.sleep(0.03)
            yield _chunk({"content": f"{number} "})
    elif "tool" in said:
        call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
        yield _chunk({"tool_calls": [call]})
        for part in ('{"city": "Oslo', '", "unit', '": "celsius", "days": 3}'):
            yield _chunk({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
    else:
        if "think" in said:
            for sentence in ("The person asks for a prime test. ", "Trial division is simple and clear. "):
                yield _chunk({"reasoning_content": sentence, "reasoning": sentence})
        for start in range(0, len(MARKDOWN), 9):
            yield _chunk({"content": MARKDOWN[start : start + 9]})


def _chunk(delta: dict[str, Any]) -> str:
    return _event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}], "usage": None})


def _event(document: dict[str, Any]) -> str:
    return f"data: {json.dumps(document)}\n\n"


_TOO_LONG = ContextLengthError("the prompt has 40,000 tokens, the model holds 32,768", hint="Start a new chat.")


def _error(error: AbaciError) -> Response:
    """As the server itself says it."""
    return error_response(error, "/v1/chat/completions")


def _metrics(seconds: float) -> str:
    """Counters of a server under a steady load: 120 generated tokens and 300 of prompt each second."""
    labels = 'model_name="qwen2.5-coder:0.5b",engine="0"'
    generated = 120 * seconds
    lines = [
        "# HELP abaci_num_requests_running Sequences in the running batch.",
        "# TYPE abaci_num_requests_running gauge",
        f"abaci_num_requests_running{{{labels}}} 4.0",
        f"abaci_num_requests_waiting{{{labels}}} 2.0",
        f"abaci_kv_cache_usage_perc{{{labels}}} 0.375",
        f"abaci_kv_cache_tokens{{{labels}}} 65536.0",
        f"abaci_cpu_threads_used{{{labels}}} 2.0",
        f"abaci_memory_bandwidth_share{{{labels}}} 0.62",
        f"abaci_prefix_cache_queries_total{{{labels}}} {400 * seconds}",
        f"abaci_prefix_cache_hits_total{{{labels}}} {100 * seconds}",
        f"abaci_num_preemptions_total{{{labels}}} 0.0",
        f"abaci_iteration_tokens_total{{{labels}}} {300 * seconds + generated}",
        f'abaci_request_success_total{{{labels},finished_reason="stop"}} {2 * seconds}',
        'abaci_build_info{version="0.1.0"} 1.0',
    ]
    lines += _histogram("inter_token_latency_seconds", labels, {0.025: 0.5, 0.05: 0.95, 0.1: 1.0}, generated)
    lines += _histogram("time_to_first_token_seconds", labels, {0.1: 0.2, 0.25: 0.7, 0.5: 0.9, 1.0: 1.0}, 2 * seconds)
    return "\n".join(lines) + "\n"


def _histogram(name: str, labels: str, shares: dict[float, float], count: float) -> list[str]:
    buckets = [f'abaci_{name}_bucket{{{labels},le="{bound}"}} {share * count}' for bound, share in shares.items()]
    total = [f'abaci_{name}_bucket{{{labels},le="+Inf"}} {count}', f"abaci_{name}_count{{{labels}}} {count}"]
    return [*buckets, *total]


def _usage() -> dict[str, Any]:
    rows = [
        _usage_row("website", 18_204, 41_250_000, 19_800_000, 9_120_000, 3.41),
        _usage_row("support desk", 3_310, 9_400_000, 2_150_000, 1_870_000, 0.86),
        _usage_row("nightly reports", 212, 2_070_000, 0, 640_000, 0.274),
    ]
    total = _usage_row(None, 21_726, 52_720_000, 21_950_000, 11_630_000, 4.544)
    return {"since": "2026-11-01", "by": ["key"], "hourly_price": 0.19, "rows": rows, "total": total}


def _top() -> dict[str, Any]:
    days = [f"2026-11-{day}" for day in range(16, 23)]
    rows = [
        _top_row("qwen2.5-coder:7b", [0, 120_000, 80_000, 310_000, 290_000, 12_000, 402_000]),
        _top_row("smollm2:135m", [5_000, 0, 0, 9_000, 0, 0, 31_000]),
    ]
    total = _top_row("all", [sum(values) for values in zip(*(row["tokens"] for row in rows), strict=True)])
    return {"since": days[0], "until": days[-1], "period_days": 1, "periods": days, "rows": rows, "total": total}


def _top_row(name: str, tokens: list[int]) -> dict[str, Any]:
    prompt_tokens = sum(tokens) * 4 // 5
    return {
        "name": name,
        "requests": sum(tokens) // 1000,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": sum(tokens) - prompt_tokens,
        "tokens": tokens,
    }


def _usage_row(
    key: str | None, requests: int, prompt: int, cached: int, completion: int, dollars: float
) -> dict[str, Any]:
    return {
        "day": None,
        "key": key,
        "key_id": key and key[:3],
        "model": key and "qwen2.5-coder:0.5b",
        "requests": requests,
        "errors": 3,
        "prompt_tokens": prompt,
        "cached_tokens": cached,
        "completion_tokens": completion,
        "reasoning_tokens": 0,
        "compute_seconds": 900.0,
        "cost_dollars": dollars,
        "dollars_per_million_prompt_tokens": 0.041,
        "dollars_per_million_completion_tokens": 0.29,
        "full_load_dollars_per_million_prompt_tokens": 0.012,
        "full_load_dollars_per_million_completion_tokens": 0.102,
    }
