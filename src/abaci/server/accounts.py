"""Who may come in and what they used, over one database: keys, limits, usage. The rest of the server sees only this."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from abaci.chat.served import ServedModel
from abaci.errors import AbaciError
from abaci.generation import FinishReason
from abaci.server.auth import Authenticator, Caller
from abaci.server.batch_service import BatchService
from abaci.server.config import ServerConfig
from abaci.server.database import Database
from abaci.server.keys import KeyRing, KeyStore
from abaci.server.limits import Admission, Ticket
from abaci.server.token_seconds import ModelCounters
from abaci.server.usage import NO_KEY, UsageMeter, UsageRecord, UsageStore

if TYPE_CHECKING:
    from abaci.server.generating import RequestRecord

_LOG = logging.getLogger("abaci.server")
_MAX_EXPECTED_ANSWER_TOKENS = 1024
"""Charged in advance for an answer, however long it may become; what it became is charged at its end."""


class Accounts:
    """Keys, what they allow, and what was used with them. Belongs to the event loop."""

    def __init__(self, config: ServerConfig, database: Database, loaded: Callable[[], Sequence[ServedModel]]) -> None:
        """Use `open`."""
        self.database = database
        self.keys = KeyRing(KeyStore(database), database)
        self.keys.load()
        self.authenticator = Authenticator(config.api_key, self.keys)
        self.batch_service = BatchService(database, self.keys)
        self._admission = Admission()
        self._usage = UsageMeter(database, lambda: _counters(loaded()))
        self._tasks: list[asyncio.Task[None]] = []
        today = datetime.now(UTC).date()
        for key_id, num_tokens in UsageStore(database).tokens_of_day(today).items():
            self._admission.restore(key_id, today, num_tokens)

    @classmethod
    def open(cls, config: ServerConfig, loaded: Callable[[], Sequence[ServedModel]]) -> Self:
        """Open the database of the state folder. Blocks. Raises what `Database.open` raises."""
        database = Database.open(config.state_dir, config.database_url)
        try:
            return cls(config, database, loaded)
        except BaseException:
            database.close()
            raise

    def start(self) -> None:
        """Follow changes of the keys and write usage down, in the background."""
        self._tasks = [asyncio.ensure_future(self.keys.watch()), asyncio.ensure_future(self._usage.run())]

    def reload(self) -> None:
        """Read the keys anew at once."""
        self._tasks.append(asyncio.ensure_future(self._refresh()))

    def enter(self, caller: Caller, prompt_tokens: int, max_tokens: int) -> Ticket | None:
        """Let a request in; None for callers without limits. Raises RateLimitedError."""
        key = None if caller.key_id is None else self.keys.get(caller.key_id)
        if key is None:
            return None
        return self._admission.enter(key, prompt_tokens + min(max_tokens, _MAX_EXPECTED_ANSWER_TOKENS))

    def record(self, caller: Caller, model: ServedModel, record: "RequestRecord") -> None:
        """Count a request that has ended."""
        self._usage.record(
            UsageRecord(
                key_id=caller.key_id or NO_KEY,
                model=model.status.name,
                prompt_tokens=record.prompt_tokens,
                cached_tokens=record.cached_tokens,
                completion_tokens=record.completion_tokens,
                reasoning_tokens=record.reasoning_tokens,
                is_error=FinishReason.ERROR in record.finish_reasons,
            )
        )

    async def close(self) -> None:
        """Write what is not written yet, and let go of the database."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(AbaciError):  # it has been logged, and there is no later
            await self._usage.flush()
        await asyncio.to_thread(self.database.close)

    async def _refresh(self) -> None:
        try:
            await self.keys.refresh()
            _LOG.info("keys and limits were read again")
        except AbaciError as error:
            _LOG.error("keys cannot be read: %s", error.message)


def _counters(loaded: Sequence[ServedModel]) -> Mapping[str, ModelCounters]:
    counters = {}
    for model in loaded:
        figures = model.figures()
        counters[model.status.name] = ModelCounters(
            prompt_tokens=figures.computed_prompt_tokens,
            completion_tokens=figures.computed_tokens - figures.computed_prompt_tokens,
            prompt_seconds=figures.prompt_seconds,
            completion_seconds=figures.step_seconds - figures.prompt_seconds,
        )
    return counters
