"""`abaci rm`: delete a fetched model."""

from abaci.cli.terminal import JsonOption, NameArgument, megabytes, print_json, print_text


def rm(name: NameArgument, as_json: JsonOption = False) -> None:
    """Delete a fetched model."""
    from abaci import hub

    hub.forbid_own_file(name)
    store = hub.Store()
    freed_bytes = store.remove(hub.stored_model(name, store))
    if as_json:
        print_json({"name": name, "freed_bytes": freed_bytes})
    else:
        print_text(f"removed {name}: {megabytes(freed_bytes)} freed")
