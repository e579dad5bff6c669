"""A line that was accepted is answered exactly once, whatever happens to the process."""

import asyncio
import io
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from abaci.errors import ForbiddenError, NotFoundError, RateLimitedError, ResourceError, UsageError
from abaci.server.batch_lines import BatchLimits
from abaci.server.batch_worker import BatchWorker, Execute, LineAnswer, LineRequest
from abaci.server.batches import WINDOW_SECONDS, Batch, BatchStatus, BatchStore
from abaci.server.database import Database
from abaci.server.files import FilePurpose, FileStore

URL = "/v1/chat/completions"
DEADLINE_SECONDS = 20.0


@dataclass
class Clock:
    """A clock set by hand."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """The stores over one database, and a client's view of them."""

    def __init__(self, database: Database, limits: BatchLimits | None = None) -> None:
        self.database = database
        self.wall = Clock()
        self.monotonic = Clock(0.0)
        self.files = FileStore(database, wall=self.wall)
        self.batches = BatchStore(database, limits, wall=self.wall)

    def submit(self, lines: list[Any], owner: str = "a") -> Batch:
        content = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
        file = self.files.create(owner, "in.jsonl", FilePurpose.BATCH, io.BytesIO(content))
        return self.batches.create(owner, file.id, URL)

    def worker(self, execute: Execute, concurrency: int = 4) -> BatchWorker:
        return BatchWorker(
            self.database,
            self.batches,
            self.files,
            execute,
            concurrency=concurrency,
            poll_seconds=0.02,
            monotonic=self.monotonic,
            wall=self.wall,
        )

    def run(
        self, execute: Execute, until: Callable[[], bool], *, concurrency: int = 4, meanwhile: Any = None
    ) -> BatchWorker:
        """Work until something is so."""
        worker = self.worker(execute, concurrency)

        async def work() -> None:
            working = asyncio.create_task(worker.run())
            try:
                async with asyncio.timeout(DEADLINE_SECONDS):
                    if meanwhile is not None:
                        await meanwhile(worker)
                    while not until():
                        await asyncio.sleep(0.005)
            finally:
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)

        asyncio.run(work())
        return worker

    def run_to_end(self, execute: Execute, *batches: Batch, **options: Any) -> list[Batch]:
        self.run(execute, lambda: all(not self.now(batch).is_open for batch in batches), **options)
        return [self.now(batch) for batch in batches]

    def now(self, batch: Batch) -> Batch:
        return self.batches.get(batch.owner, batch.id)

    def lines(self, owner: str, file_id: str) -> list[dict[str, Any]]:
        """The lines of a file, none if it is not there."""
        try:
            self.files.get(owner, file_id)
        except NotFoundError:
            return []
        content, position = b"", -1
        while found := self.files.read(file_id, position):
            data, position = found
            content += data
        assert content.endswith(b"\n")
        return [json.loads(line) for line in content.splitlines()]

    def outputs(self, batch: Batch) -> list[dict[str, Any]]:
        return self.lines(batch.owner, batch.output_file_id)

    def failures(self, batch: Batch) -> list[dict[str, Any]]:
        return self.lines(batch.owner, batch.error_file_id)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    database = Database.open(tmp_path)
    yield Desk(database)
    database.close()


def line(i: int, **body: Any) -> dict[str, Any]:
    return {"custom_id": f"request-{i}", "method": "POST", "url": URL, "body": {"i": i, **body}}


async def echo(request: LineRequest) -> LineAnswer:
    return LineAnswer(200, {"echo": request.body["i"], "owner": request.owner, "url": request.url})


def answering(status: int) -> Execute:
    async def answer(request: LineRequest) -> LineAnswer:
        return LineAnswer(status, {"error": "no"})

    return answer


async def never(request: LineRequest) -> LineAnswer:
    await asyncio.Event().wait()
    raise AssertionError


def test_every_line_is_answered_in_the_order_of_the_input(desk: Desk) -> None:
    submitted = desk.submit([line(i) for i in range(30)])
    assert submitted.status is BatchStatus.VALIDATING
    (batch,) = desk.run_to_end(echo, submitted)
    assert batch.status is BatchStatus.COMPLETED
    assert (batch.num_total, batch.num_completed, batch.num_failed) == (30, 30, 0)
    outputs = desk.outputs(batch)
    assert [output["custom_id"] for output in outputs] == [f"request-{i}" for i in range(30)]
    assert outputs[7]["response"]["body"] == {"echo": 7, "owner": "a", "url": URL}
    assert outputs[7]["response"]["status_code"] == 200
    assert outputs[7]["error"] is None
    assert len({output["id"] for output in outputs} | {output["response"]["request_id"] for output in outputs}) == 60
    assert desk.failures(batch) == []
    assert [file.purpose for file in desk.files.list("a").items] == [FilePurpose.BATCH_OUTPUT, FilePurpose.BATCH]
    assert batch.started_seconds and batch.finalizing_seconds and batch.ended_seconds


