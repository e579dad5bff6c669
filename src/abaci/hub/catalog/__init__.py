"""The models known by name: what is known of each, in which files, and where the facts come from.

The catalog that comes with the package is one TOML file per family under `families`, beside `catalog.toml` (version,
default) and `benchmarks.toml`.
"""

from abaci.hub.catalog.entries import CatalogEntry, entry_of, pinned_entries, pinned_entry
from abaci.hub.catalog.loading import load_catalog, packaged_document
from abaci.hub.catalog.schema import (
    Benchmark,
    Catalog,
    CatalogModel,
    Context,
    NamedVariant,
    Parameters,
    Pin,
    Score,
    StatedLicence,
    Task,
    Variant,
    WeightsFormat,
)
from abaci.hub.catalog.searching import SearchConditions, near_names, search
from abaci.hub.catalog.shape import Experts, LatentAttention, LinearAttention, Shape, SlidingWindow
from abaci.hub.catalog.updating import reset_catalog, update_catalog

__all__ = [
    "Benchmark",
    "Catalog",
    "CatalogEntry",
    "CatalogModel",
    "Context",
    "Experts",
    "LatentAttention",
    "LinearAttention",
    "NamedVariant",
    "Parameters",
    "Pin",
    "Score",
    "SearchConditions",
    "Shape",
    "SlidingWindow",
    "StatedLicence",
    "Task",
    "Variant",
    "WeightsFormat",
    "entry_of",
    "load_catalog",
    "near_names",
    "packaged_document",
    "pinned_entries",
    "pinned_entry",
    "reset_catalog",
    "search",
    "update_catalog",
]
