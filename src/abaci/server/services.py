"""The parts of a server, put together once and handed to whoever needs them. No part knows this module's callers."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from abaci.chat.served import ModelPool, ModelStatus, ServedModel
from abaci.errors import ForbiddenError, OverloadedError
from abaci.server.accounts import Accounts
from abaci.server.auth import Caller
from abaci.server.bridge import EventBridge
from abaci.server.config import ServerConfig
from abaci.server.metrics import Metrics
from abaci.server.traces import Traces

if TYPE_CHECKING:
    from abaci.server.generating import RequestRecord


class RequestQueue:
    """Counts requests that run or wait, and refuses those beyond what may wait."""

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self._limit = max_running + max_waiting
        self._num_inside = 0

    @property
    def num_inside(self) -> int:
        """Requests running or waiting."""
        return self._num_inside

    def enter(self, model: ServedModel) -> None:
        """Let a request in. Raises OverloadedError when the queue is full."""
        if self._num_inside >= self._limit:
            raise OverloadedError(
                f"{model.status.name}: {self._num_inside} requests are running or waiting",
                retry_after_seconds=5.0,
                hint="Wait as long as Retry-After says; whoever runs the server can raise `max_queued_requests`.",
            )
        self._num_inside += 1

    def leave(self) -> None:
        """A request has ended."""
        self._num_inside -= 1


@dataclass(slots=True)
class Services:
    """What handlers use."""

    config: ServerConfig
    pool: ModelPool
    bridge: EventBridge
    accounts: Accounts
    metrics: Metrics
    queue: RequestQueue
    traces: Traces | None = None
    is_draining: bool = False
    """Running requests end, new ones are refused."""

    def reload(self) -> None:
        """Read keys and limits again."""
        self.accounts.reload()

    async def close(self) -> None:
        """Unload the models and write down what is still to be written."""
        await self.accounts.batch_service.close()
        await self.pool.close()
        await self.accounts.close()
        if self.traces is not None:
            self.traces.close()

    def model_name(self, caller: Caller, asked: str | None) -> str:
        """The model to use. Raises ForbiddenError where the caller's key is not for it."""
        name = asked or self.pool.default_name
        if caller.models is not None and name not in caller.models:
            raise ForbiddenError(
                f"the key {caller.name!r} may not use {name[:200]}", hint="GET /v1/models lists those it may."
            )
        return name

    def visible_models(self, caller: Caller) -> list[ModelStatus]:
        """The models a caller may use."""
        return [status for status in self.pool.models() if caller.models is None or status.name in caller.models]

    def book(self, caller: Caller, model: ServedModel, record: "RequestRecord") -> None:
        """Account for a finished request."""
        self.metrics.finished(model, record)
        self.accounts.record(caller, model, record)
        if self.traces is not None:
            self.traces.finished(model, record)
