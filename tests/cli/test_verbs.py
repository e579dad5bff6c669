"""What all verbs have in common: how a command line that cannot be read is told, and the groups of the help."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from abaci.cli.app import app
from abaci.errors import UsageError


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["lst"], "no such command 'lst'", "Did you mean 'list'?"),
        (["run"], "missing argument 'MODEL'", "See how it is used: abaci run --help"),
        (["--nonsense"], "no such option: --nonsense", "See how it is used: abaci --help"),
        (["run", "--nonsense"], "no such option: --nonsense", "See how it is used: abaci run --help"),
        (["quantize", "a", "b"], "missing option '--type'", "See how it is used: abaci quantize --help"),
        (
            ["run", "model", "prompt", "--threads", "many"],
            "invalid value for '--threads'",
            "It should be a valid integer.",
        ),
        (["usage", "--by", "year"], "invalid value for '--by': 'year'", "Choose one of: key, model, day."),
        (["key", "nonsense"], "no such command 'nonsense'", "See how it is used: abaci key --help"),
    ],
)
def test_a_command_line_that_cannot_be_read_ends_like_any_other_error(
    arguments: list[str], error: str, hint: str
) -> None:
    result = CliRunner().invoke(app, arguments, prog_name="abaci")
    assert result.exit_code == UsageError.exit_code
    first, second = result.stderr.splitlines()
    assert first.startswith(f"error: {error}")
    assert second.startswith(f"hint: {hint}")


@pytest.mark.parametrize("group", [[], ["key"], ["catalog"]])
def test_a_group_without_a_verb_shows_its_help(group: list[str]) -> None:
    result = CliRunner().invoke(app, group)
    assert result.exit_code == UsageError.exit_code
    assert "Usage: " in result.output
    assert "error:" not in result.output


def test_the_help_has_every_verb_in_a_group_and_cuts_no_line_off() -> None:
    text = CliRunner().invoke(app, ["--help"], terminal_width=80).stdout
    for title in ("Run and serve:", "Choose and get models:", "Look after models:", "Make model files:", "Measure:"):
        assert f"\n{title}\n" in text
    assert "Commands:" not in text
    assert "..." not in text.partition("Run and serve:")[2]


def _all_verbs(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from _all_verbs(child, (*path, name))


@pytest.mark.parametrize("verb", list(_all_verbs(get_command(app))), ids=" ".join)
def test_every_help_says_in_words_what_to_give_and_cuts_nothing_off(verb: tuple[str, ...]) -> None:
    text = CliRunner().invoke(app, [*verb, "--help"], terminal_width=80).stdout
    assert "Usage: " in text
    assert re.findall(r"<[a-z][^>]*>|\{[A-Z]+\}", text) == []  # the names of Python's types, and braces
    assert [line for line in text.splitlines() if len(line) > 80 or re.search(r"\w\.\.\.$", line)] == []
