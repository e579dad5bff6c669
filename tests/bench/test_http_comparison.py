"""Load, servers and reports together, with a server that streams from a script."""

import os
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from abaci.bench.http import tables
from abaci.bench.http.client import Exchange
from abaci.bench.http.comparison import measure
from abaci.bench.http.generator import Address, Run, run_load
from abaci.bench.http.report import HttpReport, Latency, latency, summarise, summarise_visits
from abaci.bench.http.servers import Launch, Plan, ServerProcess, launch_of
from abaci.bench.http.workloads import Arrivals, Conversation, Load, Prefix, Streams, Turns, Visits
from abaci.bench.report import Machine, as_plain
from abaci.errors import AbaciError, UsageError

FAKE = Path(__file__).with_name("fake_http_server.py")


def launch(mode="good", name="fake"):
    return Launch(name, (sys.executable, str(FAKE), mode))


def count_words(text):
    return len(text.split())


@pytest.fixture(scope="module")
def server():
    with ServerProcess(launch()) as process:
        yield process


def measured(server, *workloads, rounds=1):
    return list(measure([server], workloads, rounds, count_words, lambda line: None))


def test_a_closed_loop_keeps_so_many_streams_and_no_more(server):
    run = server.run(Load(tuple(Conversation((f"question {n}",), 5) for n in range(6)), num_streams=2))
    assert [exchange.error for exchange in run.exchanges] == [None] * 6
    assert all(exchange.text == "w0 w1 w2 w3 w4 " for exchange in run.exchanges)
    moments = [exchange.sent_seconds for exchange in run.exchanges]
    overlaps = [sum(one.sent_seconds <= now < one.end_seconds for one in run.exchanges) for now in moments]
    assert max(overlaps) == 2
    assert 0 < run.generator_cpu_seconds < 5


def test_an_open_loop_waits_for_nobody(server):
    conversations = tuple(Conversation(("question",), 20, start) for start in (0.0, 0.02, 0.05))
    run = server.run(Load(conversations, num_streams=None))
    sent = sorted(exchange.sent_seconds for exchange in run.exchanges)
    assert sent[1] - sent[0] >= 0.015 and sent[2] - sent[0] >= 0.045
    assert sent[2] < min(exchange.end_seconds for exchange in run.exchanges)


def test_every_turn_carries_what_was_said_before(server):
    run = server.run(Load((Conversation(("one two", "three", "four"), 3),), num_streams=1))
    assert [exchange.prompt_tokens for exchange in run.exchanges] == [2, 2 + 3 + 1, 2 + 3 + 1 + 3 + 1]


def test_every_kind_of_load_gives_figures(server):
    workloads = (
        Streams(2, 4, 4),
        Arrivals(50.0, 4, 4),
        Prefix(30, 2, 3, is_shared=True),
        Turns(2, 2, 3),
        Visits(2, 30, 50, (0.03,)),
    )
    results = measured(server, *workloads, rounds=2)
    assert [result.load for result in results] == [
        *(workload.name for workload in workloads),
        "... while a prompt of 50 tokens is computed",
    ]
    assert [result.num_errors for result in results] == [0] * 6
    assert [result.num_requests for result in results] == [8, 8, 4, 8, 6, 2]
    assert [len(result.rounds_tokens_per_second) for result in results] == [2, 2, 2, 2, 2, 0]
    streams = results[0]
    assert streams.output_tokens == 32
    assert 0 < streams.tokens_per_second < 2 / 0.004
    assert 0.0001 < streams.inter_token.p50 < 1  # 0.004 s and what else runs here
    assert streams.first_token.num_samples == 8 and streams.inter_token.num_samples == 8 * 3


def test_a_server_is_stopped_while_it_is_not_measured(server):
    for _ in range(20):
        server.run(Load((Conversation(("question",), 1),), num_streams=1))
        threads = Path(f"/proc/{server.process_id}/task").glob("*/stat")
        assert {thread.read_text().rpartition(")")[2].split()[0] for thread in threads} == {"T"}


@pytest.mark.parametrize(("mode", "problem"), [("refuse", "status 503"), ("break", "the stream broke off")])
def test_errors_are_counted_and_told(mode, problem):
    with ServerProcess(launch(mode)) as server:
        (result,) = measured(server, Streams(2, 4, 6))
    assert (result.num_requests, result.num_errors) == (4, 4)
    assert problem in result.first_error
    assert result.tokens_per_second is None and result.first_token is None


def test_a_server_that_is_gone_is_an_error_of_each_request():
    with ServerProcess(launch()) as server:
        address = server.address
    run = run_load(address, Load((Conversation(("x",), 2),), num_streams=1))
    assert run.exchanges[0].error.startswith("connection:")


def test_a_server_that_does_not_start_is_told_with_its_last_words():
    with pytest.raises(AbaciError, match="the server of fake ended with code 1") as error:
        ServerProcess(launch("die"))
    assert error.value.hint == "no luck today"


