"""`abaci stop`: unload a model from a running server."""

from typing import Annotated

import typer

from abaci.cli.server_client import DEFAULT_URL, KeyOption, UrlOption, call
from abaci.cli.terminal import JsonOption, print_json, print_text


def stop(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="As `abaci ps` names it.")],
    url: UrlOption = DEFAULT_URL,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Unload a model from a running server. Requests that use it end first."""
    answer = call(url, "/models/unload", api_key, {"model": model})
    if as_json:
        print_json({"model": model, **answer})
    else:
        print_text(f"{model} is unloaded" if answer["was_loaded"] else f"{model} was not loaded")