def test_failed_requests_go_to_the_error_file(desk: Desk) -> None:
    async def execute(request: LineRequest) -> LineAnswer:
        match request.body["i"]:
            case 0:
                return LineAnswer(400, {"error": {"message": "bad"}})
            case 1:
                raise ForbiddenError("not this model")
            case 2:
                raise ZeroDivisionError("secret detail")
        return await echo(request)

    (batch,) = desk.run_to_end(execute, desk.submit([line(i) for i in range(4)]))
    assert batch.status is BatchStatus.COMPLETED
    assert (batch.num_completed, batch.num_failed) == (1, 3)
    failures = desk.failures(batch)
    assert [failure["response"]["status_code"] for failure in failures] == [400, 403, 500]
    assert failures[1]["response"]["body"]["error"]["message"] == "not this model"
    assert "secret" not in json.dumps(failures)


@pytest.mark.parametrize(
    ("lines", "code", "line_number"),
    [
        ([], "empty_file", None),
        ([b"\n \n"], "empty_file", None),
        ([line(0), b"{nonsense\n"], "invalid_json_line", 2),
        ([b'{"a": NaN}\n'], "invalid_json_line", 1),
        ([b"[" * 1900 + b"\n"], "invalid_json_line", 1),
        ([b"\xff\xfe\n"], "invalid_json_line", 1),
        ([b"[1]\n"], "invalid_json_line", 1),
        ([line(0), b"\n", line(0)], "duplicate_custom_id", 3),
        ([line(0) | {"method": "GET"}], "invalid_method", 1),
        ([line(0) | {"url": "/v1/embeddings"}], "mismatched_url", 1),
        ([line(0) | {"body": "text"}], "missing_required_parameter", 1),
        ([line(0) | {"custom_id": 5}], "invalid_custom_id", 1),
        ([line(0) | {"custom_id": "\ud800"}], "invalid_custom_id", 1),
        ([line(0, stream=True)], "invalid_body", 1),
        ([line(i) for i in range(6)], "too_many_lines", None),
        ([line(0, text="x" * 2000)], "line_too_long", 1),
    ],
)
def test_a_bad_input_fails_as_a_whole_and_says_where(
    tmp_path: Path, lines: list[Any], code: str, line_number: int | None
) -> None:
    database = Database.open(tmp_path)
    desk = Desk(database, BatchLimits(num_lines=5, line_bytes=2000))
    (batch,) = desk.run_to_end(never, desk.submit(lines))
    assert batch.status is BatchStatus.FAILED
    assert [(error.code, error.line) for error in batch.errors] == [(code, line_number)]
    assert batch.num_total == 0
    assert desk.batches.pending_positions(batch.id) == []
    database.close()


def test_only_so_many_mistakes_are_told(desk: Desk) -> None:
    (batch,) = desk.run_to_end(never, desk.submit([b"x\n"] * 500))
    assert len(batch.errors) == 100


def test_odd_bodies_arrive_as_they_were(desk: Desk) -> None:
    odd = {"half": "\ud800", "zero": "\0", "deep": [[[]]], "big": 2**70, "small": 1e-300, "i": 0}
    seen: list[Any] = []

    async def execute(request: LineRequest) -> LineAnswer:
        seen.append(request.body)
        return LineAnswer(200, request.body)

    (batch,) = desk.run_to_end(execute, desk.submit([line(0) | {"custom_id": "ü 漢", "body": odd}]))
    assert seen == [odd]
    assert desk.outputs(batch)[0]["response"]["body"] == odd
    assert desk.outputs(batch)[0]["custom_id"] == "ü 漢"


def test_an_input_deleted_early_fails_the_batch_and_late_does_not(desk: Desk) -> None:
    early, late = desk.submit([line(0)]), desk.submit([line(0)])
    desk.files.delete("a", early.input_file_id)
    desk.batches.validate(late)
    desk.files.delete("a", late.input_file_id)
    early, late = desk.run_to_end(echo, early, late)
    assert (early.status, early.errors[0].code) == (BatchStatus.FAILED, "file_not_found")
    assert late.status is BatchStatus.COMPLETED


