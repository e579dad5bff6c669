"""What is known of a model's licence, gathered: the catalog, its repository, and the file or folder if it is here."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from abaci.errors import IntegrityError, ModelNotFoundError, OfflineError, UnsupportedModelError, UsageError
from abaci.formats.opening import open_checkpoint
from abaci.hub import huggingface, modelscope
from abaci.hub.catalog import Catalog, CatalogModel, Task, load_catalog, pinned_entries
from abaci.hub.licences.closure import BaseModel, ModelFacts, declared_licence, is_multimodal, with_metadata
from abaci.hub.licences.licence_file import licence_of_folder
from abaci.hub.licences.model_card import read_model_card
from abaci.hub.licences.reading import load_licences
from abaci.hub.names import HuggingFaceName, LMStudioName, ModelName, ModelScopeName, parse_name
from abaci.hub.network import Network
from abaci.hub.reach import SourceUnavailableError
from abaci.hub.repositories import Listing
from abaci.hub.resolving import ResolvedModel, resolve


def facts_of_name(name: str) -> ModelFacts:
    """Of a model that may be here or not; of a repository at the hub, what the hub says if it can be asked.

    Raises ModelNotFoundError, with near names, for a name of no model.
    """
    try:
        return facts_of_file(resolve(name, download=False))
    except ModelNotFoundError:
        facts = facts_of_catalog(name) or facts_of_repository(name)
        if facts is None:
            raise
        return facts


def facts_before_fetch(name: str) -> ModelFacts | None:
    """Of a model that is not here; None for one that is, and for a name of neither the catalog nor a repository."""
    try:
        resolve(name, download=False)
    except ModelNotFoundError:
        return facts_of_catalog(name) or facts_of_repository(name)
    except IntegrityError:  # what is here is damaged, and may be fetched again
        return facts_of_catalog(name)
    return None


def facts_of_file(resolved: ResolvedModel) -> ModelFacts:
    """Of a model that is here: what its metadata and card say too. Raises FileFormatError for one that is damaged."""
    facts = facts_of_origin(resolved)
    try:
        with closing(open_checkpoint(resolved.path)) as checkpoint:
            facts = with_metadata(facts, checkpoint.metadata)
    except UnsupportedModelError:
        facts = replace(facts, title=resolved.path.resolve().name)  # its licence holds though it cannot be run
    return _with_folder(facts, resolved.path) if resolved.path.is_dir() else facts


def facts_of_origin(resolved: ResolvedModel) -> ModelFacts:
    """Where a model came from: an entry of the catalog, or a repository with the tag it had when it was fetched."""
    if resolved.sha256 is None:
        return ModelFacts(resolved.name)
    entry = next((entry for entry in pinned_entries(load_catalog()) if entry.sha256 == resolved.sha256), None)
    facts = facts_of_catalog(resolved.name if entry is None else entry.name)
    if facts is not None:
        return replace(facts, name=resolved.name)
    parsed = _parsed(resolved.name)
    hubs = HuggingFaceName | ModelScopeName | LMStudioName
    repository = str(parsed.repository) if isinstance(parsed, hubs) else None
    return ModelFacts(
        resolved.name,
        repository_licence=resolved.licence,
        repository=repository,
        base_models=tuple(BaseModel(base) for base in resolved.base_models),
    )


def facts_of_catalog(name: str) -> ModelFacts | None:
    """Of a name of the catalog, from the catalog alone; None for any other name."""
    catalog = load_catalog()
    found = catalog.find(name)
    if found is None:
        return None
    model, variant = found.model, found.variant
    kept_as = model.name  # as `planning` names it in the store
    if variant is not None and variant is not model.variant():
        kept_as = f"{model.name}-{variant.quantisation.lower()}"
    return facts_of_model(model, kept_as, catalog)


def facts_of_model(model: CatalogModel, name: str, catalog: Catalog) -> ModelFacts:
    """Of a model of a catalog; `name` is what it, or a variant of it, is kept under."""
    bases = ((base, catalog.of_repository(base)) for base in model.bases)
    return ModelFacts(
        name,
        catalog=model.licence.expression,
        repository=None if model.repository is None else str(model.repository),
        base_models=tuple(BaseModel(str(base), None if of is None else of.licence.expression) for base, of in bases),
        multimodal=True if Task.VISION in model.tasks else is_multimodal(model.architecture),
    )


def facts_of_repository(name: str) -> ModelFacts | None:
    """Of a repository at a hub; where the hub cannot be asked, what its name alone tells.

    None for any other name.
    """
    parsed = _parsed(name)
    if not isinstance(parsed, HuggingFaceName | ModelScopeName):
        return None
    catalog = load_catalog()
    known = catalog.of_repository(parsed.repository)
    facts = None if known is None else facts_of_model(known, str(parsed), catalog)
    listing = _listing(parsed)
    if listing is None:
        return facts or ModelFacts(str(parsed), repository=str(parsed.repository))
    said = facts_of_listing(str(parsed), listing)
    if facts is None:
        return said
    bases = tuple(dict.fromkeys((*facts.base_models, *said.base_models)))
    return replace(facts, repository_licence=said.repository_licence, base_models=bases)


def facts_of_listing(name: str, listing: Listing) -> ModelFacts:
    """Of a repository as its hub lists it."""
    return ModelFacts(
        name,
        repository=listing.repository,
        repository_licence=declared_licence(listing.licence, listing.licence_name),
        base_models=tuple(BaseModel(base) for base in listing.base_models),
    )


def _parsed(name: str) -> ModelName | None:
    try:
        return parse_name(name)
    except UsageError:
        return None


def _listing(name: HuggingFaceName | ModelScopeName) -> Listing | None:
    repository, network = str(name.repository), Network.from_environment()
    try:
        if isinstance(name, ModelScopeName):
            return modelscope.list_repository(repository, modelscope.USUAL_REVISION, network)
        return huggingface.list_repository(repository, "main", network)
    except (SourceUnavailableError, OfflineError):
        return None


def _with_folder(facts: ModelFacts, folder: Path) -> ModelFacts:
    """What lies beside the weights: the card, and the licence's text."""
    card = read_model_card(folder / "README.md")
    bases = tuple(BaseModel(base) for base in card.base_models)
    return replace(
        facts,
        licence_file=licence_of_folder(folder, load_licences()),
        repository_licence=facts.repository_licence or declared_licence(card.licence, card.licence_name),
        base_models=tuple(dict.fromkeys((*facts.base_models, *bases))),
    )
