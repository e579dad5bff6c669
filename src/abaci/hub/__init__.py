"""Getting models and keeping them: the catalog, the sources, the store. Knows files, not what is in them."""

from abaci.hub.catalog import Catalog, CatalogEntry, load_catalog, pinned_entries, pinned_entry
from abaci.hub.download import DownloadListener
from abaci.hub.names import ModelName, parse_name
from abaci.hub.references import StoredModel
from abaci.hub.resolving import ResolvedModel, forbid_own_file, known_name, pull, resolve, stored_model
from abaci.hub.store import Store

__all__ = [
    "Catalog",
    "CatalogEntry",
    "DownloadListener",
    "ModelName",
    "ResolvedModel",
    "Store",
    "StoredModel",
    "forbid_own_file",
    "known_name",
    "load_catalog",
    "parse_name",
    "pinned_entries",
    "pinned_entry",
    "pull",
    "resolve",
    "stored_model",
]
