"""`abaci bench`: how fast a model runs here, alone or against others: in the engine, in its kernels, over HTTP."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from abaci.cli.terminal import (
    DownloadProgress,
    JsonOption,
    KvTypeOption,
    ModelArgument,
    OfflineOption,
    print_json,
    print_remark,
)
from abaci.cli.verbs import CommandLine
from abaci.errors import UsageError
from abaci.tensor import CacheType

if TYPE_CHECKING:
    from abaci.bench.report import Comparison, KernelReport
    from abaci.hub import ResolvedModel


class _Suites(TyperGroup):
    """`abaci bench MODEL` is `abaci bench engine MODEL`, and `abaci bench --suite NAME` is `abaci bench NAME`."""

    def parse_args(self, context: Any, arguments: list[str]) -> list[str]:
        if arguments and arguments[0] not in (*self.commands, "--help"):
            suite, arguments = _suite(arguments)
            if suite not in self.commands:
                raise UsageError(f"--suite: {suite} is none", hint=f"Choose one of: {', '.join(self.commands)}.")
            arguments = [suite, *arguments]
        return super().parse_args(context, arguments)


def _suite(arguments: list[str]) -> tuple[str, list[str]]:
    """What `--suite NAME` or `--suite=NAME` says, else the engine; and the other arguments."""
    for place, argument in enumerate(arguments):
        flag, equals, name = argument.partition("=")
        if flag == "--suite":
            rest = arguments[place + 1 :]
            if not equals:
                name, rest = next(iter(rest), "nothing"), rest[1:]
            return name, [*arguments[:place], *rest]
    return "engine", arguments


bench = CommandLine(cls=_Suites, no_args_is_help=True, rich_markup_mode=None)


@bench.callback()
def _bench() -> None:
    """Measure speed. `abaci bench MODEL` measures the engine: see `abaci bench engine --help`.

    `--suite NAME` is another way to name what is measured.
    """


_Choice = TypeVar("_Choice", bound=StrEnum)


class Peer(StrEnum):
    """Engines to measure against."""

    LLAMA_CPP = "llama.cpp"
    IK_LLAMA_CPP = "ik_llama.cpp"


ThreadsOption = Annotated[int | None, typer.Option(help="Threads; else all cores this process may use.")]
_MAX_STREAMS = 1024
QuickOption = Annotated[bool, typer.Option("--quick", help="Less of everything.")]


@bench.command()
def engine(
    model: ModelArgument,
    *,
    against: Annotated[
        str, typer.Option(metavar="NAME,...", help=f"Measure these too, in turns: {', '.join(Peer)}.")
    ] = "",
    streams: Annotated[
        str, typer.Option(metavar="N,...", help="How many streams are decoded together; else 1 to 32.")
    ] = "",
    quick: QuickOption = False,
    threads: ThreadsOption = None,
    kv_type: KvTypeOption = CacheType.F16,
    offline: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure a model's speed and memory. The report says how near they come to what this machine can do."""
    from abaci.bench.comparison import FULL_PLAN, OWN_NAME, QUICK_PLAN, compare

    plan = QUICK_PLAN if quick else FULL_PLAN
    if streams:
        plan = plan.with_streams(_numbers("--streams", streams))
    names = [OWN_NAME, *dict.fromkeys(_choice(Peer, "--against", name).value for name in _words(against))]
    resolved = _resolve(model)
    comparison = compare(
        resolved.path, resolved.name, names, plan, num_threads=threads, kv_type=kv_type, tell=print_remark
    )
    _print(comparison, as_json)


@bench.command()
def kernels(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Measure the weight formats of this model only.")
    ] = None,
    *,
    quick: QuickOption = False,
    threads: ThreadsOption = None,
    offline: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the matrix kernels alone."""
    from abaci.bench.kernel_suite import full_plan, measure_kernels, plan_of_file, quick_plan

    plan = full_plan() if model is None else plan_of_file(_resolve(model).path)
    _print(measure_kernels(quick_plan(plan) if quick else plan, num_threads=threads, tell=print_remark), as_json)


@bench.command()
def http(
    model: ModelArgument,
    *,
    against: Annotated[
        str,
        typer.Option(metavar="NAME,...", help="Of llama.cpp, openvino, vllm, engine (no server)."),
    ] = "",
    loads: Annotated[
        str, typer.Option("--load", metavar="KIND,...", help="Of streams, arrivals, prefix, turns, visits; else all.")
    ] = "",
    streams: Annotated[int, typer.Option(min=1, help="Users at a time in the closed loop.")] = 16,
    rate: Annotated[float, typer.Option(help="Requests per second in the open loop.")] = 0.5,
    rounds: Annotated[int | None, typer.Option(min=1, help="How often each load is repeated.")] = None,
    python: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="Interpreter of a server with its own environment."),
    ] = None,
    model_for: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="The same model in a format that server reads.")
    ] = None,
    quick: QuickOption = False,
    threads: ThreadsOption = None,
    offline: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put `abaci serve` under load. Other servers get the same load, in turns."""
    from abaci.bench.http.comparison import Extent, Kind, compare_servers
    from abaci.bench.http.servers import Plan
    from abaci.engine.threads import plan_threads

    if rate <= 0:
        raise UsageError(f"--rate {rate:g} is no rate", hint="Give requests per second, above 0.")
    kinds = tuple(_choice(Kind, "--load", name) for name in _words(loads)) or tuple(Kind)
    extent = Extent(streams, rate, rounds or (1 if quick else 3), kinds, quick)
    pythons, model_paths = _paths("--python", python), _paths("--model-for", model_for)
    resolved = _resolve(model)
    plan = Plan(resolved.path, plan_threads(threads).num_threads, max(streams, 16), pythons, model_paths)
    report = compare_servers(resolved.name, _words(against), plan, extent, tell=print_remark)
    if as_json:
        from abaci.bench.report import as_plain

        print_json(as_plain(report))
    else:
        from abaci.bench.http.tables import print_http_report

        print_http_report(report)


def _choice(choices: type[_Choice], flag: str, name: str) -> _Choice:
    try:
        return choices(name)
    except ValueError:
        raise UsageError(f"{flag}: {name} is none", hint=f"Choose one of: {', '.join(choices)}.") from None


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(flag: str, text: str) -> list[int]:
    words = _words(text)
    if not words or any(not word.isdecimal() or not 1 <= int(word) <= _MAX_STREAMS for word in words):
        raise UsageError(f"{flag} {text}: not numbers from 1 to {_MAX_STREAMS}", hint=f"For example: {flag} 1,8")
    return [int(word) for word in words]


def _paths(flag: str, given: list[str] | None) -> dict[str, Path]:
    paths = {}
    for item in given or ():
        name, equals, path = item.partition("=")
        if not equals or not Path(path).exists():
            raise UsageError(f"{flag} {item}: no such file", hint=f"For example: {flag} vllm=/path/to/it")
        paths[name] = Path(path)
    return paths


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
