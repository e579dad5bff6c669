"""The verbs put together, and what every one of them does with an error."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

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
from abaci.cli.terminal import OfflineOption, print_error, print_line
from abaci.cli.top import top
from abaci.cli.usage import usage
from abaci.cli.verify import verify
from abaci.errors import AbaciError, ResourceError
from abaci.version import __version__

INTERRUPTED_EXIT_CODE = 130


class _Verbs(TyperGroup):
    """Ends with the exit code of the error's class; Ctrl-C ends with the shell's code for it and a clean line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except AbaciError as error:
            print_error(error)
            raise typer.Exit(error.exit_code) from error
        except BrokenPipeError as error:  # as in `abaci run ... | head`: nothing to tell, and nobody to tell it to
            raise typer.Exit(1) from error
        except OSError as error:
            print_error(_unforeseen(error))
            raise typer.Exit(ResourceError.exit_code) from error
        except KeyboardInterrupt as interrupt:
            print_line("\ninterrupted")
            raise typer.Exit(INTERRUPTED_EXIT_CODE) from interrupt


def _unforeseen(error: OSError) -> ResourceError:
    """What the system refused where no verb expected it, such as writing to a full disk."""
    where = f": {error.filename}" if error.filename is not None else ""
    return ResourceError(f"{error.strerror or error}{where}", hint="check where the command reads from and writes to")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"abaci {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help and one-line errors, and rich is not loaded for them
)


@app.callback()
def abaci(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    offline: OfflineOption = False,
) -> None:
    """Run open-weight language models on ordinary CPUs."""


app.command()(run)
app.command()(serve)
app.command()(ps)
app.command()(stop)
app.command()(pull)
app.command()(search)
app.command("list")(list_models)
app.command()(show)
app.command()(convert)
app.command()(fit)
app.command()(quantize)
app.command()(synth)
app.command()(recommend)
app.command()(rm)
app.command()(cp)
app.command()(du)
app.command()(prune)
app.command()(verify)
app.command()(licence)
app.command()(sbom)
app.add_typer(bench, name="bench")
app.add_typer(key_commands, name="key")
app.add_typer(catalog_commands, name="catalog")
app.command()(usage)
app.command()(top)
