"""`abaci du`: what fetched models cost on the disk."""

from abaci.cli.terminal import JsonOption, megabytes, print_json, print_text, table


def du(as_json: JsonOption = False) -> None:
    """Show what fetched models and leftovers take on the disk."""
    from abaci import hub
    from abaci.hub.maintenance import usage

    found = usage(hub.Store())
    leftover_bytes = sum(leftover.num_bytes for leftover in found.leftovers)
    if as_json:
        print_json(
            {
                "home": str(found.home),
                "models": [
                    {
                        "name": model.name,
                        "num_bytes": model.num_bytes,
                        "shared_bytes": model.shared_bytes,
                        "elsewhere_bytes": model.elsewhere_bytes,
                    }
                    for model in found.models
                ],
                "own_bytes": found.own_bytes,
                "elsewhere_bytes": found.elsewhere_bytes,
                "leftover_bytes": leftover_bytes,
            }
        )
        return
    header = ("NAME", "SIZE", "SHARED", "IN PLACE")
    rows = [
        (model.name, megabytes(model.num_bytes), megabytes(model.shared_bytes), megabytes(model.elsewhere_bytes))
        for model in found.models
    ]
    if rows:
        print_text(table([header, *rows]))
    print_text(f"{megabytes(found.own_bytes)} fetched, {megabytes(found.elsewhere_bytes)} of other tools used in place")
    if found.leftovers:
        print_text(f"{megabytes(leftover_bytes)} that nothing names: abaci prune")
