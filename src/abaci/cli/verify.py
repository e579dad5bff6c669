"""`abaci verify`: hash fetched models again, and fetch again what is damaged."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from abaci.cli.terminal import (
    DownloadProgress,
    JsonOption,
    OfflineOption,
    print_error,
    print_json,
    print_line,
    print_text,
)
from abaci.errors import AbaciError, IntegrityError

if TYPE_CHECKING:
    from abaci.hub import Store, StoredModel


def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="As `abaci list` has them; none: all.")
    ] = None,
    mend: Annotated[bool, typer.Option("--repair", help="Fetch damaged files again.")] = False,
    offline: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check the SHA-256 of fetched models; a wrong one is an error."""
    from abaci import hub

    store = hub.Store()
    for name in names or ():
        hub.forbid_own_file(name)
    models = [hub.stored_model(name, store) for name in names] if names else store.all()
    checked = [_checked(model, store, mend, as_json) for model in models]
    if as_json:
        print_json(checked)
    elif not models:
        print_line("no model is here yet: abaci pull NAME")
    if not all(one["right"] for one in checked):
        raise typer.Exit(IntegrityError.exit_code)


def _checked(model: "StoredModel", store: "Store", mend: bool, as_json: bool) -> dict[str, Any]:
    from abaci.hub.maintenance import damaged_files, repair
    from abaci.hub.network import Network

    with DownloadProgress(model.name) as progress:
        damaged = damaged_files(
            store, model, lambda num_bytes: progress.advanced("checking", num_bytes, model.num_bytes)
        )
    is_right, is_repaired = not damaged, False
    if damaged and mend:
        try:
            with DownloadProgress(model.name) as progress:
                files = tuple(file for file, _ in damaged)
                model = repair(store, model, files, progress, Network.from_environment())
            is_right = is_repaired = True
        except AbaciError as error:
            print_error(error)
    elif damaged:
        for _, reason in damaged:
            print_error(reason)
    if is_right and not as_json:
        print_text(f"{model.name}: SHA-256 {model.sha256} is right{' again' if is_repaired else ''}")
    return {
        "name": model.name,
        "path": str(model.path),
        "sha256": model.sha256,
        "right": is_right,
        "repaired": is_repaired,
        "damaged": [str(file.location) for file, _ in damaged],
    }
