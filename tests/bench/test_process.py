"""Contenders as processes, and what is read of the system about them."""

import os
import subprocess
import time

import pytest

from abaci.bench import process
from abaci.bench.process import (
    ContenderProcess,
    MemoryWatch,
    Neighbours,
    busy_process,
    descendants,
    memory_of_status,
)
from abaci.errors import AbaciError


def test_a_missing_library_is_an_error_that_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "llama_cpp.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(AbaciError, match=r"llama\.cpp cannot be imported: not here") as caught:
        ContenderProcess("llama.cpp")
    assert "abaci[bench]" in caught.value.hint


def test_a_process_that_dies_is_reported_with_its_last_words():
    with pytest.raises(AbaciError, match="nobody ended with code 1") as caught:
        ContenderProcess("nobody")
    assert caught.value.hint.endswith("KeyError: 'nobody'")


def test_this_engine_measures_itself_in_a_child(smollm2_path):
    with ContenderProcess("abaci") as contender:
        description = contender.open(str(smollm2_path), 1)
        assert description.vocab_size == 49152
        assert "Q4_1" in description.facts["kernels"]
        assert contender.options(4, 1) == {}
        prefill = contender.prefill(list(range(1000, 1040)))
        assert prefill.num_tokens == 40
        assert prefill.seconds > 0
        prompts = [list(range(1000 + stream, 1040 + stream)) for stream in range(3)]
        decode = contender.decode(prompts, 12, 60.0)
        assert decode.num_tokens % 3 == 0
        assert 24 <= decode.num_tokens <= 36
        share = contender.python_share()
        assert 100 <= share.num_steps <= 130
        assert 0 < share.step_seconds < share.wall_seconds
        with pytest.raises(AbaciError, match="nothing to set"):
            contender.configure({"flash_attention": True})


def test_a_limit_ends_decoding_early(smollm2_path):
    with ContenderProcess("abaci") as contender:
        contender.open(str(smollm2_path), 1)
        limited = contender.decode([list(range(1000, 1010))], 4000, 0.5)
    assert 1 <= limited.num_tokens < 4000


def test_memory_of_a_process_by_kind():
    text = "Name:\tpython\nVmPeak:\t 900 kB\nVmHWM:\t  200 kB\nRssAnon:\t 100 kB\nRssFile:\t 40 kB\nRssShmem:\t 8 kB\n"
    assert memory_of_status(text) == {"VmHWM": 204800, "RssAnon": 102400, "RssFile": 40960, "RssShmem": 8192}


def test_memory_watch_sees_a_peak_that_is_gone_at_the_end():
    num_bytes = 64 << 20
    with MemoryWatch(os.getpid()) as watch:
        before = memory_of_status(watch._status.read_text())["RssAnon"]
        block = bytearray(b"x" * 4096) * (num_bytes // 4096)
        time.sleep(0.2)
        del block
    assert watch.peak.anonymous_bytes >= before + num_bytes * 0.9
    assert watch.peak.total_bytes >= watch.peak.anonymous_bytes


def test_a_busy_process_is_bound_to_its_processor_and_ends():
    processor = min(os.sched_getaffinity(0))
    known = set(descendants(os.getpid()))
    with busy_process(processor):
        (child,) = set(descendants(os.getpid())) - known
        assert os.sched_getaffinity(child) == {processor}
    assert child not in descendants(os.getpid())


def test_who_descends_from_a_child_is_none_of_the_neighbours():
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, text=True) as shell:
        grandchild = int(shell.stdout.readline())
        try:
            assert {shell.pid, grandchild} <= set(descendants(os.getpid()))
        finally:
            subprocess.run(["kill", str(grandchild)], check=True)


def test_neighbours_are_whoever_is_not_us(monkeypatch):
    clocks = {"_machine_seconds": 100.0, "_own_seconds": 10.0, "perf_counter": 0.0}
    monkeypatch.setattr(process, "_machine_seconds", lambda: clocks["_machine_seconds"])
    monkeypatch.setattr(process, "_own_seconds", lambda: clocks["_own_seconds"])
    monkeypatch.setattr(process, "perf_counter", lambda: clocks["perf_counter"])
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    neighbours = Neighbours()
    clocks.update(_machine_seconds=108.0, _own_seconds=15.0, perf_counter=5.0)
    assert neighbours.share() == pytest.approx(3.0 / 10.0)
    clocks.update(_machine_seconds=100.0)
    assert neighbours.share() == 0.0