def test_ending_a_server_ends_what_it_started(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, {str(FAKE)!r}])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "child.wait()\n"
    )
    with ServerProcess(Launch("parent", (sys.executable, str(script)))) as server:
        assert server.address.model == "fake"
        child = int((tmp_path / "pid").read_text())
        os.kill(child, 0)
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or ") Z " in Path(f"/proc/{child}/stat").read_text():
            return
        time.sleep(0.02)
    pytest.fail("the child lives on")


def plan(path, **changes):
    return Plan(path, 2, 16, changes.get("pythons", {}), changes.get("model_paths", {}))


def test_commands(tmp_path):
    model = tmp_path / "m.gguf"
    own = launch_of("abaci", plan(model), tmp_path)
    assert own.command[:5] == (sys.executable, "-m", "abaci", "serve", str(model))
    assert own.command[5:] == ("--port", "0", "--threads", "2", "--state-dir", str(tmp_path))
    other = launch_of("llama.cpp", plan(model, pythons={"llama.cpp": Path("/py")}), tmp_path)
    assert other.command[:5] == ("/py", "-m", "abaci.bench.http.adapter", "llama.cpp", str(model))
    third = launch_of("vllm", plan(model, model_paths={"vllm": tmp_path}), tmp_path)
    assert str(tmp_path) in third.command and third.environment["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(UsageError, match="vllm does not read"):
        launch_of("vllm", plan(model), tmp_path)
    with pytest.raises(UsageError, match="no server is called sglang"):
        launch_of("sglang", plan(model), tmp_path)


def exchange(sent, tokens, end, *, error=None):
    return Exchange(sent, tuple(tokens), end, 10, 4, len(tokens), "text", error)


def test_speed_is_all_tokens_over_the_whole_time_and_what_failed_has_none():
    runs = [
        Run((exchange(0.0, (1, 2, 3), 3.0), exchange(1.0, (3, 4), 5.0)), (), 0.5),
        Run((exchange(0.0, (1,), 2.0), exchange(0.0, (1,), 4.0, error="broke")), (), 0.5),
    ]
    result = summarise("load", "server", runs)
    assert result.rounds_tokens_per_second == (1.0, 0.25)
    assert result.tokens_per_second == 0.625
    assert (result.num_requests, result.num_errors, result.first_error) == (4, 1, "broke")
    assert (result.prompt_tokens, result.cached_tokens, result.output_tokens) == (30, 12, 6)
    assert result.first_token == Latency(1.0, 2.0, 2.0, 3)
    assert result.generator_seconds_per_token == pytest.approx(1 / 6)


def test_gaps_during_a_visit_are_told_apart():
    stream = exchange(0.0, (1.0, 1.1, 1.2, 1.9, 2.0, 2.1), 2.1)
    run = Run((stream,), (exchange(1.15, (1.95,), 2.2),), 0.0)
    assert summarise("load", "server", [run]).inter_token.num_samples == 2
    visited = summarise_visits("visits", "server", [run])
    assert visited.inter_token.num_samples == 3
    assert visited.inter_token.p99 == pytest.approx(0.7)
    assert visited.first_token.p50 == pytest.approx(0.8)


def test_percentiles_are_times_that_were_seen():
    assert latency([float(n) for n in range(1, 101)]) == Latency(50.0, 90.0, 99.0, 100)
    assert latency([3.0]) == Latency(3.0, 3.0, 3.0, 1)
    assert latency([]) is None


def test_the_report_for_people_and_for_programs(monkeypatch):
    own = summarise("2 streams", "abaci", [Run((exchange(0.0, (0.5, 0.51), 1.0),), (), 0.001)])
    other = summarise("2 streams", "other", [Run((exchange(0.0, (1.0, 1.2), 4.0, error="broke"),), (), 0.0)] * 2)
    slow = summarise("2 streams", "slow", [Run((exchange(0.0, (2.0, 2.2), 4.0),), (), 0.0)])
    machine = Machine("Some Processor", 2, 24_000_000_000, "Linux 6", "3.11", 0.1)
    report = HttpReport("a-model", 2, machine, {"abaci": "abaci serve"}, (own, other, slow), 0.3, 12.0)
    paper = StringIO()
    monkeypatch.setattr(tables, "Console", lambda **options: Console(file=paper, width=170))
    tables.print_http_report(report)
    rows = {cells[2]: cells for line in paper.getvalue().splitlines() if len(cells := _cells(line)) == 13}
    assert rows["abaci"][1:] == ["2 streams", "abaci", "2.0", "", *["500 ms"] * 3, *["10.0 ms"] * 3, "", ""]
    assert rows["slow"][1:7] == ["", "slow", "0.5", "4.00x", "2.00 s", "2.00 s"]
    assert rows["other"][11] == "2 of 2"
    assert "other, 2 streams: broke" in paper.getvalue()
    assert "others took 30%" in paper.getvalue() and "500 us" in paper.getvalue()
    document = as_plain(report)
    assert document["results"][0]["tokens_per_second"] == 2.0
    assert document["results"][1]["first_token"] is None


def _cells(line):
    return [cell.strip() for cell in line.split("│")]


def test_an_address_is_what_the_server_says(server):
    assert server.address == Address("127.0.0.1", server.address.port, "fake")
