"""What all verbs have in common: what their help looks like, and how they end when something is wrong."""

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from abaci.cli.terminal import print_error, print_line
from abaci.errors import AbaciError, ResourceError, UsageError

_Function = TypeVar("_Function", bound=Callable[..., Any])

INTERRUPTED_EXIT_CODE: Final = 130

_CommandLineError: Final[Any] = typer.BadParameter.__base__
"""What the parser raises for a command line it cannot read; it has no public name."""


_TYPE: Final = re.compile(r" <([^<>]*)>$")
_VALUES: Final = {
    "int": "N",
    "int range": "N",
    "float": "NUMBER",
    "float range": "NUMBER",
    "str": "TEXT",
    "path": "FILE",
}
"""What the help calls a value whose option has no name for it."""


class Verb(TyperCommand):
    """Its help says in words what to give: without types of Python, and without braces around what must be given."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        for title, kind, named in (("Arguments", "argument", _without_type), ("Options", "option", _with_value)):
            records = [param.get_help_record(ctx) for param in self.get_params(ctx) if param.param_type_name == kind]
            rows = [(named(record[0]), record[1]) for record in records if record is not None]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _without_type(argument: str) -> str:
    return _TYPE.sub("", argument)


def _with_value(option: str) -> str:
    return _TYPE.sub(lambda found: f" {_VALUES.get(found[1], found[1])}", option)


class CommandLine(typer.Typer):
    """A group whose commands are of the class above."""

    def command(self, *arguments: Any, **settings: Any) -> Callable[[_Function], _Function]:
        return super().command(*arguments, cls=Verb, **settings)


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
    if error.errno == errno.EBADF:
        return ResourceError("standard output is closed", hint="Send it to a file, or to /dev/null.")
    where = f": {error.filename}" if error.filename is not None else ""
    return ResourceError(f"{error.strerror or error}{where}", hint="Check where the command reads from and writes to.")
