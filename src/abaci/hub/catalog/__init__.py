"""The models known by name: what is known of each, in which files, and where the facts come from.

The catalog that comes with the package is one TOML file per family under `families`, beside `catalog.toml` (version,
default) and `benchmarks.toml`.
"""

from abaci.hub.catalog.entries import CatalogEntry, entry_of, pinned_entries, pinned_entry
from abaci.hub.catalog.loading import load_catalog
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
from abaci.hub.catalog.shape import Experts, LatentAttention, LinearAttention, Shape, SlidingWindow

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
    "Shape",
    "SlidingWindow",
    "StatedLicence",
    "Task",
    "Variant",
    "WeightsFormat",
    "entry_of",
    "load_catalog",
    "pinned_entries",
    "pinned_entry",
]
