"""`abaci catalog`: take in a later catalog, go back, or write out the one in use for publishing."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abaci.cli.terminal import JsonOption, print_json, print_text
from abaci.cli.verbs import CommandLine

if TYPE_CHECKING:
    from abaci.hub.catalog import Catalog

catalog_commands = CommandLine(
    help="Take in a later catalog of models, or go back to Abaci's own.", no_args_is_help=True, rich_markup_mode=None
)


@catalog_commands.command()
def update(
    source: Annotated[str, typer.Argument(metavar="FILE|URL", help="The catalog; its signature is beside it.")],
    key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Public key of minisign that must have signed it, or its .pub file. Default: ABACI_CATALOG_KEY.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Take in a later catalog, if its publisher signed it."""
    from abaci.hub.catalog import update_catalog
    from abaci.hub.network import Network

    _tell(update_catalog(source, key, Network.from_environment()), as_json)


@catalog_commands.command()
def reset(as_json: JsonOption = False) -> None:
    """Forget the update: the catalog that came with Abaci holds again."""
    from abaci.hub.catalog import load_catalog, reset_catalog

    reset_catalog()
    _tell(load_catalog(), as_json)


@catalog_commands.command()
def export() -> None:
    """Print the catalog that came with Abaci as JSON.

    It is the document that `update` takes, to be changed and signed.
    """
    from abaci.hub.catalog import packaged_document

    document: dict[str, Any] = packaged_document()
    print_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")))


def _tell(catalog: "Catalog", as_json: bool) -> None:
    if as_json:
        print_json({"version": catalog.version, "num_models": len(catalog.models)})
    else:
        print_text(f"catalog version {catalog.version}: {len(catalog.models)} models")
