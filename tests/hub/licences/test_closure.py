"""Which licences hold: bases hand theirs on, and voices that disagree are told."""

from pathlib import Path
from typing import Any

import pytest

from abaci.hub.catalog import load_catalog
from abaci.hub.licences.closure import (
    BaseModel,
    ModelFacts,
    ModelLicences,
    declared_licence,
    find_licences,
    with_metadata,
)
from abaci.hub.licences.expressions import ids_of, read_expression, write_expression
from abaci.hub.licences.model_facts import facts_of_catalog, facts_of_listing
from abaci.hub.licences.publishers import PublishedModel, load_publishers
from abaci.hub.licences.reading import load_licences
from abaci.hub.repositories import Listing
from abaci.hub.sources import LocalSource

BOOK = load_licences()
LLAMA_3_1 = "LicenseRef-scancode-llama-3.1-license-2024"


def found(publishers: tuple[PublishedModel, ...] | None = None, **facts: Any) -> ModelLicences:
    return find_licences(ModelFacts("model", **facts), BOOK, load_publishers() if publishers is None else publishers)


def expression(**facts: Any) -> str:
    return write_expression(found(**facts).expression)


def test_a_distill_carries_its_bases_terms_whatever_its_tag_says() -> None:
    facts = {"repository": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "repository_licence": "mit"}
    licences = found(**facts)
    assert write_expression(licences.expression) == f"MIT AND {LLAMA_3_1}"
    assert licences.doubts == ()
    assert f"it is made from meta-llama/Llama-3.1-8B, whose terms hold too: {LLAMA_3_1}" in licences.remarks
    assert "its repository names only MIT" in licences.remarks
    assert expression(repository="x/DeepSeek-R1-Distill-Qwen-7B-GGUF", metadata="mit") == "MIT AND Apache-2.0"


def test_quantisations_fine_tunes_and_merges_inherit() -> None:
    bases = (BaseModel("https://huggingface.co/meta-llama/Llama-3.1-8B"), BaseModel("Qwen/Qwen2.5-3B"))
    licences = found(metadata="apache-2.0", base_models=bases)
    assert write_expression(licences.expression) == f"Apache-2.0 AND {LLAMA_3_1} AND LicenseRef-qwen-research"
    assert [base.licence for base in licences.base_models] == [LLAMA_3_1, "LicenseRef-qwen-research"]
    assert licences.doubts == ()


def test_bases_of_bases_count() -> None:
    chain = tuple(PublishedModel("p", (f"m{index}",), "MIT", "", bases=(f"p/m{index + 1}",)) for index in range(5))
    last = PublishedModel("p", ("m5",), "gemma", "", bases=("p/m0",))  # in a ring, too
    licences = found((*chain, last), base_models=(BaseModel("p/m0"),))
    assert write_expression(licences.expression) == "MIT AND LicenseRef-scancode-gemma-tou-2024-04-01"
    assert [base.name for base in licences.base_models] == [f"p/m{index}" for index in range(6)]


@pytest.mark.parametrize(
    "facts",
    [
        {"catalog": "gemma", "metadata": "apache-2.0"},
        {"catalog": "Apache-2.0", "repository_licence": "qwen-research"},
        {"repository": "Qwen/Qwen2.5-3B-Instruct", "repository_licence": "apache-2.0"},
        {"title": "Llama 3.1 8B Instruct", "metadata": "apache-2.0"},
        {"repository_licence": "mit", "metadata": "cc-by-nc-4.0"},
    ],
)
def test_voices_that_disagree_are_told_and_all_hold(facts: dict[str, str]) -> None:
    licences = found(**facts)
    assert len(licences.doubts) == 1
    assert " AND " in write_expression(licences.expression)


def test_voices_that_agree_are_not() -> None:
    assert found(catalog="Gemma Terms of Use", metadata="gemma", title="Gemma 3 270m").doubts == ()
    assert found(catalog=f"MIT AND {LLAMA_3_1}", metadata="mit").doubts == ()
    assert expression(catalog="Apache-2.0", metadata="other") == "Apache-2.0"


def test_nothing_known_is_said_so() -> None:
    assert expression() == "NOASSERTION"
    assert expression(metadata="other") == "NOASSERTION"


def test_a_base_that_nobody_knows_is_a_doubt_unless_the_catalog_vouches() -> None:
    unknown = (BaseModel("someone/Secret-7B"),)
    assert "someone/Secret-7B" in found(metadata="mit", base_models=unknown).doubts[0]
    assert found(catalog="MIT", base_models=unknown).doubts == ()
    assert found(metadata="mit", base_models=unknown, repository="x/Secret-7B-GGUF").doubts == ()


