"""What this machine knows of a model's licence without asking anybody: the catalog, and the file if it is here."""

from abaci.errors import ModelNotFoundError
from abaci.formats.gguf import GgufCheckpoint
from abaci.hub.catalog import CatalogEntry, load_catalog
from abaci.hub.huggingface import HuggingFaceSource
from abaci.hub.licences.closure import ModelFacts, is_multimodal, with_metadata
from abaci.hub.resolving import ResolvedModel, resolve


def facts_of_name(name: str) -> ModelFacts:
    """Of a model that may be here or not. Raises ModelNotFoundError, with near names, for one of no catalog or file."""
    try:
        return facts_of_file(resolve(name, download=False))
    except ModelNotFoundError:
        facts = facts_of_catalog(name)
        if facts is None:
            raise
        return facts


def facts_of_file(resolved: ResolvedModel) -> ModelFacts:
    """Of a model that is here: what its metadata says too. Raises FileFormatError for a file that cannot be read."""
    known = None if resolved.licence is None else facts_of_catalog(resolved.name)
    with GgufCheckpoint.open(resolved.path) as checkpoint:
        return with_metadata(known or ModelFacts(resolved.name), checkpoint.metadata)


def facts_of_catalog(name: str) -> ModelFacts | None:
    """Of a name of the catalog, from the catalog alone; None for any other name."""
    entry = load_catalog().entries.get(name)
    return None if entry is None else _facts_of_entry(entry)


def _facts_of_entry(entry: CatalogEntry) -> ModelFacts:
    repositories = [source.repository for source in entry.sources if isinstance(source, HuggingFaceSource)]
    return ModelFacts(
        entry.name,
        catalog=entry.licence,
        repository=repositories[0] if repositories else None,
        multimodal=is_multimodal(entry.architecture),
    )
