"""A server for engines that bring none, or none that batches: `python -m abaci.bench.http.adapter ENGINE MODEL`.

As thin as it can be, so that what is measured is the engine: a thread that steps it while there is work, and just
enough HTTP for the load generator. Runs in the engine's own environment: nothing is imported but what that has.
"""

import argparse
import asyncio
import json
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

_ENGINES = {
    "llama.cpp": ("abaci.bench.http.llama_cpp_engine", "LlamaCppEngine"),
    "openvino": ("abaci.bench.http.openvino_engine", "OpenVinoEngine"),
}
_SENDING_SECONDS = 0.0005
"""After a step: an engine that holds the interpreter's lock in the next one would keep its pieces from being sent."""
_HEADERS = b"Content-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Settings:
    """What an engine is started with."""

    model_path: str
    num_threads: int
    num_streams: int
    context_tokens: int


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: greedy, of exactly `num_tokens`."""

    key: int
    messages: list[dict[str, str]]
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What a step gave one request."""

    key: int
    text: str
    is_last: bool
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    """So far."""


class BatchEngine(Protocol):
    """An engine that works on many requests at once. Used by one thread."""

    def add(self, ask: Ask) -> None:
        """Queue a request."""

    def step(self) -> list[Piece]:
        """One step; empty-handed also where only prompts were computed."""

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""


def main() -> None:
    """Load, say where, serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=sorted(_ENGINES))
    parser.add_argument("model")
    for name in ("threads", "streams", "context"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    module, engine_class = _ENGINES[given.engine]
    settings = Settings(given.model, given.threads, given.streams, given.context)
    engine: BatchEngine = getattr(import_module(module), engine_class)(settings)
    asyncio.run(serve(engine))


async def serve(engine: BatchEngine) -> None:
    """Listen on a free port of loopback, and print the address on standard error."""
    adapter = Adapter(engine, asyncio.get_running_loop())
    threading.Thread(target=adapter.work, name="engine", daemon=True).start()
    server = await asyncio.start_server(adapter.answer, "127.0.0.1", 0, limit=1 << 20)
    host, port = server.sockets[0].getsockname()
    print(f"http://{host}:{port}", file=sys.stderr, flush=True)  # noqa: T201
    await server.serve_forever()


class Adapter:
    """Carries requests to the engine's thread and pieces back."""

    def __init__(self, engine: BatchEngine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop
        self._asks: deque[Ask] = deque()
        self._has_asks = threading.Event()
        self._queues: dict[int, asyncio.Queue[Piece]] = {}
        self._num_asked = 0

    def work(self) -> None:
        """The engine's thread."""
        while True:
            if not self._engine.has_work:
                self._has_asks.wait()
            self._has_asks.clear()
            while self._asks:
                self._engine.add(self._asks.popleft())
            if self._engine.has_work and (pieces := self._engine.step()):
                self._loop.call_soon_threadsafe(self._deliver, pieces)
                time.sleep(_SENDING_SECONDS)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: one request."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            if head.startswith("GET /v1/models "):
                document = json.dumps({"data": [{"id": "model"}]}).encode()
                length = f"Content-Length: {len(document)}\r\n".encode()
                writer.write(b"HTTP/1.1 200 OK\r\n" + length + b"Connection: close\r\n\r\n" + document)
            elif head.startswith("POST /v1/chat/completions "):
                await self._stream(json.loads(await reader.readexactly(_content_length(head))), writer)
            else:
                writer.write(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n")
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _stream(self, document: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        self._num_asked += 1
        ask = Ask(self._num_asked, document["messages"], document["max_tokens"])
        pieces = self._queues[ask.key] = asyncio.Queue()
        self._asks.append(ask)
        self._has_asks.set()
        writer.write(b"HTTP/1.1 200 OK\r\n" + _HEADERS)
        piece = None
        while piece is None or not piece.is_last:
            piece = await pieces.get()
            writer.write(_event({"choices": [{"index": 0, "delta": {"content": piece.text}, "finish_reason": None}]}))
            await writer.drain()
        del self._queues[ask.key]
        writer.write(_event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}))
        writer.write(_event({"choices": [], "usage": _usage(piece)}) + b"data: [DONE]\n\n")

    def _deliver(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            self._queues[piece.key].put_nowait(piece)


def _content_length(head: str) -> int:
    lines = (line.partition(":") for line in head.split("\r\n"))
    return next(int(value) for name, _, value in lines if name.lower() == "content-length")


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def _usage(piece: Piece) -> dict[str, Any]:
    return {
        "prompt_tokens": piece.prompt_tokens,
        "completion_tokens": piece.output_tokens,
        "prompt_tokens_details": {"cached_tokens": piece.cached_tokens},
    }


if __name__ == "__main__":
    main()
