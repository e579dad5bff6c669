"""Reports of what ran here."""

from datetime import date

import pytest

from abaci import hub
from abaci.runtime.journal import UsedModel
from abaci.runtime.top import MAX_PERIODS, By, report_top

CATALOG = hub.load_catalog()
CODER = "qwen2.5-coder:0.5b"
ENTRIES = [
    UsedModel("2026-11-20", CODER, 1, 100, 50, 10),
    UsedModel("2026-11-22", CODER, 2, 200, 0, 20, key="alice"),
    UsedModel("2026-11-22", "qwen2.5-coder:1.5b", 1, 1000, 0, 0, key="bob"),
    UsedModel("2026-11-21", "my-own", 5, 10, 0, 10, "llama"),
]


def report(by=By.MODEL, since=date(2026, 11, 20), until=date(2026, 11, 22), entries=ENTRIES):
    return report_top(entries, by, CATALOG, since=since, until=until)


def test_models_by_tokens_over_days():
    found = report()
    assert [row.name for row in found.rows] == ["qwen2.5-coder:1.5b", CODER, "my-own"]
    assert found.periods == ("2026-11-20", "2026-11-21", "2026-11-22")
    assert found.rows[1].tokens == (110, 0, 220)
    assert (found.rows[1].requests, found.rows[1].cached_tokens) == (3, 50)
    assert found.total.tokens == (110, 20, 1220)
    assert found.rows[1].repository == "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    assert found.rows[2].repository is None


def test_families_are_the_catalogs():
    entries = [*ENTRIES, UsedModel("2026-11-21", "unheard-of", 1, 1, 0, 1)]
    assert {row.name: row.requests for row in report(By.FAMILY, entries=entries).rows} == {
        "Qwen2.5-Coder": 4,
        "llama": 5,
        "other": 1,
    }


def test_keys():
    assert {row.name: row.requests for row in report(By.KEY).rows} == {"alice": 2, "bob": 1, "(no key)": 6}


def test_what_is_outside_the_time_is_left_out():
    found = report(since=date(2026, 11, 21), until=date(2026, 11, 21))
    assert [row.name for row in found.rows] == ["my-own"]
    assert report(since=date(2026, 12, 1), until=date(2026, 12, 5)).rows == ()


def test_without_a_beginning_the_first_entry_is_one():
    assert report(since=None).since == "2026-11-20"
    assert report(since=None, entries=[]).rows == ()


@pytest.mark.parametrize("since", [date(2026, 10, 1), date(2025, 1, 1), date(1999, 1, 1)])
def test_a_long_time_has_longer_periods(since):
    found = report(since=since)
    assert len(found.periods) <= MAX_PERIODS
    assert found.periods[0] == since.isoformat()
    assert sum(found.total.tokens) == 1350


def test_a_clock_that_was_wrong_breaks_nothing():
    found = report(entries=[*ENTRIES, UsedModel("2096-01-01", "future", 1, 1, 0, 1)])
    assert "future" not in {row.name for row in found.rows}
    assert report(since=date(2026, 12, 24), until=date(2026, 12, 1)).rows == ()
