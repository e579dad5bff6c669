"""The catalog of this machine: the one that comes with the package."""

import tomllib
from pathlib import Path
from typing import Any

from abaci.hub.catalog.reading import read_catalog
from abaci.hub.catalog.schema import Catalog

_FOLDER = Path(__file__).parent
TEMPLATES = _FOLDER.parent / "templates"


def load_catalog() -> Catalog:
    """The catalog to go by. Raises FileFormatError."""
    return read_catalog(packaged_document(), TEMPLATES)


def packaged_document() -> dict[str, Any]:
    """The package's files as one document."""
    families = [_toml(path) for path in sorted((_FOLDER / "families").glob("*.toml"))]
    return {**_toml(_FOLDER / "catalog.toml"), "benchmarks": _toml(_FOLDER / "benchmarks.toml"), "families": families}


def _toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))
