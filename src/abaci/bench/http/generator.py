"""Holds the conversations of a load with a server: the load generator, in the process it is called in."""

import asyncio
from collections import deque
from dataclasses import dataclass
from time import process_time
from typing import Any

import uvloop

from abaci.bench.http.client import Exchange, Transcript, post, read_transcript
from abaci.bench.http.workloads import Conversation, Load

_PATH = "/v1/chat/completions"
_LIMIT_SECONDS = 600.0
"""For one request: a server that is slower has failed."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens, and what it calls the model."""

    host: str
    port: int
    model: str


@dataclass(frozen=True, slots=True)
class Run:
    """A load, held."""

    exchanges: tuple[Exchange, ...]
    visits: tuple[Exchange, ...]
    generator_cpu_seconds: float
    """Processor time of the load generator while it ran."""


def run_load(address: Address, load: Load) -> Run:
    """Hold a load's conversations. What goes wrong is in the exchanges."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Generator(address).run(load))


class _Generator:
    def __init__(self, address: Address) -> None:
        self._address = address
        self._transcripts: list[Transcript] = []
        self._visits: list[Transcript] = []

    async def run(self, load: Load) -> Run:
        for conversation in load.warm_up:
            await self._hold(conversation, [])
        cpu_seconds = process_time()
        visits = [asyncio.ensure_future(self._hold_later(visitor, self._visits)) for visitor in load.visitors]
        if load.num_streams is None:
            await asyncio.gather(*(self._hold_later(one, self._transcripts) for one in load.conversations))
        else:
            waiting = deque(load.conversations)
            await asyncio.gather(*(self._hold_all(waiting) for _ in range(load.num_streams)))
        await asyncio.gather(*visits)
        cpu_seconds = process_time() - cpu_seconds
        return Run(
            tuple(read_transcript(transcript) for transcript in self._transcripts),
            tuple(read_transcript(transcript) for transcript in self._visits),
            cpu_seconds,
        )

    async def _hold_all(self, waiting: deque[Conversation]) -> None:
        while waiting:
            await self._hold(waiting.popleft(), self._transcripts)

    async def _hold_later(self, conversation: Conversation, transcripts: list[Transcript]) -> None:
        await asyncio.sleep(conversation.start_seconds)
        await self._hold(conversation, transcripts)

    async def _hold(self, conversation: Conversation, transcripts: list[Transcript]) -> None:
        messages: list[dict[str, str]] = []
        for turn in conversation.turns:
            messages.append({"role": "user", "content": turn})
            transcript = await self._ask(messages, conversation.answer_tokens)
            transcripts.append(transcript)
            if len(conversation.turns) == 1:
                return
            exchange = read_transcript(transcript)
            if exchange.error is not None:
                return
            messages.append({"role": "assistant", "content": exchange.text})

    async def _ask(self, messages: list[dict[str, str]], answer_tokens: int) -> Transcript:
        document: dict[str, Any] = {
            "model": self._address.model,
            "messages": messages,
            "max_tokens": answer_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return await post(self._address.host, self._address.port, _PATH, document, limit_seconds=_LIMIT_SECONDS)