@pytest.mark.parametrize(
    ("repository", "is_form"),
    [
        ("x/Secret-7B", True),
        ("x/Secret-7B-GGUF", True),
        ("x/Secret-7B-Q4_K_M-GGUF", True),
        ("x/secret-7b-i1-IQ3_XXS", True),
        ("x/Secret-7B-AWQ-4bit", True),
        ("x/Secret-7B-Chat", False),
        ("x/Secret-7Bee", False),
        ("x/Other", False),
    ],
)
def test_only_another_form_of_a_model_has_its_licence(repository: str, is_form: bool) -> None:
    licences = found(base_models=(BaseModel("someone/Secret-7B", "MIT"),), repository=repository)
    assert write_expression(licences.expression) == "MIT"
    assert (licences.doubts == ()) is is_form


def test_what_a_file_says() -> None:
    facts = with_metadata(
        ModelFacts("model", catalog="MIT"),
        {
            "general.architecture": "llama4",
            "general.license": "other",
            "general.license.name": "qwen-research",
            "general.name": "A title",
            "general.base_model.count": 2,
            "general.base_model.0.repo_url": "https://huggingface.co/Qwen/Qwen2.5-3B",
            "general.base_model.1.organization": "Google",
            "general.base_model.1.name": "Gemma 2",
        },
    )
    assert (facts.catalog, facts.metadata, facts.title, facts.multimodal) == ("MIT", "qwen-research", "A title", True)
    assert facts.base_models == (BaseModel("Qwen/Qwen2.5-3B"), BaseModel("Google/Gemma 2"))


@pytest.mark.parametrize("count", [-1, 1 << 40, "two", True, None, 3.5])
def test_a_count_of_bases_that_lies_is_bounded(count: object) -> None:
    metadata = {"general.base_model.count": count, "general.base_model.0.name": "only", "general.license": 7}
    facts = with_metadata(ModelFacts("model"), metadata)
    assert len(facts.base_models) <= 1
    assert facts.metadata is None


def test_what_anybody_may_write_is_fit_to_be_shown() -> None:
    evil = BaseModel("a/\x1b[31m\n" + "b" * 1000)
    licences = found(metadata="mit\x1b[2J", base_models=(evil,))
    shown = "".join((*licences.doubts, *licences.remarks, write_expression(licences.expression)))
    assert shown.isprintable()
    assert len(shown) < 400


def test_other_means_what_the_name_says() -> None:
    assert declared_licence("other", "qwen-research") == "qwen-research"
    assert declared_licence("other", None) is None
    assert declared_licence("mit", "ignored") == "mit"
    assert declared_licence(None, None) is None


def test_the_catalog_agrees_with_what_publishers_say() -> None:
    catalog = load_catalog()
    for name, model in catalog.models.items():
        facts = facts_of_catalog(name)
        assert facts is not None
        licences = find_licences(facts, BOOK, load_publishers())
        assert licences.doubts == (), name
        assert set(ids_of(read_expression(model.licence.expression, BOOK))) <= set(BOOK.by_id), name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("deepseek-r1:8b", f"MIT AND {LLAMA_3_1}"),
        ("deepseek-r1:7b", "MIT AND Apache-2.0"),
        ("deepseek-r1:70b", "MIT AND LicenseRef-scancode-llama-3.3-license-2024"),
        ("qwen2.5:3b", "LicenseRef-qwen-research"),
        ("qwen2.5:7b", "Apache-2.0"),
        ("qwen2.5:72b", "LicenseRef-qwen"),
        ("qwen2.5-coder:3b", "LicenseRef-qwen-research"),
        ("gemma3:270m", "LicenseRef-scancode-gemma-tou-2024-04-01"),
    ],
)
def test_models_of_the_catalog(name: str, expected: str) -> None:
    facts = facts_of_catalog(name)
    assert facts is not None
    assert write_expression(find_licences(facts, BOOK, load_publishers()).expression) == expected


def test_a_repository_is_taken_at_its_word_and_its_bases() -> None:
    listing = Listing("x/y-GGUF", "0" * 40, (), LocalSource(Path("/")), "other", "qwen-research", ("Qwen/Qwen2.5-3B",))
    licences = find_licences(facts_of_listing("hf.co/x/y-GGUF", listing), BOOK, load_publishers())
    assert write_expression(licences.expression) == "LicenseRef-qwen-research"
    assert licences.doubts == ()
