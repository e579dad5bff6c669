"""From what a person types, a catalog name, a `.gguf` file or a folder, to the file to open."""

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from abaci.errors import ModelNotFoundError, UsageError
from abaci.hub.catalog import Catalog, CatalogEntry, load_catalog, pinned_entries, pinned_entry
from abaci.hub.download import DownloadListener, SilentListener, download
from abaci.hub.sources import LocalSource
from abaci.hub.store import Store, StoredModel

_SHARD = re.compile(r"-(\d{5})-of-\d{5}\.gguf$")


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model file on this machine. `sha256` and `licence` are None for a file that came from no catalog."""

    path: Path
    """The file, or the first of its shards."""
    name: str
    licence: str | None
    sha256: str | None
    source: str
    chat_template: str | None
    """The catalog's template, for a file that lacks one."""


def resolve(name: str, *, download: bool, progress: DownloadListener | None = None) -> ResolvedModel:
    """The file that `name` stands for: a file or folder of that path if one exists, else a model of the catalog.

    With `download` a catalog model that is not here is fetched first, as `pull` does.
    Raises ModelNotFoundError, with near names; UsageError for a folder of several models; IntegrityError for a stored
    file that has changed; what `pull` raises.
    """
    path = Path(name).expanduser()
    if path.exists():
        return _resolve_path(path)
    entry = _catalog_entry(name)
    store = Store()
    stored = store.get(name)
    if stored is not None:
        return _resolved(entry, store.check(stored))
    if download:
        return pull(name, progress=progress)
    raise ModelNotFoundError(f"{name} has not been fetched yet", hint=f"abaci pull {name}")


def pull(name: str, *, progress: DownloadListener | None = None, local: Path | None = None) -> ResolvedModel:
    """Fetch a catalog model, from `local` (a file, or a folder that holds it) if given; one that is here is left alone.

    Raises ModelNotFoundError, DownloadError, IntegrityError, ResourceError.
    """
    entry = _catalog_entry(name)
    sources = None if local is None else (LocalSource(local),)
    stored = download(entry, Store(), progress or SilentListener(), sources)
    return _resolved(entry, stored)


def stored_model(name: str, store: Store) -> StoredModel:
    """A model that is in the store. Raises ModelNotFoundError, with near names."""
    stored = store.get(name)
    if stored is None:
        _catalog_entry(name)
        raise ModelNotFoundError(f"{name} is not here", hint=f"abaci pull {name}")
    return stored


def _resolved(entry: CatalogEntry, stored: StoredModel) -> ResolvedModel:
    return ResolvedModel(
        path=stored.path,
        name=entry.name,
        licence=stored.licence,
        sha256=stored.sha256,
        source=stored.source,
        chat_template=entry.chat_template(),
    )


def _resolve_path(path: Path) -> ResolvedModel:
    if path.is_dir() and (path / "config.json").exists():
        name = path.resolve().name
        return ResolvedModel(path=path, name=name, licence=None, sha256=None, source=str(path), chat_template=None)
    file = _model_in_folder(path) if path.is_dir() else path
    if file.suffix != ".gguf":
        raise UsageError(f"{file} is not a .gguf file", hint="give a GGUF file, or a Hugging Face folder")
    return ResolvedModel(path=file, name=file.stem, licence=None, sha256=None, source=str(file), chat_template=None)


def _model_in_folder(folder: Path) -> Path:
    """The one model of a folder; of a model in shards, the first."""
    files = [path for path in sorted(folder.glob("*.gguf")) if _is_first_or_only_shard(path.name)]
    if not files:
        raise ModelNotFoundError(
            f"no .gguf file and no config.json in {folder}", hint="give a .gguf file, or a folder that holds one"
        )
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise UsageError(f"{folder} holds several models: {names}", hint=f"name one, e.g. {files[0]}")
    return files[0]


def _is_first_or_only_shard(file_name: str) -> bool:
    shard = _SHARD.search(file_name)
    return shard is None or int(shard.group(1)) == 1


def _catalog_entry(name: str) -> CatalogEntry:
    catalog = load_catalog()
    entry = pinned_entry(catalog, name)
    if entry is not None:
        return entry
    if name.endswith(".gguf") or os.sep in name:
        raise ModelNotFoundError(f"no file or folder {name}", hint="check the path, or see the catalog: abaci list")
    near = _near_names(name, catalog)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the catalog has {', '.join(_fetchable(catalog))}"
    raise ModelNotFoundError(f"no model is called {name!r}", hint=hint)


def _near_names(name: str, catalog: Catalog) -> list[str]:
    """Catalog names that share a beginning or most letters with what was typed."""
    typed = name.lower()
    fetchable = _fetchable(catalog)
    alike = set(difflib.get_close_matches(typed, fetchable, n=3, cutoff=0.5))
    begun = {known for known in fetchable if typed and known.startswith(typed.split(":")[0])}
    return [known for known in fetchable if known in alike | begun]


def _fetchable(catalog: Catalog) -> list[str]:
    return [entry.name for entry in pinned_entries(catalog)]
