"""Abaci runs open-weight language models on ordinary CPUs.

`LLM` and `SamplingParams` are resolved on first use, so that importing the package (as `abaci --version` does) loads
neither numpy nor the extension.
"""

import importlib
from typing import Any

from abaci.version import __version__

__all__ = ["LLM", "AbaciError", "SamplingParams", "__version__"]

_HOMES = {"LLM": "abaci.runtime.llm", "SamplingParams": "abaci.generation", "AbaciError": "abaci.errors"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'abaci' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
