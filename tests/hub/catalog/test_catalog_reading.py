"""A catalog document is read strictly: what is not as it must be is refused, and says where."""

from pathlib import Path
from typing import Any

import pytest
from documents import document, encoded, with_model
from hypothesis import given
from hypothesis import strategies as st

from abaci.errors import FileFormatError
from abaci.hub.catalog import Task, WeightsFormat
from abaci.hub.catalog.loading import MAX_CATALOG_BYTES, parse_catalog
from abaci.hub.catalog.reading import read_catalog

SHA256 = "0" * 64
PIN = {"file_name": "a.gguf", "num_bytes": 10, "sha256": SHA256}
PART = {"name": "part", "version": "1.0", "entry": "part/a", "num_bytes": 10}


def files(**changes: Any) -> list[dict[str, Any]]:
    fields = {"repository": "a/b", "pattern": "x-{QUANTISATION}.gguf", "quantisations": ["Q8_0"]} | changes
    return [{key: value for key, value in fields.items() if value is not None}]


def pinned(**changes: Any) -> list[dict[str, Any]]:
    return files(pattern=None, pin=PIN | changes)


def test_what_it_says() -> None:
    catalog = parse_catalog(encoded(document()))
    found = catalog.find("Tiny:1B-chat-q8_0")
    assert found is not None and found.variant is not None
    model, variant = found.model, found.variant
    assert (model.name, model.publisher, model.architecture, model.tasks) == (
        "tiny:1b",
        "Someone",
        "llama",
        (Task.CHAT,),
    )
    assert (str(variant.repository), variant.pattern) == ("someone/tiny-GGUF", "tiny-q8_0*.gguf")
    assert [other.quantisation for other in model.variants] == ["Q4_K_M", "Q8_0", "BF16"]
    assert model.variants[-1].format is WeightsFormat.SAFETENSORS
    assert model.licence.source == "https://example.org/tiny"
    score = model.score("MMLU")
    assert score is not None and (score.value, score.is_thinking, score.source) == (
        50.5,
        True,
        "https://example.org/scores",
    )
    assert model.score("MMLU", is_thinking=False) is None
    assert model.parameters is not None and model.parameters.active == 1_000_000_000


def test_what_it_does_not_know() -> None:
    catalog = parse_catalog(encoded(document()))
    for name in ("", "tiny", "tiny:2b", "tiny:1b-q2_k", "tiny:1b-", "-tiny:1b"):
        assert catalog.find(name) is None


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ([], "not a table"),
        (document(version=0), "version"),
        (document(version=True), "version"),
        (document(version="7"), "version"),
        (document(more=1), "'more'"),
        (document(families={}), "families"),
        (document(families=[1]), "families 1"),
        (document(default="none:1b"), "default"),
        (with_model(name="../x:1b"), "name"),
        (with_model(name="tiny"), "name"),
        (with_model(name=None), "name"),
        (with_model(aliases=["tiny:1b"]), "two models"),
        (with_model(aliases=["a:b", "a:b"]), "aliases"),
        (with_model(title="a\nb"), "title"),
        (with_model(title=""), "title"),
        (with_model(card="http://example.org/"), "card"),
        (with_model(card="file:///etc/passwd"), "card"),
        (with_model(repository="../x"), "repository"),
        (with_model(repository=None), "weights"),
        (with_model(bases=["a/b/c"]), "bases"),
        (with_model(licence="MIT; rm"), "licence"),
        (with_model(tasks=["magic"]), "tasks"),
        (with_model(parameters={"total": -1}), "total"),
        (with_model(parameters={"total": 1e9}), "total"),
        (with_model(context={"tokens": 1 << 70}), "tokens"),
        (with_model(shape={"layers": 1}), "hidden"),
        (with_model(scores=[{"source": "https://a.b/", "values": {"Magic": 1}}]), "Magic"),
        (with_model(scores=[{"source": "https://a.b/", "values": {"MMLU": 101}}]), "MMLU"),
        (with_model(scores=[{"source": "https://a.b/", "values": {"MMLU": float("inf")}}]), "JSON"),
        (with_model(scores=[{"values": {"MMLU": 1}}]), "source"),
        (with_model(chat_template="../../secret"), "chat_template"),
        (with_model(chat_template="none.jinja"), "chat_template"),
        (with_model(files=files(pattern="../*.gguf")), "pattern"),
        (with_model(files=files(pattern="/etc/*")), "pattern"),
        (with_model(files=files(pattern="a/b/c.gguf")), "pattern"),
        (with_model(files=files(quantisations=["Q8_0", "Q8_0"])), "quantisations"),
        (with_model(files=files(quantisations=["q8"])), "quantisations"),
        (with_model(files=files(quantisations=["BF16"])), "files"),
        (with_model(files=files(revision="-x")), "revision"),
        (with_model(files=pinned(sha256="0" * 63)), "sha256"),
        (with_model(files=pinned(sha256="A" * 64)), "sha256"),
        (with_model(files=pinned(file_name="../a.gguf")), "file_name"),
        (with_model(files=pinned(num_bytes=0)), "num_bytes"),
        (with_model(files=pinned(packages=[PART | {"num_bytes": 9}])), "packages"),
        (with_model(files=pinned(packages=[PART | {"name": "--index-url=x"}])), "name"),
        (with_model(files=pinned(packages=[PART | {"version": "1 --pre"}])), "version"),
    ],
)
def test_what_is_refused(changed: Any, where: str) -> None:
    with pytest.raises(FileFormatError) as caught:
        parse_catalog(encoded(changed))
    assert where in caught.value.message


@pytest.mark.parametrize(
    "data",
    [b"", b"[", b"\xff", b"[" * 100_000, b'{"version":1,"version":2}', b"1" * 5_000, b" " * (MAX_CATALOG_BYTES + 1)],
    ids=["empty", "cut", "no text", "deep", "twice", "long number", "large"],
)
def test_what_is_no_document(data: bytes) -> None:
    with pytest.raises(FileFormatError, match="catalog"):
        parse_catalog(data)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    ["name", "aliases", "title", "card", "files", "shape", "scores", "parameters", "context", "bases"]
)


@given(FIELDS, VALUES)
def test_any_value_is_read_or_refused(field: str, value: Any) -> None:
    try:
        read_catalog(with_model(**{field: value}), Path())
    except FileFormatError as error:
        assert error.message.startswith("catalog: ")
