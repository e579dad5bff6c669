"""The models known by name, read from `catalog.toml`. Data only: fetching and keeping is others' work."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from abaci.hub.huggingface import HuggingFaceSource
from abaci.hub.python_index import Package, PythonIndexSource
from abaci.hub.sources import LocalSource, Source


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One model: what its file must be, and where to look for it, in order."""

    name: str
    title: str
    architecture: str
    licence: str
    file_name: str
    num_bytes: int
    sha256: str
    sources: tuple[Source, ...]
    chat_template_path: Path | None = None
    """A template for a file that lacks one."""

    def chat_template(self) -> str | None:
        """The template's text, or None where the file's own is to be used."""
        return None if self.chat_template_path is None else self.chat_template_path.read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Catalog:
    """Entries by name, and the name that stands for "just show me"."""

    default: str
    entries: Mapping[str, CatalogEntry]


def load_catalog() -> Catalog:
    """The catalog that comes with the package."""
    return read_catalog(Path(__file__).with_name("catalog.toml"))


def read_catalog(path: Path) -> Catalog:
    """A catalog file; chat templates it names are in the folder `templates` beside it."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    templates = path.with_name("templates")
    entries = {name: _entry(name, fields, templates) for name, fields in document["models"].items()}
    return Catalog(document["default"], MappingProxyType(entries))


def _entry(name: str, fields: Mapping[str, Any], templates: Path) -> CatalogEntry:
    plain = {key: value for key, value in fields.items() if key not in ("sources", "chat_template")}
    template = fields.get("chat_template")
    return CatalogEntry(
        name=name,
        sources=tuple(_source(source) for source in fields["sources"]),
        chat_template_path=None if template is None else templates / template,
        **plain,
    )


def _source(fields: Mapping[str, Any]) -> Source:
    match fields["kind"]:
        case "local":
            return LocalSource(Path(fields["path"]).expanduser())
        case "hugging-face":
            return HuggingFaceSource(fields["repository"], fields["revision"])
        case "python-index":
            return PythonIndexSource(tuple(Package(**package) for package in fields["packages"]))
        case kind:
            raise ValueError(f"catalog: no source of kind {kind!r}")
