"""`abaci search`: find models in the catalog, without the network."""

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abaci.cli.terminal import JsonOption, print_json, print_line, print_text, table
from abaci.errors import UsageError

if TYPE_CHECKING:
    from abaci.hub.catalog import Catalog, CatalogModel

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


def search(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT", help="Words of a name, family, publisher or task; none: all models."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK", help="What it is made for: chat, code, mathematics, reasoning, tools, embedding ..."
        ),
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="At most so many parameters, e.g. 8B or 500M.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(metavar="NAME", help="Part of the licence's identifier, e.g. apache or MIT.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find models in the catalog."""
    from abaci.hub.catalog import SearchConditions, load_catalog
    from abaci.hub.catalog import search as find

    conditions = SearchConditions(
        words=tuple(words or ()),
        task=None if task is None else _task(task),
        most_parameters=None if max_size is None else _num_parameters(max_size),
        licence=licence,
    )
    catalog = load_catalog()
    models = find(catalog, conditions)
    if as_json:
        print_json([_document(model) for model in models])
    elif models:
        header = ("NAME", "PARAMETERS", "CONTEXT", "LICENCE", "GOOD AT")
        print_text(table([header, *(_row(model) for model in models)]))
    else:
        print_line(_nothing(catalog, words or []))


def _task(text: str) -> Any:
    from abaci.hub.catalog import Task

    try:
        return Task(text.lower())
    except ValueError as error:
        raise UsageError(f"there is no task {text!r}", hint=f"Choose one of: {', '.join(Task)}.") from error


def _num_parameters(text: str) -> int:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kmbt]?)", text.lower())
    if match is None:
        raise UsageError(f"{text!r} is not a number of parameters", hint="Write it like 8B, 1.5B or 500M.")
    return round(float(match[1]) * _UNITS[match[2]])


def _nothing(catalog: "Catalog", words: list[str]) -> str:
    from abaci.hub.catalog import near_names

    near = near_names("".join(words), catalog.models)
    return (
        f"no model of the catalog is like that; near: {', '.join(near)}"
        if near
        else "no model of the catalog is like that"
    )


def _row(model: "CatalogModel") -> tuple[str, ...]:
    return (
        model.name,
        _parameters(model),
        "" if model.context is None else f"{model.context.num_tokens / 1024:,.0f}K",
        model.licence.expression,
        ", ".join(model.tasks),
    )


def _parameters(model: "CatalogModel") -> str:
    stated = model.parameters
    if stated is None:
        return ""
    active = "" if stated.active == stated.total else f" ({_count(stated.active)} active)"
    return _count(stated.total) + active


def _count(number: int) -> str:
    return f"{number / 1e9:.3g}B" if number >= 10**9 else f"{number / 1e6:.3g}M"


def _document(model: "CatalogModel") -> dict[str, Any]:
    parameters, context = model.parameters, model.context
    return {
        "name": model.name,
        "aliases": list(model.aliases),
        "title": model.title,
        "family": model.family,
        "publisher": model.publisher,
        "architecture": model.architecture,
        "repository": None if model.repository is None else str(model.repository),
        "bases": [str(base) for base in model.bases],
        "licence": model.licence.expression,
        "tasks": list(model.tasks),
        "num_parameters": None if parameters is None else parameters.total,
        "num_active_parameters": None if parameters is None else parameters.active,
        "context_tokens": None if context is None else context.num_tokens,
        "extended_context_tokens": None if context is None else context.num_extended_tokens,
        "quantisations": [variant.quantisation for variant in model.variants],
        "scores": [
            {"benchmark": score.benchmark, "value": score.value, "thinking": score.is_thinking, "source": score.source}
            for score in model.scores
        ],
    }
