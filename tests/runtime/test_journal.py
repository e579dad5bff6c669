"""The journal: totals survive, processes do not disturb each other, damaged lines cost themselves only."""

import json
import multiprocessing
import stat
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abaci.errors import UsageError
from abaci.generation import Usage
from abaci.runtime import journal as journals
from abaci.runtime.journal import Journal, UsageCounter, UsedModel

ENTRY = UsedModel("2026-11-22", "qwen2.5:0.5b", 1, 20, 5, 10)


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "journal")


def test_what_is_appended_is_read(journal):
    entries = [ENTRY, UsedModel("2026-12-01", "other", 2, 1, 0, 0)]
    journal.append(entries)
    assert list(journal.read()) == entries
    assert list(journal.read(date(2026, 11, 30))) == entries[1:]
    assert {path.name for path in journal.folder.iterdir()} == {"2026-11.jsonl", "2026-12.jsonl"}


def test_nobody_else_may_read_it(journal):
    journal.append([ENTRY])
    (path,) = journal.folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(journal.folder.stat().st_mode) == 0o700


def _append(folder, count):
    for _ in range(count):
        Journal(folder).append([ENTRY])


def test_processes_append_side_by_side(journal):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_append, args=(journal.folder, 200)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert list(journal.read()) == [ENTRY] * 600


@given(garbage=st.binary(max_size=200))
def test_damaged_lines_are_passed_over(tmp_path_factory, garbage):
    journal = Journal(tmp_path_factory.mktemp("damaged"))
    journal.append([ENTRY])
    (path,) = journal.folder.iterdir()
    with path.open("ab") as file:
        file.write(garbage + b"\n")
    journal.append([ENTRY])
    assert [one for one in journal.read() if one == ENTRY] == [ENTRY, ENTRY]


@pytest.mark.parametrize(
    "changes",
    [
        {"requests": -1},
        {"requests": True},
        {"requests": 1.5},
        {"prompt_tokens": 1 << 60},
        {"day": "2026-13-01"},
        {"day": 5},
        {"model": 7},
        {"model": "a\x1b[2J"},
        {"key": "somebody"},
        {"further": 1},
    ],
)
def test_lines_of_others_are_not_believed(journal, changes):
    journal.append([ENTRY])
    (path,) = journal.folder.iterdir()
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(values) + "\n")
    assert list(journal.read()) == []


def test_endless_lines_do_not_fill_memory(journal):
    journal.append([ENTRY])
    (path,) = journal.folder.iterdir()
    with path.open("ab") as file:
        file.write(b"x" * 100_000 + b"\n")
    journal.append([ENTRY])
    assert list(journal.read()) == [ENTRY, ENTRY]


def test_a_link_is_not_followed(journal, tmp_path):
    journal.folder.mkdir()
    target = tmp_path / "target"
    target.write_text("")
    (journal.folder / "2026-11.jsonl").symlink_to(target)
    journal.append([ENTRY])
    assert target.read_text() == ""


def test_a_folder_that_cannot_be_written_to_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    Journal(tmp_path / "file").append([ENTRY])


def test_a_counter_adds_up_and_writes_at_the_end(journal):
    counter = UsageCounter(journal, "m", "llama")
    counter.add([Usage(10, 5, cached_tokens=2), Usage(1, 1)])
    counter.add([Usage(3, 0)])
    assert list(journal.read()) == []
    counter.flush()
    counter.flush()
    (used,) = journal.read()
    assert (used.model, used.requests, used.prompt_tokens, used.cached_tokens, used.completion_tokens) == (
        "m", 3, 14, 2, 6
    )  # fmt: skip


def test_a_long_process_writes_now_and_then(journal, monkeypatch):
    monkeypatch.setattr(journals, "_FLUSH_SECONDS", -1.0)
    UsageCounter(journal, "m", "llama").add([Usage(10, 5)])
    assert len(list(journal.read())) == 1


@pytest.mark.parametrize(("switch", "is_kept"), [("", True), ("1", True), ("0", False), ("off", False)])
def test_the_switch(monkeypatch, tmp_path, switch, is_kept):
    monkeypatch.setenv("ABACI_JOURNAL", switch)
    monkeypatch.setenv("ABACI_STATE_DIR", str(tmp_path))
    assert (Journal.of_this_user() is not None) is is_kept


def test_a_switch_that_is_neither_is_an_error(monkeypatch):
    monkeypatch.setenv("ABACI_JOURNAL", "maybe")
    with pytest.raises(UsageError, match="maybe"):
        Journal.of_this_user()


def test_without_a_journal_nothing_is_counted():
    counter = UsageCounter(None, "m", "llama")
    counter.add([Usage(1, 1)])
    counter.flush()
