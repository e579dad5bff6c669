"""`abaci list`: the models of the catalog and those that are here."""

from dataclasses import asdict, dataclass

from abaci.cli.terminal import JsonOption, aligned, megabytes, print_json, print_text


@dataclass(frozen=True, slots=True)
class _Listed:
    name: str
    title: str
    num_bytes: int
    licence: str
    default: bool
    path: str | None
    """Its file, if it is here."""


def list_models(as_json: JsonOption = False) -> None:
    """List the models of the catalog and those that are here."""
    models = _listed_models()
    if as_json:
        print_json([asdict(model) for model in models])
    else:
        header = ("NAME", "SIZE", "LICENCE", "HERE", "MODEL")
        print_text(aligned([header, *(_row(model) for model in models)]))


def _listed_models() -> list[_Listed]:
    from abaci import hub

    catalog = hub.load_catalog()
    pinned = hub.pinned_entries(catalog)
    paths = {model.name: str(model.path) for model in hub.Store().all()}
    known = [
        _Listed(
            entry.name,
            entry.title,
            entry.num_bytes,
            entry.licence,
            default=entry.name == catalog.default,
            path=paths.get(entry.name),
        )
        for entry in pinned
    ]
    others = [
        _Listed(model.name, "", model.num_bytes, model.licence, default=False, path=str(model.path))
        for model in hub.Store().all()
        if model.name not in {entry.name for entry in pinned}
    ]
    return known + others


def _row(model: _Listed) -> tuple[str, ...]:
    title = f"{model.title} (default)" if model.default else model.title
    return model.name, megabytes(model.num_bytes), model.licence, "yes" if model.path else "no", title
