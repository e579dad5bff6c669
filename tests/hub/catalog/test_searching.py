"""Finding models, and names near a wrong one."""

import pytest

from abaci.hub.catalog import SearchConditions, Task, load_catalog, near_names, search

CATALOG = load_catalog()


def names(**conditions: object) -> list[str]:
    return [model.name for model in search(CATALOG, SearchConditions(**conditions))]  # type: ignore[arg-type]


def test_everything() -> None:
    assert sorted(names()) == sorted(CATALOG.models)


def test_words_are_all_found_somewhere() -> None:
    assert names(words=("qwen", "CODER", "7b")) == ["qwen2.5-coder:7b"]
    assert names(words=("llama", "magic")) == []
    assert "deepseek-r1:8b" in names(words=("distill", "llama"))


def test_the_smallest_of_a_family_comes_first() -> None:
    found = names(words=("qwen2.5:",))
    assert found[0] == "qwen2.5:0.5b" and found[-1] == "qwen2.5:72b"


def test_conditions() -> None:
    code = names(task=Task.CODE, most_parameters=2_000_000_000, licence="apache")
    assert "qwen2.5-coder:1.5b" in code
    for name in code:
        model = CATALOG.models[name]
        assert Task.CODE in model.tasks and model.licence.expression == "Apache-2.0"
        assert model.parameters is not None and model.parameters.total <= 2_000_000_000


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("qwen2.5-coder", "qwen2.5-coder:0.5b"),
        ("qwen2.5:8b", "qwen2.5:7b"),
        ("qwn2.5:7b", "qwen2.5:7b"),
        ("smolm2:135m", "smollm2:135m"),
        ("deepseek", "deepseek-r1:7b"),
        ("deepseekr1:7b", "deepseek-r1:7b"),
        ("llama3.1-8b", "llama3.1:8b"),
        ("Llama3.3:70B-instruct", "llama3.3:70b"),
    ],
)
def test_a_wrong_name_is_near_the_right_one(typed: str, meant: str) -> None:
    near = near_names(typed, CATALOG.models)
    assert meant in near and len(near) <= 8


def test_a_name_far_from_all() -> None:
    assert near_names("zzzzzzzz", CATALOG.models) == []
    assert near_names("", CATALOG.models) == []
