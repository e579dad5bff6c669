"""`abaci list`: the models that are here, or with `--catalog` all that the catalog has."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from abaci.cli.terminal import JsonOption, megabytes, print_json, print_line, print_text, table

if TYPE_CHECKING:
    from abaci.hub import StoredModel
    from abaci.hub.catalog import Catalog, CatalogModel


@dataclass(frozen=True, slots=True)
class _Listed:
    name: str
    title: str
    num_bytes: int | None
    """None where the catalog has not seen the file."""
    licence: str
    default: bool
    path: str | None
    """Its file, if it is here."""


def list_models(
    of_catalog: Annotated[bool, typer.Option("--catalog", help="All models of the catalog too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the models that are here."""
    from abaci import hub

    catalog = hub.load_catalog()
    models = [_stored(model, catalog) for model in hub.Store().all()]
    if of_catalog:
        models = _with_catalog(models, catalog)
    if as_json:
        print_json([asdict(model) for model in models])
    elif models:
        print_text(_table(models, of_catalog=of_catalog))
    else:
        print_line(f"no model is here yet: abaci pull {catalog.default}, or see the catalog: abaci search")


def _stored(model: "StoredModel", catalog: "Catalog") -> _Listed:
    named = catalog.find(model.name)
    return _Listed(
        model.name,
        "" if named is None else named.model.title,
        model.num_bytes,
        model.licence,
        default=model.name == catalog.default,
        path=str(model.path),
    )


def _with_catalog(here: list[_Listed], catalog: "Catalog") -> list[_Listed]:
    """The catalog's models in its order, those that are here as they are; then what no name of it stands for."""
    from abaci import hub

    num_bytes = {entry.name: entry.num_bytes for entry in hub.pinned_entries(catalog)}
    by_name = {model.name: model for model in here}
    known = [
        by_name.pop(model.name) if model.name in by_name else _unfetched(model, catalog, num_bytes.get(model.name))
        for model in catalog.models.values()
    ]
    return known + list(by_name.values())


def _unfetched(model: "CatalogModel", catalog: "Catalog", num_bytes: int | None) -> _Listed:
    is_default = model.name == catalog.default
    return _Listed(model.name, model.title, num_bytes, model.licence.expression, default=is_default, path=None)


def _table(models: Iterable[_Listed], *, of_catalog: bool) -> str:
    header = ("NAME", "SIZE", *(("HERE",) if of_catalog else ()), "LICENCE", "MODEL")
    return table([header, *(_row(model, of_catalog) for model in models)])


def _row(model: _Listed, of_catalog: bool) -> tuple[str, ...]:
    title = f"{model.title} (default)" if model.default else model.title
    size = "" if model.num_bytes is None else megabytes(model.num_bytes)
    here = ("yes" if model.path else "no",) if of_catalog else ()
    return model.name, size, *here, model.licence, title
