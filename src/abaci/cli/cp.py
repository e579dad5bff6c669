"""`abaci cp`: a second name for a fetched model."""

from typing import Annotated

import typer

from abaci.cli.terminal import JsonOption, NameArgument, print_json, print_text


def cp(
    name: NameArgument,
    new_name: Annotated[str, typer.Argument(metavar="NEW", help="The further name.")],
    as_json: JsonOption = False,
) -> None:
    """Give a fetched model a further name; no bytes are copied."""
    from abaci import hub
    from abaci.hub.maintenance import copy

    hub.forbid_own_file(name)
    store = hub.Store()
    model = copy(store, hub.stored_model(name, store), new_name)
    if as_json:
        print_json({"name": model.name, "path": str(model.path)})
    else:
        print_text(f"{model.name} is {name}")