def test_only_the_owner_sees_a_batch(desk: Desk) -> None:
    batch = desk.submit([line(0)])
    for call in (desk.batches.get, desk.batches.cancel):
        with pytest.raises(NotFoundError):
            call("b", batch.id)
    with pytest.raises(NotFoundError):
        desk.batches.create("b", batch.input_file_id, URL)
    assert desk.batches.list("b").items == ()
    (batch,) = desk.run_to_end(echo, batch)
    with pytest.raises(UsageError, match="the file is for batch_output"):
        desk.batches.create("a", batch.output_file_id, URL)


def test_lists_come_newest_first_in_pages(desk: Desk) -> None:
    ids = [desk.submit([line(0)]).id for _ in range(3)]
    first = desk.batches.list("a", limit=2)
    assert ([batch.id for batch in first.items], first.has_more) == ([ids[2], ids[1]], True)
    assert [batch.id for batch in desk.batches.list("a", after=ids[1]).items] == [ids[0]]


def test_too_many_open_batches_are_refused(tmp_path: Path) -> None:
    database = Database.open(tmp_path)
    desk = Desk(database, BatchLimits(num_open=2))
    batches = [desk.submit([line(0)]) for _ in range(2)]
    with pytest.raises(RateLimitedError):
        desk.submit([line(0)])
    desk.submit([line(0)], owner="b")
    desk.run_to_end(echo, *batches)
    desk.submit([line(0)])
    database.close()


@pytest.mark.parametrize("metadata", [[], {"a": 1}, {"a" * 65: ""}, {"a": "b" * 513}, {str(i): "" for i in range(17)}])
def test_bad_metadata_is_refused(desk: Desk, metadata: Any) -> None:
    file = desk.files.create("a", "f", FilePurpose.BATCH, io.BytesIO())
    with pytest.raises(UsageError, match="metadata"):
        desk.batches.create("a", file.id, URL, metadata)
    assert desk.batches.create("a", file.id, URL, {"a": "ü\ud800"}).metadata == {"a": "ü\ud800"}


def test_cancelling_keeps_what_is_answered_and_stops_what_runs(desk: Desk) -> None:
    cancelled: list[int] = []

    async def execute(request: LineRequest) -> LineAnswer:
        i = request.body["i"]
        if i < 3:
            return await echo(request)
        try:
            return await never(request)
        except asyncio.CancelledError:
            cancelled.append(i)
            raise

    batch = desk.submit([line(i) for i in range(20)])

    async def cancel(worker: BatchWorker) -> None:
        while desk.now(batch).num_completed < 3:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        assert desk.batches.cancel("a", batch.id).status is BatchStatus.CANCELLING
        assert desk.batches.cancel("a", batch.id).status is BatchStatus.CANCELLING
        worker.wake()

    (ended,) = desk.run_to_end(execute, batch, meanwhile=cancel)
    assert ended.status is BatchStatus.CANCELLED
    assert len(desk.outputs(ended)) == 3
    assert sorted(cancelled) == [3, 4, 5, 6]
    assert desk.batches.pending_positions(batch.id) == []
    assert desk.batches.cancel("a", batch.id).status is BatchStatus.CANCELLED


def test_an_ended_batch_cannot_be_cancelled(desk: Desk) -> None:
    (batch,) = desk.run_to_end(echo, desk.submit([line(0)]))
    with pytest.raises(UsageError, match="completed"):
        desk.batches.cancel("a", batch.id)


def test_an_expired_batch_tells_of_every_line_it_did_not_run(desk: Desk) -> None:
    async def execute(request: LineRequest) -> LineAnswer:
        return await (echo if request.body["i"] == 0 else never)(request)

    batch = desk.submit([line(i) for i in range(6)])

    async def wait_a_day(_: BatchWorker) -> None:
        while desk.now(batch).num_completed < 1:
            await asyncio.sleep(0.005)
        desk.monotonic.now += WINDOW_SECONDS + 1

    (ended,) = desk.run_to_end(execute, batch, meanwhile=wait_a_day, concurrency=2)
    assert ended.status is BatchStatus.EXPIRED
    assert (ended.num_completed, ended.num_failed) == (1, 5)
    failures = desk.failures(ended)
    assert [failure["custom_id"] for failure in failures] == [f"request-{i}" for i in range(1, 6)]
    assert {failure["error"]["code"] for failure in failures} == {"batch_expired"}
    assert all(failure["response"] is None for failure in failures)


