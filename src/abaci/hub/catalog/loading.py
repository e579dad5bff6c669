"""The catalog of this machine: the one that comes with the package, or a later one that was taken in by an update.

    ABACI_HOME/catalog/catalog.json    the update: signed when it came, kept only by `updating.py`

An update counts while its version is higher than the package's, so that a new release of Abaci replaces an old update.
"""

import json
import tomllib
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from abaci.errors import FileFormatError
from abaci.hub.catalog.fields import WRONG
from abaci.hub.catalog.reading import read_catalog
from abaci.hub.catalog.schema import Catalog
from abaci.hub.store import default_home

MAX_CATALOG_BYTES = 16 << 20

_FOLDER = Path(__file__).parent
_TEMPLATES = _FOLDER.parent / "templates"


def load_catalog(home: Path | None = None) -> Catalog:
    """The catalog to go by. Raises FileFormatError."""
    updated = load_update(home)
    packaged = load_packaged_catalog()
    return packaged if updated is None or updated.version <= packaged.version else updated


@cache
def load_packaged_catalog() -> Catalog:
    """The one that comes with the package; read once, as it does not change."""
    return read_catalog(packaged_document(), _TEMPLATES)


def load_update(home: Path | None = None) -> Catalog | None:
    """The one that was taken in last, or None. Raises FileFormatError."""
    path = update_path(home)
    try:
        status = path.stat()
    except OSError:
        return None
    return _read_update(path, (status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=1)
def _read_update(path: Path, identity: tuple[int, ...]) -> Catalog:
    """Read again only when another file stands there."""
    try:
        return parse_catalog(path.read_bytes())
    except FileFormatError as error:
        raise FileFormatError(
            f"{path}: {error.message}", hint="Go back to the package's: abaci catalog reset"
        ) from error


def parse_catalog(data: bytes) -> Catalog:
    """A published catalog: one JSON document. Raises FileFormatError."""
    if len(data) > MAX_CATALOG_BYTES:
        raise FileFormatError(f"catalog: it has {len(data):,} bytes, more than {MAX_CATALOG_BYTES:,}", hint=WRONG)
    try:
        document = json.loads(data, parse_constant=_refuse_constant, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"catalog: it is not JSON: {error}", hint=WRONG) from error
    return read_catalog(document, _TEMPLATES)


def packaged_document() -> dict[str, Any]:
    """The package's files as the one document that is published."""
    families = [_toml(path) for path in sorted((_FOLDER / "families").glob("*.toml"))]
    return {**_toml(_FOLDER / "catalog.toml"), "benchmarks": _toml(_FOLDER / "benchmarks.toml"), "families": families}


def update_path(home: Path | None = None) -> Path:
    """Where the update is."""
    return (default_home() if home is None else home) / "catalog" / "catalog.json"


def _toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a number")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key is there twice")
    return fields
