"""The verbs put together, in the groups that the help shows."""

from typing import Annotated

import typer

from abaci.cli.bench import bench
from abaci.cli.catalog import catalog_commands
from abaci.cli.convert import convert
from abaci.cli.cp import cp
from abaci.cli.du import du
from abaci.cli.fit import fit
from abaci.cli.key import key_commands
from abaci.cli.licence import licence
from abaci.cli.list import list_models
from abaci.cli.prune import prune
from abaci.cli.ps import ps
from abaci.cli.pull import pull
from abaci.cli.quantize import quantize
from abaci.cli.recommend import recommend
from abaci.cli.rm import rm
from abaci.cli.run import run
from abaci.cli.sbom import sbom
from abaci.cli.search import search
from abaci.cli.serve import serve
from abaci.cli.show import show
from abaci.cli.stop import stop
from abaci.cli.synth import synth
from abaci.cli.terminal import OfflineOption
from abaci.cli.top import top
from abaci.cli.usage import usage
from abaci.cli.verbs import CommandLine, Verbs
from abaci.cli.verify import verify
from abaci.version import __version__


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"abaci {__version__}")
        raise typer.Exit


app = CommandLine(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help and one-line errors, and rich is not loaded for them
)


@app.callback()
def abaci(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and stop; also with --json."
        ),
    ] = False,
    offline: OfflineOption = False,
) -> None:
    """Run open-weight language models on ordinary CPUs."""


_RUN = "Run and serve"
_CHOOSE = "Choose and get models"
_KEEP = "Look after models"
_MAKE = "Make model files"
_MEASURE = "Measure"

app.command(rich_help_panel=_RUN)(run)
app.command(rich_help_panel=_RUN)(serve)
app.command(rich_help_panel=_RUN)(ps)
app.command(rich_help_panel=_RUN)(stop)
app.add_typer(key_commands, name="key", rich_help_panel=_RUN)
app.command(rich_help_panel=_CHOOSE)(search)
app.command(rich_help_panel=_CHOOSE)(recommend)
app.command(rich_help_panel=_CHOOSE)(fit)
app.command(rich_help_panel=_CHOOSE)(licence)
app.command(rich_help_panel=_CHOOSE)(pull)
app.add_typer(catalog_commands, name="catalog", rich_help_panel=_CHOOSE)
app.command("list", rich_help_panel=_KEEP)(list_models)
app.command(rich_help_panel=_KEEP)(show)
app.command(rich_help_panel=_KEEP)(cp)
app.command(rich_help_panel=_KEEP)(rm)
app.command(rich_help_panel=_KEEP)(du)
app.command(rich_help_panel=_KEEP)(prune)
app.command(rich_help_panel=_KEEP)(verify)
app.command(rich_help_panel=_KEEP)(sbom)
app.command(rich_help_panel=_MAKE)(convert)
app.command(rich_help_panel=_MAKE)(quantize)
app.command(rich_help_panel=_MAKE)(synth)
app.command(rich_help_panel=_MEASURE)(top)
app.command(rich_help_panel=_MEASURE)(usage)
app.add_typer(bench, name="bench", rich_help_panel=_MEASURE)
