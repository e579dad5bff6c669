"""`abaci verify`: hash fetched models again."""

from typing import Annotated

import typer

from abaci.cli.terminal import JsonOption, print_json, print_text


def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="All that are here, if none.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check the SHA-256 of fetched models; a wrong one is an error."""
    from abaci import hub

    store = hub.Store()
    models = [hub.stored_model(name, store) for name in names] if names else store.all()
    for model in models:
        store.verify(model)
        if not as_json:
            print_text(f"{model.name}: SHA-256 {model.sha256} is right")
    if as_json:
        print_json([{"name": model.name, "path": str(model.path), "sha256": model.sha256} for model in models])
    elif not models:
        print_text("no model is here")
