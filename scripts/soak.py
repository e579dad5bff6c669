"""Runs a real server at full load for minutes and checks what must hold: no error, memory flat, every page given back.

    python scripts/soak.py MODEL.gguf [--minutes 15] [--streams 48]

The load is mixed: chats and completions, whole and streamed, sampled and greedy, forms and tool calls, embeddings,
shared prefixes, and clients that leave in the middle. Memory is the server's resident set; what counts is its growth
after the first third of the time.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "server"))
from real_server import real_server, wait_until

SAMPLE_SECONDS = 10.0
MAX_GROWTH = 0.03
MEMORY_BYTES = 600_000_000
"""For weights and pages: a cache that is full long before a third of the time is over, as touching a page for the first
time is growth too."""

SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string", "maxLength": 40}, "year": {"type": "integer"}},
    "required": ["title", "year"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object", "properties": {"word": {"type": "string"}}}},
}
WORDS = (
    "river",
    "stone",
    "lamp",
    "paper",
    "north",
    "quiet",
    "seven",
    "market",
    "glass",
    "winter",
    "engine",
    "letter",
    "garden",
    "bridge",
    "copper",
)
PREFIX = "You are a careful assistant who answers in plain words. " * 20


def main() -> None:
    """Exit code 0 if all held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--streams", type=int, default=48)
    given = parser.parse_args()
    small = {"ABACI_MEMORY_BYTES": str(MEMORY_BYTES)}
    with tempfile.TemporaryDirectory() as folder, real_server(given.model, Path(folder), environment=small) as server:
        soak = Soak(server.url, server.process.pid, given.minutes * 60, given.streams)
        asyncio.run(soak.run())
        wait_until(lambda: server.metric("abaci_num_requests_running") == 0)
        leftover = {name: server.metric(name) for name in ("abaci_num_requests_waiting", "abaci_kv_cache_usage_perc")}
        tokens = server.metric("abaci_generation_tokens_total")
        preemptions = server.metric("abaci_num_preemptions_total")
        server.log.clear()
    growth = soak.growth()
    print(f"{sum(soak.outcomes.values())} requests: {dict(soak.outcomes)}")
    print(f"{tokens:,.0f} tokens, {tokens / (given.minutes * 60):,.0f} per second; {preemptions:.0f} preemptions")
    every = max(1, len(soak.resident_bytes) // 15)
    print(f"resident, MB: {', '.join(f'{size / 1e6:.0f}' for size in soak.resident_bytes[::every])}")
    print(f"growth after the first third: {growth:+.2%}; left over: {leftover}")
    failed = [status for status in soak.outcomes if status == "failed" or (isinstance(status, int) and status >= 400)]
    sys.exit(1 if failed or any(leftover.values()) or growth > MAX_GROWTH else 0)


class Soak:
    """The load, and what was seen of the server."""

    def __init__(self, url: str, process_id: int, seconds: float, num_streams: int) -> None:
        self.outcomes: Counter[int | str] = Counter()
        self.resident_bytes: list[int] = []
        self._url = url
        self._process_id = process_id
        self._deadline = time.monotonic() + seconds
        self._num_streams = num_streams

    async def run(self) -> None:
        """Until the time is over."""
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self._url, timeout=300, trust_env=False, limits=limits) as client:
            watcher = asyncio.create_task(self._watch())
            await asyncio.gather(*(self._stream(client, random.Random(seed)) for seed in range(self._num_streams)))
            watcher.cancel()

    def growth(self) -> float:
        """Of the resident set, from the first third's end to the end; medians of five samples."""
        third = len(self.resident_bytes) // 3
        early, late = (
            sorted(part)[len(part) // 2] for part in (self.resident_bytes[third:][:5], self.resident_bytes[-5:])
        )
        return late / early - 1

    async def _watch(self) -> None:
        while True:
            status = Path(f"/proc/{self._process_id}/status").read_text()
            line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
            self.resident_bytes.append(int(line.split()[1]) * 1024)
            await asyncio.sleep(SAMPLE_SECONDS)

    async def _stream(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        while time.monotonic() < self._deadline:
            path, body = _request(chance)
            leaves_after = chance.randint(0, 20) if chance.random() < 0.15 else None
            try:
                self.outcomes[await _send(client, path, body, leaves_after)] += 1
            except httpx.HTTPError as error:
                print(f"{path}: {error!r}")
                self.outcomes["failed"] += 1


async def _send(client: httpx.AsyncClient, path: str, body: dict[str, Any], leaves_after: int | None) -> int | str:
    async with client.stream("POST", path, json=body) as answer:
        num_lines = 0
        async for line in answer.aiter_lines():
            num_lines += 1
            if leaves_after is not None and num_lines > leaves_after:
                return "left"
            if '"error":' in line[:20]:
                print(line[:300])
                return "failed"
        return answer.status_code


def _request(chance: random.Random) -> tuple[str, dict[str, Any]]:
    text = " ".join(chance.choices(WORDS, k=chance.randint(3, 120)))
    sampled = {"temperature": chance.choice([0, 0.7, 1.2]), "seed": chance.randrange(2**32)}
    common = {"max_tokens": chance.randint(8, 160), "stream": chance.random() < 0.7, **sampled}
    messages = [{"role": "user", "content": text}]
    if chance.random() < 0.3:
        messages.insert(0, {"role": "system", "content": PREFIX})
    kind = chance.random()
    if kind < 0.45:
        return "/v1/chat/completions", {"messages": messages, **common}
    if kind < 0.6:
        schema = {"type": "json_schema", "json_schema": {"name": "book", "schema": SCHEMA}}
        return "/v1/chat/completions", {"messages": messages, "response_format": schema, **common}
    if kind < 0.7:
        return "/v1/chat/completions", {"messages": messages, "tools": [TOOL], "tool_choice": "required", **common}
    if kind < 0.9:
        more = {"logprobs": 3, "n": chance.randint(1, 3), "repetition_penalty": 1.1}
        return "/v1/completions", {"prompt": text, **common, **more}
    return "/v1/embeddings", {"input": [text, text[::-1]]}


if __name__ == "__main__":
    main()
