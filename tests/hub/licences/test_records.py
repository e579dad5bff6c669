"""The records: each sound, known by its names, and the facts that people are caught by."""

import re
from pathlib import Path

import pytest

from abaci.hub.licences.expressions import LicenceId, read_expression
from abaci.hub.licences.licence import Activity, ClauseKind, Effect, Licence
from abaci.hub.licences.publishers import load_publishers, published_as, repository_of
from abaci.hub.licences.reading import load_licences, make_book, read_licence

BOOK = load_licences()

RECORD = b"""
id = "LicenseRef-test"
name = "Test Licence"
confidence = "text"
[source]
url = "https://example.org/licence"
[permissions]
commercial_use = "allowed"
[[clauses]]
kind = "naming"
where = "section 1"
says = "Name it so."
effect = "obliges"
"""


def licence(name: str) -> Licence:
    found = BOOK.find(name)
    assert found is not None, name
    return found


@pytest.mark.parametrize("record", BOOK.by_id.values(), ids=lambda record: record.id)
def test_a_record_is_sound(record: Licence) -> None:
    assert record.source.url.startswith("https://")
    assert record.source.sha256 is None or re.fullmatch("[0-9a-f]{64}", record.source.sha256)
    assert record.permissions.commercial_use in ("allowed", "forbidden", "on registration")
    commercial = [clause.effect for clause in record.clauses if clause.kind is ClauseKind.COMMERCIAL_USE]
    expected = {"allowed": [], "forbidden": [Effect.FORBIDS], "on registration": [Effect.ASKS]}
    assert commercial == expected[record.permissions.commercial_use]
    trained = [clause for clause in record.clauses if clause.kind is ClauseKind.OUTPUTS_TRAINING]
    forbids = any(clause.effect is Effect.FORBIDS for clause in trained)
    assert forbids == (record.permissions.outputs_for_training == "own family only")
    for clause in record.clauses:
        assert clause.says.endswith("."), clause
        assert clause.where
        if clause.kind is ClauseKind.NOTICE_FILE:
            assert clause.text
            assert Activity.REDISTRIBUTES in clause.when
        if clause.kind is ClauseKind.MONTHLY_USERS:
            assert clause.above_users
        if clause.kind is ClauseKind.TERRITORY:
            assert clause.territories


@pytest.mark.parametrize(
    ("written", "licence_id"),
    [
        ("apache-2.0", "Apache-2.0"),
        ("Apache License 2.0", "Apache-2.0"),
        ("mit", "MIT"),
        ("llama3.1", "LicenseRef-scancode-llama-3.1-license-2024"),
        ("Llama 3.3 Community License Agreement", "LicenseRef-scancode-llama-3.3-license-2024"),
        ("llama4", "LicenseRef-scancode-llama-4-cla-2025"),
        # ScanCode's id of this name is that of the policy, which comes with the agreement
        ("LicenseRef-scancode-llama-4-license-2025", "LicenseRef-scancode-llama-4-cla-2025"),
        ("gemma", "LicenseRef-scancode-gemma-tou-2024-04-01"),
        ("Gemma Terms of Use", "LicenseRef-scancode-gemma-tou-2024-04-01"),
        ("qwen", "LicenseRef-qwen"),
        ("qwen-research", "LicenseRef-qwen-research"),
        ("mrl", "LicenseRef-MRL-0.1"),
        ("mnpl", "LicenseRef-MNPL-0.1"),
        ("deepseek", "LicenseRef-scancode-deepseek-la-1.0"),
        ("cc-by-nc-4.0", "CC-BY-NC-4.0"),
        ("bigscience-openrail-m", "LicenseRef-scancode-bigscience-open-rail-m"),
        ("llama2", "LicenseRef-scancode-llama-2-license-2023"),
        ("llama3", "LicenseRef-llama-3"),
    ],
)
def test_a_licence_is_known_by_what_hubs_and_files_call_it(written: str, licence_id: str) -> None:
    assert read_expression(written, BOOK) == LicenceId(licence_id)


def test_what_differs_between_the_llamas() -> None:
    forbids_training = {
        name
        for name in ("llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4")
        for clause in licence(name).clauses
        if clause.kind is ClauseKind.OUTPUTS_TRAINING and clause.effect is Effect.FORBIDS
    }
    assert forbids_training == {"llama2", "llama3"}
    excludes_europe = {
        name
        for name in ("llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4")
        for clause in licence(name).clauses
        if clause.territories == ("EU",) and clause.multimodal_only
    }
    assert excludes_europe == {"llama3.2", "llama3.3", "llama4"}


def test_a_record_with_a_misspelt_field_is_refused() -> None:
    assert read_licence(RECORD, "test").also_known_as == ("test",)
    for right, wrong in ((b"where", b"were"), (b"naming", b"nameing"), (b"url", b"address"), (b"name =", b"nam =")):
        with pytest.raises((ValueError, TypeError)):
            read_licence(RECORD.replace(right, wrong), "test")


def test_two_licences_may_not_share_a_name() -> None:
    first = read_licence(RECORD, "test")
    second = read_licence(RECORD.replace(b"LicenseRef-test", b"LicenseRef-other"), "other")
    with pytest.raises(ValueError, match="both called"):
        make_book([first, second])


def test_every_publisher_names_a_licence_that_has_a_record() -> None:
    for model in load_publishers():
        assert model.licence in BOOK.by_id, model
        assert model.source.startswith("https://")
        for base in model.bases:
            assert published_as(base, load_publishers()) is not None, base


@pytest.mark.parametrize(
    ("repository", "licence_id"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", "Apache-2.0"),
        ("Qwen/Qwen2.5-3B-Instruct-GGUF", "LicenseRef-qwen-research"),
        ("Qwen/Qwen2.5-Coder-3B", "LicenseRef-qwen-research"),
        ("Qwen/Qwen2.5-32B", "Apache-2.0"),
        ("Qwen/Qwen2.5-72B-Instruct", "LicenseRef-qwen"),
        ("Qwen/Qwen3-235B-A22B", "Apache-2.0"),
        ("someone/Meta-Llama-3.1-8B-Instruct-GGUF", "LicenseRef-scancode-llama-3.1-license-2024"),
        ("meta-llama/Meta-Llama-3-8B", "LicenseRef-llama-3"),
        ("mistralai/Mistral-Small-Instruct-2409", "LicenseRef-MRL-0.1"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "Apache-2.0"),
        ("Gemma 3 270m", "LicenseRef-scancode-gemma-tou-2024-04-01"),
        ("deepseek-ai/DeepSeek-V3", "LicenseRef-scancode-deepseek-la-1.0"),
    ],
)
def test_a_size_has_its_own_licence(repository: str, licence_id: str) -> None:
    found = published_as(repository, load_publishers())
    assert found is not None
    assert found.licence == licence_id


def test_names_that_are_nobodys() -> None:
    for name in ("", "/", "someone/else", "Qwen2.5", "DeepSeek-V3.1"):
        assert published_as(name, load_publishers()) is None, name
    assert repository_of("https://huggingface.co/Qwen/Qwen2.5-7B/tree/main") == "Qwen/Qwen2.5-7B"
    assert repository_of("https://huggingface.co") == "https://huggingface.co"
    assert repository_of("Qwen/Qwen2.5-7B") == "Qwen/Qwen2.5-7B"


def test_the_records_come_with_the_package() -> None:
    import abaci.hub.licences as package

    assert package.__file__ is not None
    assert len(list((Path(package.__file__).parent / "records").glob("*.toml"))) == len(BOOK.by_id)