def test_a_batch_that_expired_while_no_process_ran_is_ended_at_start(desk: Desk) -> None:
    batch = desk.submit([line(0)])
    desk.wall.now += WINDOW_SECONDS + 1
    (ended,) = desk.run_to_end(echo, batch)
    assert ended.status is BatchStatus.EXPIRED


@pytest.mark.parametrize("jump_seconds", [-10 * WINDOW_SECONDS, 10 * WINDOW_SECONDS])
def test_a_clock_that_is_set_expires_nothing(desk: Desk, jump_seconds: float) -> None:
    gate = asyncio.Event()

    async def execute(request: LineRequest) -> LineAnswer:
        await gate.wait()
        return await echo(request)

    batch = desk.submit([line(0)])

    async def jump(_: BatchWorker) -> None:
        while desk.now(batch).status is not BatchStatus.IN_PROGRESS:
            await asyncio.sleep(0.005)
        desk.wall.now += jump_seconds
        await asyncio.sleep(0.1)
        gate.set()

    (ended,) = desk.run_to_end(execute, batch, meanwhile=jump)
    assert ended.status is BatchStatus.COMPLETED


@pytest.mark.parametrize(
    "refusal", [RateLimitedError("later", retry_after_seconds=7.0), ResourceError("no room"), LineAnswer(429, {}, 7.0)]
)
def test_a_line_refused_for_now_runs_again_and_others_do_not_wait_for_it(desk: Desk, refusal: Any) -> None:
    num_refused = 0

    async def execute(request: LineRequest) -> LineAnswer:
        nonlocal num_refused
        if request.owner == "slow" and desk.monotonic.now < 7.0:
            num_refused += 1
            if isinstance(refusal, LineAnswer):
                return refusal
            raise refusal
        return await echo(request)

    slow = desk.submit([line(i) for i in range(5)], owner="slow")
    quick = desk.submit([line(i) for i in range(5)], owner="quick")

    async def let_time_pass(_: BatchWorker) -> None:
        while desk.now(quick).is_open:
            await asyncio.sleep(0.005)
        assert desk.now(slow).num_completed == 0
        assert 1 <= num_refused <= 2
        desk.monotonic.now += 7.0

    ended = desk.run_to_end(execute, slow, quick, concurrency=2, meanwhile=let_time_pass)
    assert [batch.num_completed for batch in ended] == [5, 5]


def test_batches_share_the_lines_that_run(desk: Desk) -> None:
    running: Counter[str] = Counter()
    most_at_once = 0

    async def execute(request: LineRequest) -> LineAnswer:
        nonlocal most_at_once
        running[request.owner] += 1
        most_at_once = max(most_at_once, running.total())
        return await never(request)

    for owner in ("a", "b"):
        desk.batches.validate(desk.submit([line(i) for i in range(50)], owner=owner))
    desk.run(execute, lambda: running.total() == 6, concurrency=6)
    assert running == {"a": 3, "b": 3}
    assert most_at_once == 6


def test_an_answer_that_comes_twice_is_kept_once(desk: Desk) -> None:
    batch = desk.submit([line(0), line(1)])
    desk.batches.validate(batch)
    assert desk.batches.answer(batch, 0, b"first\n", is_success=True)
    assert not desk.batches.answer(batch, 0, b"second\n", is_success=True)
    assert not desk.batches.answer(batch, 0, b"second\n", is_success=False)
    assert desk.now(batch).num_completed == 1
    assert desk.files.read(batch.output_file_id) == (b"first\n", 0)


def test_a_full_disk_loses_no_answer_and_runs_no_line_twice(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abaci.server.batch_worker._WRITE_AGAIN_SECONDS", 0.02)
    executed: Counter[int] = Counter()
    batch = desk.submit([line(i) for i in range(4)])
    desk.batches.validate(batch)

    async def execute(request: LineRequest) -> LineAnswer:
        executed[request.body["i"]] += 1
        return LineAnswer(200, "x" * 200_000)

    def limit_pages(num_more: int) -> None:
        """Of the database thread's one connection: what a disk of that size would allow."""
        with desk.database.writing() as connection:
            pages = connection.execute(text("PRAGMA page_count")).scalar_one()
            connection.execute(text(f"PRAGMA max_page_count = {pages + num_more}"))

    async def make_room_later(_: BatchWorker) -> None:
        while executed.total() < 4:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.2)
        assert desk.now(batch).num_completed < 4
        await desk.database.run(limit_pages, 100_000)

    asyncio.run(desk.database.run(limit_pages, 80))
    (ended,) = desk.run_to_end(execute, batch, meanwhile=make_room_later)
    assert ended.status is BatchStatus.COMPLETED
    assert executed == dict.fromkeys(range(4), 1)
    assert [len(output["response"]["body"]) for output in desk.outputs(ended)] == [200_000] * 4


