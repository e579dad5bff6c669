"""A policy is read strictly: what is misspelt is refused, with the nearest right name."""

from pathlib import Path

import pytest

from abaci.errors import UsageError
from abaci.hub.licences.licence import ClauseKind
from abaci.hub.licences.policy import Policy, Use, find_policy, lists, read_policy
from abaci.hub.licences.reading import load_licences

BOOK = load_licences()


def policy(tmp_path: Path, text: str) -> Policy:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    return read_policy(path, BOOK)


def test_a_whole_policy(tmp_path: Path) -> None:
    read = policy(
        tmp_path,
        """
        [use]
        commercial = true
        users_per_month = 50_000
        revenue_per_year = 2_000_000
        territory = ["DE", "US"]
        serves_others = true
        redistributes = true
        trains_on_outputs = true
        [licences]
        allow = ["apache-2.0", "Gemma Terms of Use", "GPL-3.0-only", "LicenseRef-own"]
        ask = ["LicenseRef-*"]
        deny = ["qwen-research"]
        [obligations]
        ask = ["naming"]
        deny = ["remote-restriction"]
        """,
    )
    assert read == Policy(
        use=Use(True, 50_000, 2_000_000, frozenset({"DE", "US"}), True, True, True),
        allow=frozenset({"Apache-2.0", "LicenseRef-scancode-gemma-tou-2024-04-01", "GPL-3.0-only", "LicenseRef-own"}),
        ask=frozenset({"LicenseRef-*"}),
        deny=frozenset({"LicenseRef-qwen-research"}),
        ask_obligations=frozenset({ClauseKind.NAMING}),
        deny_obligations=frozenset({ClauseKind.REMOTE_RESTRICTION}),
    )


def test_an_empty_policy_declares_nothing(tmp_path: Path) -> None:
    assert policy(tmp_path, "") == Policy()


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[use]\ncomercial = true", "use.comercial", "commercial"),
        ("[license]\nallow = []", "license: there is no such key", "licences"),
        ("[licences]\nalow = []", "licences.alow", "allow"),
        ('[licences]\ndeny = ["gema"]', "no licence is called 'gema'", "gemma"),
        ('[obligations]\ndeny = ["nameing"]', "no obligation is called 'nameing'", "naming"),
        ('[use]\ncommercial = "yes"', "must be true or false", ""),
        ("[use]\nusers_per_month = -1", "whole number", ""),
        ("[use]\nusers_per_month = true", "whole number", ""),
        ("[use]\nrevenue_per_year = 1.5", "whole number", ""),
        ('[use]\nterritory = "Germany"', "'Germany' is none", ""),
        ("[use]\nterritory = []", "a territory or a list", ""),
        ('[licences]\ndeny = "MIT"', "must be a list", ""),
        ("licences = 3", "must be a table", ""),
        ("[use", "not valid TOML", ""),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        policy(tmp_path, text)
    assert message in caught.value.message
    assert "policy.toml" in caught.value.message
    assert hint in (caught.value.hint or "")


def test_a_policy_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_policy(tmp_path / "none.toml", BOOK)


def test_patterns_and_ids() -> None:
    assert lists({"LicenseRef-*"}, "LicenseRef-qwen")
    assert lists({"mit"}, "MIT")
    assert not lists({"MIT"}, "MIT-0")


def test_where_a_policy_is_looked_for(tmp_path: Path) -> None:
    settings = tmp_path / "abaci" / "licence-policy.toml"
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert find_policy(None, environment) is None
    settings.parent.mkdir()
    settings.touch()
    assert find_policy(None, environment) == settings
    environment["ABACI_LICENCE_POLICY"] = str(tmp_path / "named.toml")  # which need not be there: then it is an error
    assert find_policy(None, environment) == tmp_path / "named.toml"
    assert find_policy(tmp_path / "given.toml", environment) == tmp_path / "given.toml"


@pytest.mark.parametrize(
    ("territories", "asked", "answer"),
    [
        ({"DE"}, ["EU"], True),
        ({"EU"}, ["EU", "GB"], True),
        ({"EU"}, ["DE"], True),
        ({"GB"}, ["EU"], False),
        ({"US", "KR"}, ["KR"], True),
        ({"worldwide"}, ["KR"], True),
        ({"CH"}, ["EU"], False),
        (None, ["EU"], None),
    ],
)
def test_where_a_use_is(territories: set[str] | None, asked: list[str], answer: bool | None) -> None:
    use = Use(territories=None if territories is None else frozenset(territories))
    assert use.is_in(asked) is answer
