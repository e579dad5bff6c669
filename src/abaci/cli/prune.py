"""`abaci prune`: delete what no model needs."""

from typing import Annotated

import typer

from abaci.cli.terminal import JsonOption, megabytes, print_json, print_line, print_text


def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete files that no name needs and beginnings of downloads."""
    from abaci import hub
    from abaci.hub.maintenance import leftovers
    from abaci.hub.maintenance import prune as delete

    store = hub.Store()
    found = leftovers(store) if dry_run else delete(store, lambda: print_line("waiting: another process is fetching"))
    num_bytes = sum(leftover.num_bytes for leftover in found)
    if as_json:
        files = [{"path": str(leftover.path), "num_bytes": leftover.num_bytes} for leftover in found]
        print_json({"deleted": not dry_run, "num_bytes": num_bytes, "files": files})
        return
    for leftover in found:
        print_text(f"{megabytes(leftover.num_bytes)}  {leftover.path}{' (a beginning)' if leftover.is_partial else ''}")
    print_text(f"{megabytes(num_bytes)} {'would be freed' if dry_run else 'freed'}" if found else "nothing to delete")
