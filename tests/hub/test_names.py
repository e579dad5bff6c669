"""What a name means, and that none can lead out of where it belongs."""

import string
from pathlib import Path, PurePosixPath
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abaci.errors import UsageError
from abaci.hub.names import (
    CatalogName,
    FileUrl,
    HuggingFaceName,
    LMStudioName,
    LocalPath,
    ModelName,
    ModelScopeName,
    OllamaName,
    Repository,
    parse_name,
)

QWEN = Repository("Qwen", "Qwen2.5-7B-Instruct-GGUF")


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("qwen2.5:7b", CatalogName("qwen2.5:7b")),
        ("Qwen2.5:7B", CatalogName("qwen2.5:7b")),
        ("qwen2.5:7b-q8_0", CatalogName("qwen2.5:7b-q8_0")),
        ("Qwen/Qwen2.5-7B-Instruct-GGUF", HuggingFaceName(QWEN)),
        ("Qwen/Qwen2.5-7B-Instruct-GGUF:q4_k_m", HuggingFaceName(QWEN, "Q4_K_M")),
        ("hf.co/Qwen/Qwen2.5-7B-Instruct-GGUF:Q8_0", HuggingFaceName(QWEN, "Q8_0")),
        ("https://huggingface.co/Qwen/Qwen2.5-7B-Instruct-GGUF", HuggingFaceName(QWEN)),
        ("modelscope/Qwen/Qwen2.5-7B-Instruct-GGUF:Q8_0", ModelScopeName(QWEN, "Q8_0")),
        ("lmstudio/Qwen/Qwen2.5-7B-Instruct-GGUF", LMStudioName(QWEN)),
        ("ollama/llama3.2", OllamaName(Repository("library", "llama3.2"), "latest")),
        ("ollama/llama3.2:3b-instruct-q4_K_M", OllamaName(Repository("library", "llama3.2"), "3b-instruct-q4_K_M")),
        ("ollama/someone/model:1b", OllamaName(Repository("someone", "model"), "1b")),
        ("https://example.org/a/b/m.gguf", FileUrl("https://example.org/a/b/m.gguf")),
        ("http://localhost:8000/m.gguf?x=1", FileUrl("http://localhost:8000/m.gguf?x=1")),
        ("https://hf.co/o/r/resolve/main/m.gguf", FileUrl("https://hf.co/o/r/resolve/main/m.gguf")),
        ("m.gguf", LocalPath(Path("m.gguf"))),
        ("./models", LocalPath(Path("models"))),
        ("../m.gguf", LocalPath(Path("../m.gguf"))),
        ("~/m", LocalPath(Path("~/m"))),
        ("/srv/models/7b", LocalPath(Path("/srv/models/7b"))),
        (".", LocalPath(Path())),
    ],
)
def test_forms(text: str, meaning: ModelName) -> None:
    assert parse_name(text) == meaning


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "two words",
        "qwen:7b:q4",
        "a/b/c",
        "a/..",
        "a/b:",
        "a/b:../../x",
        "-a/b",
        "a--b/c",
        "a/b\n",
        "a/b\0",
        "hf.co/a",
        "hf.co/../a",
        "hf.co/a/b/../../c",
        "hf.co/a/b%2f..:Q4",
        "ollama/",
        "ollama/../x",
        "ollama/x:a/b",
        "ollama/a/b/c",
        "modelscope/a",
        "lmstudio//b",
        "https://example.org/",
        "https://example.org/m.bin",
        "https://example.org/..gguf",
        "https:///m.gguf",
        "https://user:secret@example.org/m.gguf",
        "https://example.org/a b/m.gguf",
        "https://example.org/m.gguf#part",
        "https://[::1/m.gguf",
        "ftp://example.org/m.gguf",
        "file:///etc/m.gguf",
        "./\0",
        "x" * 2_001,
    ],
)
def test_what_has_no_form_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_name(text)


NEAR_NAMES = st.text(
    alphabet=[*string.ascii_letters[:6], "0", ".", "/", "\\", ":", "-", "_", "~", "%", "\0", "\n"], max_size=30
)
PREFIXES = st.sampled_from(["", "hf.co/", "ollama/", "modelscope/", "lmstudio/", "https://", "https://h/", "a/b:"])


@given(PREFIXES, st.one_of(st.text(max_size=40), NEAR_NAMES))
def test_every_text_is_refused_or_names_one_thing(prefix: str, rest: str) -> None:
    try:
        name = parse_name(prefix + rest)
    except UsageError:
        return
    assert isinstance(name, get_args(ModelName))
    if not isinstance(name, LocalPath):
        assert parse_name(str(name)) == name


@given(PREFIXES, NEAR_NAMES)
def test_no_part_of_a_name_leads_elsewhere(prefix: str, rest: str) -> None:
    try:
        name = parse_name(prefix + rest)
    except UsageError:
        return
    match name:
        case HuggingFaceName(repository, extra) | ModelScopeName(repository, extra) | LMStudioName(repository, extra):
            parts = [repository.organisation, repository.name, extra or "x"]
        case OllamaName(repository, tag):
            parts = [repository.organisation, repository.name, tag]
        case CatalogName(text):
            parts = text.split(":")
        case FileUrl():
            parts = [name.file_name]
        case LocalPath():
            return
    for part in parts:
        assert part.isascii() and part.isprintable()
        assert PurePosixPath(part).parts == (part,) and part not in (".", "..") and "\\" not in part
