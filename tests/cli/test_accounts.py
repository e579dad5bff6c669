"""`abaci key` and `abaci usage` against a state folder."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from abaci.cli.app import app
from abaci.server.database import Database
from abaci.server.keys import KeyRing, KeyStore
from abaci.server.usage import UsageKey, UsageStore, UsageTotals


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ABACI_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def abaci(*arguments: str, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == exit_code, result.output
    return result


def abaci_json(*arguments: str) -> Any:
    return json.loads(abaci(*arguments, "--json").stdout)


def test_a_created_key_is_printed_alone_and_lets_in(state_dir: Path) -> None:
    secret = abaci("key", "create", "team", "--tokens-per-day", "1_000").stdout.strip()
    database = Database.open(state_dir)
    ring = KeyRing(KeyStore(database), database)
    ring.load()
    found = ring.find(secret)
    database.close()
    assert found is not None
    assert found.name == "team"
    assert secret not in abaci("key", "list").stdout


def test_limits_are_set_changed_and_taken_away() -> None:
    created = abaci_json("key", "create", "team", "--model", "a", "--model", "b", "--requests-per-minute", "5")
    assert created["limits"]["models"] == ["a", "b"]
    assert created["key"].startswith("abaci-")
    abaci("key", "limit", "team", "--requests-per-minute", "none", "--concurrent-requests", "3", "--share-cache")
    abaci("key", "limit", created["id"], "--model", "none")
    (listed,) = abaci_json("key", "list")
    assert listed["limits"] == {
        "requests_per_minute": None,
        "tokens_per_minute": None,
        "concurrent_requests": 3,
        "tokens_per_day": None,
        "models": None,
    }
    assert listed["shares_cache"] is True
    assert "key" not in listed


def test_revoked_keys_stay_in_the_list() -> None:
    abaci("key", "create", "team")
    abaci("key", "revoke", "team")
    assert "revoked" in abaci("key", "list").stdout
    assert "no key 'team'" in abaci("key", "revoke", "team", exit_code=3).stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["key", "create", "team", "--tokens-per-day", "many"], "--tokens-per-day"),
        (["key", "create", "team", "--tokens-per-day", "0"], "tokens_per_day"),
        (["key", "create", " "], "name"),
        (["key", "limit", "team"], "no limit is given"),
        (["usage", "--since", "yesterday"], "--since"),
        (["usage", "--csv", "--json"], "--csv"),
    ],
)
def test_mistakes_are_named(arguments: list[str], named: str) -> None:
    assert named in abaci(*arguments, exit_code=2).stderr


def test_usage_in_each_form(state_dir: Path) -> None:
    database = Database.open(state_dir)
    today = datetime.now(UTC).date()
    for days_ago, key_id in ((0, ""), (7, KeyStore(database).create("team")[0].id)):
        place = UsageKey((today - timedelta(days=days_ago)).isoformat(), key_id, "m")
        UsageStore(database).add({place: UsageTotals(1, 0, 2_000, 0, 5, 0, 1.0, 1.0)}, {})
    database.close()
    table = abaci("usage").stdout
    assert "(no key)" in table
    assert "4,000" in table
    assert "$" not in table
    assert "0.0040" in abaci("usage", "--hourly-price", "3.6").stdout
    assert [row["key"] for row in abaci_json("usage", "--since", "7d")["rows"]] == ["(no key)"]
    assert abaci_json("usage", "--key", "team", "--by", "day")["total"]["requests"] == 1
    assert abaci("usage", "--csv", "--by", "model").stdout.splitlines()[1].startswith(",,,m,2,")
    assert "no key 'nobody'" in abaci("usage", "--key", "nobody", exit_code=3).stderr
