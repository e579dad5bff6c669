"""Which licence a publisher gave a model, by its repository's name, and what it was made from (`publishers.toml`).

Copies keep most of the name: `anybody/DeepSeek-R1-Distill-Llama-8B-GGUF` is known by its last part. A name is a hint of
where a model comes from, never a licence by itself: it is one more voice, which may disagree with the others.
"""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from abaci.hub.licences.licence import plain_name


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """Models of one publisher under one licence."""

    publisher: str
    names: tuple[str, ...]
    licence: str
    source: str
    bases: tuple[str, ...] = ()
    """Repositories of the models they were made from."""

    def fits(self, repository: str) -> bool:
        """Whether a repository, or a title made from one, has a name of these."""
        name = plain_name(repository.rpartition("/")[2])
        return any(_fits(name, plain_name(known)) for known in self.names)


@cache
def load_publishers() -> tuple[PublishedModel, ...]:
    """The entries that come with the package, in order."""
    document = tomllib.loads(Path(__file__).with_name("publishers.toml").read_text(encoding="utf-8"))
    return tuple(
        PublishedModel(names=tuple(fields.pop("names")), bases=tuple(fields.pop("bases", ())), **fields)
        for fields in document["models"]
    )


def published_as(repository: str, models: tuple[PublishedModel, ...]) -> PublishedModel | None:
    """The first entry that a repository's name fits, or None."""
    return next((model for model in models if model.fits(repository)), None)


def repository_of(name_or_url: str) -> str:
    """`organisation/name` of an address at a hub; anything else as it is."""
    parts = urlsplit(name_or_url) if "://" in name_or_url else None
    if parts is None or parts.hostname is None:
        return name_or_url
    path = [part for part in parts.path.split("/") if part]
    return "/".join(path[:2]) if len(path) >= 2 else name_or_url


def _fits(name: str, known: str) -> bool:
    return name.startswith(known[:-1]) if known.endswith("*") else name == known
