"""Files and batches of a running server: the stores, the worker, and the calls it answers lines with.

Belongs to the event loop. Knows the application only as something to call from inside.
"""

import asyncio
import json

from abaci.errors import ForbiddenError
from abaci.server.auth import Caller
from abaci.server.batch_worker import BatchWorker, LineAnswer, LineRequest
from abaci.server.batches import Batch, BatchStore
from abaci.server.database import Database
from abaci.server.files import FileStore
from abaci.server.inside import InsideCalls
from abaci.server.keys import KeyRing


class BatchService:
    """What the routes of files and batches use. Nothing runs before `start`."""

    def __init__(self, database: Database, keys: KeyRing) -> None:
        self.database = database
        self.files = FileStore(database)
        self.batches = BatchStore(database)
        self._keys = keys
        self._worker: BatchWorker | None = None
        self._working: asyncio.Task[None] | None = None

    def start(self, calls: InsideCalls, concurrency: int) -> None:
        """Take up what is open, and whatever comes, with so many lines at a time."""

        async def execute(line: LineRequest) -> LineAnswer:
            body = json.dumps(line.body).encode()
            status, answer = await calls.post(line.url, body, self._caller(line.owner), line.request_id)
            return LineAnswer(status, json.loads(answer))

        self._worker = BatchWorker(self.database, self.batches, self.files, execute, concurrency=concurrency)
        self._working = asyncio.create_task(self._worker.run())

    async def close(self) -> None:
        """End the lines that run; they stay to be answered. Before the models go. Idempotent."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)

    async def create(self, caller: Caller, input_file_id: str, endpoint: str, metadata: object) -> Batch:
        """See `BatchStore.create`."""
        batch = await self.database.run(self.batches.create, owner_of(caller), input_file_id, endpoint, metadata)
        self._wake()
        return batch

    async def cancel(self, caller: Caller, batch_id: str) -> Batch:
        """See `BatchStore.cancel`."""
        batch = await self.database.run(self.batches.cancel, owner_of(caller), batch_id)
        self._wake()
        return batch

    def _wake(self) -> None:
        if self._worker is not None:
            self._worker.wake()

    def _caller(self, owner: str) -> Caller:
        """In whose name the lines run, with what the key allows now. Raises ForbiddenError for one that was revoked."""
        if not owner:
            return Caller("batch")
        key = self._keys.get(owner)
        if key is None or not key.is_valid:
            raise ForbiddenError(
                "the key of this batch has been revoked", hint="Send the batch again with a key that is valid."
            )
        return key.caller


def owner_of(caller: Caller) -> str:
    """Whose the files and batches of a caller are; callers without a key of the database share theirs."""
    return caller.key_id or ""
