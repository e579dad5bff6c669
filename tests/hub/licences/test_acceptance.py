"""Acceptances: for exactly what was asked, whole lines only, from many processes at once."""

import json
import multiprocessing
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from abaci.errors import ResourceError
from abaci.hub.licences.acceptance import AcceptanceLog, Question

QUESTION = Question("model:7b", "LicenseRef-x", (("LicenseRef-x", "1", "0" * 64),), ("a reason",))


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text("[use]\n")
    return path


def test_an_acceptance_is_for_what_was_asked(tmp_path: Path, policy: Path) -> None:
    log = AcceptanceLog(tmp_path)
    assert not log.has(QUESTION)
    acceptance = log.add(QUESTION, how="flag", policy=policy)
    assert log.has(QUESTION)
    assert AcceptanceLog(tmp_path).has(QUESTION)
    for other in (
        replace(QUESTION, model="model:3b"),
        replace(QUESTION, licences="LicenseRef-x AND MIT"),
        replace(QUESTION, terms=(("LicenseRef-x", "1", "1" * 64),)),
        replace(QUESTION, reasons=("a reason", "another")),
    ):
        assert not log.has(other)
    [line] = log.path.read_text().splitlines()
    record = json.loads(line)
    assert record["who"] == acceptance.who
    assert "@" in record["who"]
    assert record["when"].endswith("+00:00")
    assert record["question"]["terms"] == [["LicenseRef-x", "1", "0" * 64]]
    assert (record["how"], record["policy"]) == ("flag", str(policy))


def test_only_its_owner_may_read_it(tmp_path: Path, policy: Path) -> None:
    log = AcceptanceLog(tmp_path)
    log.add(QUESTION, how="flag", policy=policy)
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_a_line_cut_off_is_no_acceptance_and_spoils_no_other(tmp_path: Path, policy: Path) -> None:
    log = AcceptanceLog(tmp_path)
    log.add(QUESTION, how="flag", policy=policy)
    whole = log.path.read_bytes()
    for length in range(1, len(whole) - 1, 37):
        log.path.write_bytes(whole[:length])
        assert not log.has(QUESTION)
        log.add(QUESTION, how="flag", policy=policy)
        assert log.has(QUESTION)
    log.path.write_bytes(b"\xff\n[]\nnull\n" + whole)
    assert log.has(QUESTION)


def _add_many(home: Path, policy: Path, model: str) -> None:
    for number in range(20):
        AcceptanceLog(home).add(replace(QUESTION, model=f"{model}{number}"), how="flag", policy=policy)


def test_many_processes_add_whole_lines(tmp_path: Path, policy: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_add_many, args=(tmp_path, policy, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    records = [json.loads(line) for line in AcceptanceLog(tmp_path).path.read_text().splitlines()]
    assert {record["question"]["model"] for record in records} == {f"{name}{n}" for name in "abc" for n in range(20)}
    assert len(records) == 60


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_told(tmp_path: Path, policy: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    with pytest.raises(ResourceError, match="could not be recorded"):
        AcceptanceLog(home).add(QUESTION, how="flag", policy=policy)


def test_a_home_that_is_a_file_is_told(tmp_path: Path, policy: Path) -> None:
    (tmp_path / "licences").touch()
    with pytest.raises(ResourceError, match="could not be recorded"):
        AcceptanceLog(tmp_path).add(QUESTION, how="flag", policy=policy)
