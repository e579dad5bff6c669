"""What all verbs have in common: their groups in the help, and how they end when something is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import typer
from typer.core import TyperGroup

from abaci.cli.terminal import print_error, print_line
from abaci.errors import AbaciError, ResourceError, UsageError

INTERRUPTED_EXIT_CODE: Final = 130

_CommandLineError: Final[Any] = typer.BadParameter.__base__
"""What the parser raises for a command line it cannot read; it has no public name."""


class Verbs(TyperGroup):
    """Ends with the exit code of the error's class; Ctrl-C ends with the shell's code for it and a clean line.

    The help lists the verbs under the `rich_help_panel` that each was added with.
    """

    def make_context(self, *arguments: Any, **settings: Any) -> Any:
        with _errors_told():
            return super().make_context(*arguments, **settings)

    def invoke(self, ctx: Any) -> Any:
        with _errors_told():
            return super().invoke(ctx)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, self.commands))
        room = formatter.width - width - 4
        groups: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            group = getattr(command, "rich_help_panel", None)
            title = group if isinstance(group, str) else "Commands"
            groups.setdefault(title, []).append((name.ljust(width), command.get_short_help_str(room)))
        for title, rows in groups.items():
            with formatter.section(title):
                formatter.write_dl(rows)


@contextmanager
def _errors_told() -> Iterator[None]:
    try:
        yield
    except AbaciError as error:
        raise _end(error) from error
    except _CommandLineError as error:
        if type(error).show is not _CommandLineError.show:  # a group without a verb: its help is the answer
            raise
        raise _end(_unreadable(error)) from error
    except BrokenPipeError as error:  # as in `abaci run ... | head`: nothing to tell, and nobody to tell it to
        raise typer.Exit(1) from error
    except OSError as error:
        raise _end(_unforeseen(error)) from error
    except KeyboardInterrupt as interrupt:
        print_line("\ninterrupted")
        raise typer.Exit(INTERRUPTED_EXIT_CODE) from interrupt


def _end(error: AbaciError) -> typer.Exit:
    print_error(error)
    return typer.Exit(error.exit_code)


def _unreadable(error: Any) -> UsageError:
    """The parser's error as one of ours: what it suggests is the hint, else where the right flags are listed."""
    message, _, suggestion = error.format_message().replace("Value error, ", "").rstrip(".").partition(". ")
    message, wanted = _without_demand(message[:1].lower() + message[1:])
    verb = "abaci" if error.ctx is None else error.ctx.command_path
    return UsageError(message, hint=wanted or _sentence(suggestion) or f"See how it is used: {verb} --help")


def _without_demand(message: str) -> tuple[str, str | None]:
    """The message up to what it says should be given, and that as a hint, where it says so."""
    fault, _, wanted = message.partition(": Input should be ")
    if wanted:
        return fault, f"It should be {wanted.partition(', unable to')[0]}."
    fault, _, wanted = message.partition(" is not one of ")
    if wanted:
        choices = ", ".join(choice.strip("'") for choice in wanted.split(", "))
        return fault, f"Choose one of: {choices}."
    return message, None


def _sentence(text: str) -> str:
    return f"{text}." if text and not text.endswith(("?", ")")) else text


def _unforeseen(error: OSError) -> ResourceError:
    """What the system refused where no verb expected it, such as writing to a full disk."""
    where = f": {error.filename}" if error.filename is not None else ""
    return ResourceError(f"{error.strerror or error}{where}", hint="Check where the command reads from and writes to.")