def test_one_batch_that_cannot_go_on_does_not_stop_the_others(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = desk.submit([line(0)]), desk.submit([line(0)])
    validate = BatchStore.validate

    def fail(store: BatchStore, batch: Batch) -> None:
        if batch.id == broken.id:
            raise ZeroDivisionError
        validate(store, batch)

    monkeypatch.setattr(BatchStore, "validate", fail)
    desk.run_to_end(echo, sound)
    assert desk.now(sound).status is BatchStatus.COMPLETED
    assert desk.now(broken).status is BatchStatus.VALIDATING
    assert [record.message for record in caplog.records] == [f"{broken.id} stands still"]


def test_only_one_worker_works_and_another_takes_over(desk: Desk) -> None:
    executed: Counter[str] = Counter()

    def execute_as(name: str) -> Execute:
        async def execute(request: LineRequest) -> LineAnswer:
            executed[name] += 1
            return await echo(request)

        return execute

    async def work() -> None:
        first, second = (asyncio.create_task(desk.worker(execute_as(name)).run()) for name in ("first", "second"))
        for name, worker in (("first", first), ("second", second)):
            batch = desk.submit([line(i) for i in range(20)])
            async with asyncio.timeout(DEADLINE_SECONDS):
                while desk.now(batch).is_open:
                    await asyncio.sleep(0.005)
            assert executed == {name: 20}
            executed.clear()
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)

    asyncio.run(work())


WORKER_PROGRAM = """
import asyncio, sys
from pathlib import Path
from abaci.server.batch_worker import BatchWorker, LineAnswer
from abaci.server.batches import BatchStore
from abaci.server.database import Database
from abaci.server.files import FileStore

executed = open(sys.argv[2], "a", buffering=1)

async def execute(request):
    executed.write(f"{request.body['i']}\\n")
    await asyncio.sleep(0.002 * (request.body["i"] % 5))
    return LineAnswer(400 if request.body["i"] % 10 == 0 else 200, {"echo": request.body["i"]})

async def main():
    database = Database.open(Path(sys.argv[1]))
    batches = BatchStore(database)
    worker = BatchWorker(database, batches, FileStore(database), execute, concurrency=6, poll_seconds=0.05)
    working = asyncio.create_task(worker.run())
    while batches.open_batches():
        await asyncio.sleep(0.05)
    working.cancel()

asyncio.run(main())
"""


def test_killed_again_and_again_every_line_is_answered_exactly_once(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "state")
    desk = Desk(database)
    desk.wall.now = time.time()
    num_lines, concurrency = 100, 6
    batches = [desk.submit([line(i) for i in range(num_lines)]) for _ in range(2)]
    log = tmp_path / "executed"
    log.touch()
    kill_at = [1, 40, 150]
    for num_executed in [*kill_at, None]:
        process = subprocess.Popen([sys.executable, "-c", WORKER_PROGRAM, str(tmp_path / "state"), str(log)])
        deadline = time.monotonic() + DEADLINE_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if num_executed is not None and log.read_bytes().count(b"\n") >= num_executed:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.002)
        assert process.wait(1) == (0 if num_executed is None else -signal.SIGKILL)
    for batch in batches:
        ended = desk.now(batch)
        assert ended.status is BatchStatus.COMPLETED
        outputs, failures = desk.outputs(ended), desk.failures(ended)
        answered = [int(result["custom_id"].removeprefix("request-")) for result in (*outputs, *failures)]
        assert sorted(answered) == list(range(num_lines))
        assert all(result["response"]["body"]["echo"] % 10 == 0 for result in failures)
        assert (ended.num_completed, ended.num_failed) == (len(outputs), len(failures)) == (90, 10)
    # Only what ran when the process was killed ran again.
    assert 2 * num_lines < log.read_bytes().count(b"\n") <= 2 * num_lines + concurrency * len(kill_at)
    database.close()
