"""`abaci key`: who may use the server, and how much. Changes reach a running server within seconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abaci.cli.terminal import JsonOption, print_json, print_line, print_text, table
from abaci.cli.verbs import CommandLine
from abaci.errors import UsageError

if TYPE_CHECKING:
    from abaci.server.keys import Key, KeyStore

NO_LIMIT = "none"

_LIMIT_HEADER = ("REQUESTS/MIN", "TOKENS/MIN", "CONCURRENT", "TOKENS/DAY", "MODELS", "CACHE")

key_commands = CommandLine(no_args_is_help=True, help="Make, list, limit and revoke the API keys of the server.")

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="Its name or id: see `abaci key list`.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The server's settings.")]
RequestsOption = Annotated[str | None, typer.Option(metavar="N", help="Requests it may send in a minute.")]
TokensOption = Annotated[str | None, typer.Option(metavar="N", help="Tokens, prompt and answer, in a minute.")]
ConcurrentOption = Annotated[str | None, typer.Option(metavar="N", help="Requests at the same time.")]
DayOption = Annotated[str | None, typer.Option(metavar="N", help="Tokens, prompt and answer, in a day (UTC).")]
ModelsOption = Annotated[
    list[str] | None, typer.Option("--model", metavar="MODEL", help="A model it may use; give it once per model.")
]


@key_commands.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whom or what the key is for.")],
    *,
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    concurrent_requests: ConcurrentOption = None,
    tokens_per_day: DayOption = None,
    model: ModelsOption = None,
    share_cache: Annotated[
        bool,
        typer.Option("--share-cache", help="Share cached prefixes with the other keys that do; timing can tell them."),
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it: this is the only time it can be seen."""
    from abaci.server.keys import KeyLimits

    limits = _changes(requests_per_minute, tokens_per_minute, concurrent_requests, tokens_per_day, model)
    with _store(config) as store:
        key, secret = store.create(name, KeyLimits(**limits), shares_cache=share_cache)
    if as_json:
        print_json({"key": secret, **asdict(key)})
    else:
        print_text(secret)
        print_line("Keep it now: only its hash is stored, so it cannot be shown again.")


@key_commands.command("list")
def list_keys(*, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List all keys, revoked ones too, with their limits."""
    with _store(config) as store:
        keys = store.all()
    if as_json:
        print_json([asdict(key) for key in keys])
    elif not keys:
        print_line("there is no key: abaci key create NAME")
    else:
        print_text(table([("NAME", "ID", "CREATED", "STATE", *_LIMIT_HEADER), *(_row(key) for key in keys)]))


@key_commands.command()
def revoke(key: KeyArgument, *, config: ConfigOption = None) -> None:
    """Let a key in no more."""
    with _store(config) as store:
        revoked = store.revoke(key)
    print_line(f"{revoked.name} ({revoked.id}) is revoked")


@key_commands.command()
def limit(
    key: KeyArgument,
    *,
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    concurrent_requests: ConcurrentOption = None,
    tokens_per_day: DayOption = None,
    model: ModelsOption = None,
    share_cache: Annotated[
        bool | None, typer.Option("--share-cache/--own-cache", help="Whether it shares cached prefixes.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change the limits given; `none` takes one away."""
    changes = _changes(requests_per_minute, tokens_per_minute, concurrent_requests, tokens_per_day, model)
    if not changes and share_cache is None:
        raise UsageError("no limit is given", hint="For example: abaci key limit KEY --tokens-per-day 100000")
    with _store(config) as store:
        changed = store.change(key, changes, shares_cache=share_cache)
    if as_json:
        print_json(asdict(changed))
    else:
        print_text(table([("NAME", *_LIMIT_HEADER), (changed.name, *_limit_cells(changed))]))


@contextmanager
def _store(config: Path | None) -> Iterator["KeyStore"]:
    from abaci.server.config import read_config
    from abaci.server.database import Database
    from abaci.server.keys import KeyStore

    settings = read_config(config)
    database = Database.open(settings.state_dir, settings.database_url)
    try:
        yield KeyStore(database)
    finally:
        database.close()


def _changes(
    requests_per_minute: str | None,
    tokens_per_minute: str | None,
    concurrent_requests: str | None,
    tokens_per_day: str | None,
    models: list[str] | None,
) -> dict[str, Any]:
    """The limits that were given, for KeyLimits."""
    given = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "concurrent_requests": concurrent_requests,
        "tokens_per_day": tokens_per_day,
    }
    changes: dict[str, Any] = {name: _number(name, text) for name, text in given.items() if text is not None}
    if models:
        changes["models"] = None if models == [NO_LIMIT] else tuple(models)
    return changes


def _number(name: str, text: str) -> int | None:
    if text == NO_LIMIT:
        return None
    digits = text.replace("_", "").replace(",", "")
    if not (digits.isascii() and digits.isdigit()):
        raise UsageError(
            f"--{name.replace('_', '-')} {text!r} is neither a whole number nor {NO_LIMIT!r}",
            hint=f"For example: --{name.replace('_', '-')} 1000",
        )
    return int(digits)


def _row(key: "Key") -> tuple[str, ...]:
    state = "valid" if key.is_valid else "revoked"
    return key.name, key.id, _day(key.created_seconds), state, *_limit_cells(key)


def _limit_cells(key: "Key") -> tuple[str, ...]:
    limits = key.limits
    numbers = (
        limits.requests_per_minute,
        limits.tokens_per_minute,
        limits.concurrent_requests,
        limits.tokens_per_day,
    )
    cells = ("-" if number is None else f"{number:,}" for number in numbers)
    models = "all" if limits.models is None else " ".join(limits.models)
    return *cells, models, "shared" if key.shares_cache else "own"


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
