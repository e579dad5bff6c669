"""`abaci bench`: how fast a model runs here, alone or against another engine."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from abaci.cli.terminal import DownloadProgress, JsonOption, dimmed, print_json, print_line
from abaci.errors import UsageError

if TYPE_CHECKING:
    from abaci.bench.report import Comparison, KernelReport
    from abaci.hub import ResolvedModel


class Peer(StrEnum):
    """Engines to measure against."""

    LLAMA_CPP = "llama.cpp"


class Suite(StrEnum):
    """What to measure."""

    ENGINE = "engine"
    KERNELS = "kernels"


def bench(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A catalog name, a .gguf file, or a folder; --suite kernels can do without.",
        ),
    ] = None,
    *,
    against: Annotated[Peer | None, typer.Option(help="Measure this engine too, in turns.")] = None,
    suite: Annotated[Suite, typer.Option(help="A model in the engine, or the matrix kernels alone.")] = Suite.ENGINE,
    quick: Annotated[bool, typer.Option("--quick", help="Less of everything.")] = False,
    threads: Annotated[int | None, typer.Option(help="Threads; else all cores this process may use.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure speed and memory, and how near they come to what this machine can do."""
    if suite is Suite.KERNELS:
        if against is not None:
            raise UsageError("--suite kernels measures no other engine", hint="leave out --against")
        _print(_measure_kernels(model, quick, threads), as_json)
    elif model is None:
        raise UsageError("which model?", hint="abaci bench MODEL, for example qwen2.5-coder:0.5b")
    else:
        _print(_measure_model(model, against, quick, threads), as_json)


def _measure_model(model: str, against: Peer | None, quick: bool, threads: int | None) -> "Comparison":
    from abaci.bench.comparison import FULL_PLAN, OWN_NAME, QUICK_PLAN, compare

    resolved = _resolve(model)
    names = [OWN_NAME] if against is None else [OWN_NAME, against.value]
    plan = QUICK_PLAN if quick else FULL_PLAN
    return compare(resolved.path, resolved.name, names, plan, num_threads=threads, tell=_tell)


def _measure_kernels(model: str | None, quick: bool, threads: int | None) -> "KernelReport":
    from abaci.bench.kernel_suite import full_plan, measure_kernels, plan_of_file, quick_plan

    plan = full_plan() if model is None else plan_of_file(_resolve(model).path)
    return measure_kernels(quick_plan(plan) if quick else plan, num_threads=threads, tell=_tell)


def _resolve(model: str) -> "ResolvedModel":
    from abaci import hub

    with DownloadProgress(model) as progress:
        return hub.resolve(model, download=True, progress=progress)


def _print(report: "Comparison | KernelReport", as_json: bool) -> None:
    if as_json:
        from abaci.bench.report import as_plain

        print_json(as_plain(report))
    else:
        from abaci.bench.tables import print_report

        print_report(report)


def _tell(line: str) -> None:
    print_line(dimmed(line))
