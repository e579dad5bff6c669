"""`abaci bench` around its suites, and what its tables say."""

import json
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console
from typer.testing import CliRunner

from abaci.bench import comparison, kernel_suite, tables
from abaci.bench.contender import Description
from abaci.bench.report import (
    CeilingSample,
    Comparison,
    Figure,
    KernelFigure,
    KernelReport,
    Machine,
    Measurement,
    Unit,
)
from abaci.cli.app import app
from abaci.kernels.ceilings import Ceilings
from abaci.tensor import CacheType

CEILINGS = Ceilings(30e9, 900e9)
MACHINE = Machine("Some Processor", 2, 24_000_000_000, "Linux 6", "3.11", 0.1)


def comparison_report(neighbours_share=0.0):
    speed = Figure(
        "prefill 512",
        Unit.TOKENS_PER_SECOND,
        True,
        (
            Measurement("abaci", (700.0, 720.0, 650.0), {}, read_share=0.02, int8_share=0.61),
            Measurement("llama.cpp", (200.0,), {"flash_attention": True}, read_share=0.01, int8_share=0.2),
        ),
        neighbours_share,
    )
    python = Figure("Python's share", Unit.SHARE, False, (Measurement("abaci", (0.021,), {}),), 0.0)
    return Comparison(
        model="a-model",
        file_bytes=491_400_064,
        num_threads=2,
        machine=MACHINE,
        ceilings=CEILINGS,
        ceiling_samples=(CeilingSample("before", CEILINGS),),
        contenders={
            "abaci": Description("0.1.0", {"threads": "2, pinned"}, 1000),
            "llama.cpp": Description("llama-cpp-python 1", {}, 1000),
        },
        figures=(speed, python),
        seconds=12.0,
    )


@pytest.fixture
def printed(monkeypatch):
    """What a report looks like on paper."""

    def render(report):
        paper = StringIO()
        monkeypatch.setattr(tables, "Console", lambda **options: Console(file=paper, width=160))
        tables.print_report(report)
        return paper.getvalue()

    return render


def test_the_table_has_medians_ratios_and_shares(printed):
    text = printed(comparison_report())
    line = next(line for line in text.splitlines() if "prefill 512" in line)
    cells = [cell.strip() for cell in line.split("│")[2:8]]
    assert cells == ["700.0 tokens/s", "200.0 tokens/s", "3.50x", "1,148 tokens/s", "2%", "61%"]
    assert "2.1%" in next(line for line in text.splitlines() if "Python's share" in line)
    assert "llama.cpp was fastest with flash attention on: prefill 512" in text
    assert "memory read 30.0 GB/s, int8 900 GOPS" in text
    assert "disturbed" not in text


def test_several_peers_have_a_column_each(printed):
    measurements = tuple(Measurement(name, (speed,), {}) for name, speed in (("abaci", 6.0), ("a", 3.0), ("b", 2.0)))
    figure = Figure("prefill 512", Unit.TOKENS_PER_SECOND, True, measurements, 0.0)
    contenders = dict.fromkeys(("abaci", "a", "b"), Description("1", {}, 100))
    text = printed(replace(comparison_report(), contenders=contenders, figures=(figure,)))
    assert "to a" in text and "to b" in text
    line = next(line for line in text.splitlines() if "prefill 512" in line)
    assert [cell.strip() for cell in line.split("│")[5:7]] == ["2.00x", "3.00x"]


def test_a_disturbed_figure_is_named(printed):
    assert "others took up to 30% of the processors during: prefill 512" in printed(comparison_report(0.3))


def test_the_kernel_table_has_rates_and_what_was_skipped(printed):
    streamed = KernelFigure("avx2", "Q4_K", 4864, 1024, 4, True, (0.001,), (30e9,), 3_000_000)
    seconds, ceilings = (0.001, 0.002, 0.001), (100e9, 50e9, 200e9)
    cached = KernelFigure("avx2", "Q6_K", 500, 1000, 16, False, seconds, ceilings, 3_000_000)
    report = KernelReport(2, MACHINE, {"avx2": CEILINGS}, (streamed, cached), ("avx2 Q8_0 512 x 64 x 32",), 0.0, 1.0)
    text = printed(report)
    line = next(line for line in text.splitlines() if "Q4_K" in line)
    assert [cell.strip() for cell in line.split("│")[1:9]] == ["Q4_K", "1024", "4864", "4", "40", "", "3.0", "10%"]
    line = next(line for line in text.splitlines() if "Q6_K" in line)
    assert [cell.strip() for cell in line.split("│")[1:9]] == ["Q6_K", "1000", "500", "16", "16", "16%", "", ""]
    assert "avx2 Q8_0 512 x 64 x 32" in text


