"""A catalog document small enough to read, and parts to change in it."""

import copy
import json
from typing import Any

_MODEL: dict[str, Any] = {
    "name": "tiny:1b",
    "aliases": ["tiny:1b-chat"],
    "title": "Tiny 1B",
    "card": "https://example.org/tiny",
    "repository": "someone/tiny-1b",
    "weights": "BF16",
    "bases": ["someone/tiny-1b-base"],
    "licence": "MIT",
    "tasks": ["chat"],
    "parameters": {"total": 1_000_000_000},
    "context": {"tokens": 4096, "extended_tokens": 8192},
    "shape": {
        "layers": 10, "hidden": 64, "heads": 4, "kv_heads": 2, "head": 16, "mlp": 128, "vocab": 1000, "tied": True,
        "source": "https://example.org/config.json",
    },
    "scores": [{"source": "https://example.org/scores", "thinking": True, "values": {"MMLU": 50.5}}],
    "files": [
        {"repository": "someone/tiny-GGUF", "pattern": "tiny-{quantisation}*.gguf", "quantisations": ["Q4_K_M","Q8_0"]},
    ],
}  # fmt: skip

DOCUMENT: dict[str, Any] = {
    "version": 1_000,
    "default": "tiny:1b",
    "benchmarks": {"MMLU": {"tasks": ["chat"], "highest": 100, "description": "knowledge"}},
    "families": [{"family": "Tiny", "publisher": "Someone", "architecture": "llama", "models": [_MODEL]}],
}


def document(**changes: Any) -> dict[str, Any]:
    """The document with some of its own fields changed."""
    return {**copy.deepcopy(DOCUMENT), **changes}


def with_model(**changes: Any) -> dict[str, Any]:
    """The document with fields of its one model changed; None takes a field out."""
    changed = document()
    model = changed["families"][0]["models"][0] | changes
    changed["families"][0]["models"][0] = {key: value for key, value in model.items() if value is not None}
    return changed


def encoded(value: Any) -> bytes:
    """As it is published."""
    return json.dumps(value).encode()
