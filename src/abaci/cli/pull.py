"""`abaci pull`: fetch a model of the catalog."""

from pathlib import Path
from typing import Annotated

import typer

from abaci.cli.terminal import DownloadProgress, JsonOption, NameArgument, megabytes, print_json, print_text


def pull(
    name: NameArgument,
    local: Annotated[
        Path | None, typer.Option("--from", help="Take this file, or the file in this folder, instead of the network.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a model and check its SHA-256."""
    from abaci import hub

    with DownloadProgress(name) as progress:
        model = hub.pull(name, progress=progress, local=local)
    num_bytes = model.path.stat().st_size
    if as_json:
        print_json(
            {
                "name": model.name,
                "path": str(model.path),
                "num_bytes": num_bytes,
                "sha256": model.sha256,
                "licence": model.licence,
                "source": model.source,
            }
        )
    else:
        print_text(f"{model.name}: {megabytes(num_bytes)}, SHA-256 as in the catalog, licence {model.licence}")
