"""`abaci recommend`: which models of the catalog to run on this machine."""

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abaci.cli.licence_gate import without_denied
from abaci.cli.terminal import JsonOption, aligned, megabytes, print_json, print_remark, print_text, wrapped
from abaci.errors import UsageError

if TYPE_CHECKING:
    from abaci.runtime.fit import Memory
    from abaci.runtime.recommending import Recommendation, Recommendations

_SIZE = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s*([MG])i?B?", re.IGNORECASE)
_UNIT_BYTES = {"M": 1_000_000, "G": 1_000_000_000}
_SHOWN_SCORES = 3


def recommend(
    *,
    task: Annotated[
        str, typer.Option(metavar="TASK", help="chat, code, mathematics, reasoning, tools, embedding ...")
    ] = "chat",
    context: Annotated[int, typer.Option(min=1, help="Tokens of context that must fit.")] = 8192,
    min_speed: Annotated[float, typer.Option(min=0, help="Tokens per second of an answer, at least.")] = 5.0,
    max_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory to stay below, such as 6GB; else what is available.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(envvar="ABACI_THREADS", help="Threads; else all cores this process may use.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Models to show.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Rank the models that run well here, by published quality."""
    from abaci import hub
    from abaci.runtime.machine_rates import machine_rates
    from abaci.runtime.recommending import Wishes
    from abaci.runtime.recommending import recommend as rank

    every = hub.load_catalog()
    catalog = without_denied(every)
    num_denied = len(every.models) - len(catalog.models)
    wishes = Wishes(_task(task), context, min_speed, _memory(max_memory))
    ranked = rank(
        catalog,
        wishes,
        lambda formats: machine_rates(
            sorted(formats, key=lambda one: one.label),
            num_threads=threads,
            tell=print_remark,
        ),
    )
    if as_json:
        print_json({**asdict(ranked), "models": [_as_json(one) for one in ranked.models[:limit]]})
        return
    if ranked.models:
        print_text(_table(ranked.models[:limit]))
    else:
        print_text("No model of the catalog does all of that here.")
    print_remark(_others(ranked, limit))
    if num_denied:
        print_remark(f"The licence policy denies {num_denied} of the {len(every.models)} models of the catalog.")


def _task(text: str) -> Any:
    from abaci.hub.catalog import Task

    try:
        return Task(text)
    except ValueError:
        raise UsageError(f"--task {text}: there is none", hint=f"Choose one of: {', '.join(Task)}.") from None


def _memory(text: str | None) -> "Memory":
    from abaci.runtime.fit import Memory

    memory = Memory.of_this_machine()
    if text is None:
        return memory
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"--max-memory {text}: not a size", hint="Write it like 6GB or 800MB.")
    limit_bytes = int(float(found[1]) * _UNIT_BYTES[found[2].upper()])
    return Memory(min(limit_bytes, memory.available_bytes), min(limit_bytes, memory.total_bytes))


def _as_json(one: "Recommendation") -> dict[str, Any]:
    plain = asdict(one)
    plain["memory"]["total_bytes"] = one.memory.total_bytes
    return {**plain, "why": _why(one)}


def _table(models: "tuple[Recommendation, ...]") -> str:
    """A line of figures for each, and below it the reason."""
    rows: list[tuple[str, ...]] = [("", "MODEL", "FILES", "MEMORY", "SPEED")]
    for place, one in enumerate(models, start=1):
        speed = f"{one.speed.decode_tokens_per_second:,.1f} tokens/s"
        rows.append((f"{place}.", one.name, one.quantisation, megabytes(one.memory.total_bytes), speed))
    header, *lines = aligned(rows).splitlines()
    reasons = (wrapped(f"     {_why(one)}") for one in models)
    return "\n".join([header, *(f"{line}\n{reason}" for line, reason in zip(lines, reasons, strict=True))])


def _why(one: "Recommendation") -> str:
    """One line: what was published, and the licence."""
    if one.standing is None:
        return f"no published score for this task; licence {one.licence}"
    scores = ", ".join(f"{name} {value:g}" for name, value in one.standing.scores[:_SHOWN_SCORES])
    compared = one.standing.num_compared
    ahead = f"ahead of {one.standing.num_ahead} of {compared} with the same benchmarks" if compared else "published"
    return f"{ahead} ({scores}); licence {one.licence}"


def _others(ranked: "Recommendations", limit: int) -> str:
    hidden = max(0, len(ranked.models) - limit)
    counts = (
        (hidden, "more that do"),
        (ranked.num_too_slow, "too slow"),
        (ranked.num_too_large, "too large"),
        (ranked.num_short, "with a shorter context"),
        (ranked.num_unsupported, "not run by this version"),
        (ranked.num_unknown, "of unknown size"),
    )
    others = ", ".join(f"{count} {what}" for count, what in counts if count)
    return "Scores are the publishers', of the unquantised models; memory and speed are forecasts for this machine." + (
        f" Others for the task: {others}." if others else ""
    )
