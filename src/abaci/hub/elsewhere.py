"""Files that other tools keep on this machine, found by hash or by name and size. Read where they are, never changed.

An Ollama store names its files by SHA-256, a Hugging Face cache too; an LM Studio folder has them under the names of
their repositories. A path given here is a guess: whoever uses it hashes it first.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from abaci.hub import huggingface_cache
from abaci.hub.wanted import WantedFile


def ollama_folder() -> Path:
    """`OLLAMA_MODELS`, else where Ollama keeps models."""
    folder = os.environ.get("OLLAMA_MODELS")
    return Path(folder).expanduser().absolute() if folder else Path.home() / ".ollama" / "models"


def lm_studio_folder() -> Path:
    """`LM_STUDIO_MODELS`, else `models` in the home that LM Studio's pointer file names, else its usual one."""
    if folder := os.environ.get("LM_STUDIO_MODELS"):
        return Path(folder).expanduser().absolute()
    try:
        home = (Path.home() / ".lmstudio-home-pointer").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        home = ""
    return (Path(home) if home.startswith("/") and "\0" not in home else Path.home() / ".lmstudio") / "models"


def candidates(file: WantedFile) -> Iterator[Path]:
    """Files on this machine that may be the one wanted: of the right size, and of its hash or name."""
    for path in _named_alike(file):
        try:
            if path.is_file() and path.stat().st_size == file.num_bytes:
                yield path
        except OSError:
            continue


def _named_alike(file: WantedFile) -> Iterator[Path]:
    if file.sha256 is not None:
        yield from huggingface_cache.blobs_of_hash(file.sha256)
        yield ollama_folder() / "blobs" / f"sha256-{file.sha256}"
    if file.digest is not None and file.name.endswith(".gguf"):
        yield from sorted(path for path in lm_studio_folder().glob("*/*/*.gguf") if path.name == file.name)