def bench(*arguments):
    return CliRunner().invoke(app, ["bench", *arguments])


def test_json_is_one_document(monkeypatch, tmp_path):
    path = tmp_path / "model.gguf"
    path.touch()
    asked = {}

    def compare(path, model, names, plan, *, num_threads, kv_type, tell):
        asked.update(path=path, names=names, plan=plan, num_threads=num_threads, kv_type=kv_type)
        tell("a line on the way")
        return comparison_report()

    monkeypatch.setattr(comparison, "compare", compare)
    result = bench(str(path), "--against", "llama.cpp", "--quick", "--threads", "1", "--kv-type", "int8", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["figures"][0]["ratios"] == {"llama.cpp": 3.5}
    assert document["figures"][0]["measurements"][0]["median"] == 700.0
    assert document["contenders"]["abaci"]["version"] == "0.1.0"
    assert asked == {
        "path": path,
        "names": ["abaci", "llama.cpp"],
        "plan": comparison.QUICK_PLAN,
        "num_threads": 1,
        "kv_type": CacheType.INT8,
    }
    assert "a line on the way" in result.stderr


def test_streams_take_the_place_of_the_usual_ones():
    plan = comparison.FULL_PLAN.with_streams((1, 8))
    assert [load.name for load in plan.workloads] == [
        "prefill 512",
        "prefill 2048",
        "decode, 1 stream",
        "decode, 8 streams",
    ]
    assert [load.step_tokens for load in plan.workloads[-2:]] == [1, 1]
    assert plan.repetitions == comparison.FULL_PLAN.repetitions


def test_the_engine_is_measured_where_no_suite_is_named():
    assert all(suite in bench("--help").stdout for suite in ("engine", "kernels", "http"))
    assert "bench engine" in bench("--no-such-option").stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("kernels", "--json"),
        ("--suite", "kernels", "--json"),
        ("--json", "--suite=kernels"),
        ("--suite=kernels", "--json"),
    ],
)
def test_a_suite_can_be_named_by_a_flag(monkeypatch, arguments):
    asked = []

    def measure(plan, **settings):
        asked.append(plan)
        return KernelReport(2, MACHINE, {"avx2": CEILINGS}, (), (), 0.0, 1.0)

    monkeypatch.setattr(kernel_suite, "measure_kernels", measure)
    monkeypatch.setattr(kernel_suite, "full_plan", lambda: "all")
    assert json.loads(bench(*arguments).stdout)["num_threads"] == 2
    assert asked == ["all"]


def test_a_suite_named_by_a_flag_takes_a_model(monkeypatch, smollm2_path):
    asked = []
    monkeypatch.setattr(kernel_suite, "plan_of_file", asked.append)
    monkeypatch.setattr(kernel_suite, "measure_kernels", lambda plan, **settings: comparison_report())
    assert bench(str(smollm2_path), "--suite", "kernels", "--json").exit_code == 0
    assert asked == [smollm2_path]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("engine",), "missing argument 'MODEL'"),
        (("kernels", "--against", "llama.cpp"), "no such option"),
        (("--suite", "kernel"), "--suite: kernel is none"),
        (("some-model", "--suite"), "--suite: nothing is none"),
        (("engine", "some-model", "--against", "ollama"), "Choose one of: llama.cpp, ik_llama.cpp"),
        (("engine", "some-model", "--streams", "1,0"), "--streams 1,0: not numbers"),
        (("http", "some-model", "--load", "everything"), "Choose one of: streams, arrivals, prefix, turns, visits"),
        (("http", "some-model", "--rate", "0"), "--rate 0 is no rate"),
        (("http", "some-model", "--python", "vllm"), "--python vllm"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    result = bench(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
