"""From what a person types, a catalog name, a `.gguf` file or a folder, to the file to open."""

import errno
import re
from dataclasses import dataclass, replace
from pathlib import Path

from abaci.errors import AbaciError, ModelNotFoundError, OfflineError, UsageError
from abaci.hub.catalog import load_catalog, near_names, pinned_entries, pinned_entry
from abaci.hub.download import DownloadListener, SilentListener, fetch
from abaci.hub.http_source import UrlSource, checked_http_url
from abaci.hub.names import CatalogName, LocalPath, ModelName, parse_name, shortened
from abaci.hub.network import Network
from abaci.hub.planning import plan
from abaci.hub.references import StoredModel
from abaci.hub.s3 import S3Source
from abaci.hub.sources import LocalSource, Source
from abaci.hub.store import Store

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
    base_models: tuple[str, ...] = ()
    """What it was made from, as its repository said when it was fetched."""


def resolve(name: str, *, download: bool, progress: DownloadListener | None = None) -> ResolvedModel:
    """The file or folder that `name` stands for: that of the path if there is one, else a model of the store.

    With `download` a model that is not here is fetched first, as `pull` does.
    Raises ModelNotFoundError, with near names; UsageError for an empty name, a folder of several models or what is no
    file; IntegrityError for a stored file that has changed; what `pull` raises.
    """
    if not name.strip():
        raise UsageError("the model's name is empty", hint="Give a name or a path. What is here: abaci list")
    path = Path(name).expanduser()
    if _is_here(path):
        return _resolve_path(path)
    store = Store()
    stored = _stored(name, store)
    if stored is not None:
        return _resolved(store.check(stored))
    parsed = known_name(name)
    if download:
        return pull(name, progress=progress)
    raise ModelNotFoundError(f"{parsed} has not been fetched yet", hint=f"Fetch it: abaci pull {name}")


def pull(
    name: str,
    *,
    progress: DownloadListener | None = None,
    source: str | None = None,
    network: Network | None = None,
) -> ResolvedModel:
    """Fetch a model, from `source` (a file, a folder, an http or s3 address) if given; one that is here is left alone.

    Raises ModelNotFoundError, DownloadError, IntegrityError, OfflineError, ResourceError, UsageError.
    """
    network = network or Network.from_environment()
    store, parsed = Store(), known_name(name)
    try:
        wanted = plan(parsed, network)
    except OfflineError:
        stored = _stored(name, store)
        if stored is None:
            raise
        return _resolved(store.check(stored))
    if source is not None:
        wanted = replace(wanted, files=tuple(replace(file, sources=(source_of(source),)) for file in wanted.files))
    return _resolved(fetch(wanted, store, progress or SilentListener(), network))


def source_of(text: str) -> Source:
    """The source that a user names: `s3://bucket/key`, an http address, a file or a folder. Raises UsageError."""
    if text.startswith("s3://"):
        return S3Source.read(text)
    if "://" in text:
        return UrlSource(checked_http_url(text))
    return LocalSource(Path(text).expanduser())


def forbid_own_file(name: str) -> None:
    """For what is done to fetched models only. Says whether a file exists: not for names from a server's clients.

    Raises ModelNotFoundError for a path at which there is something.
    """
    try:
        is_path = isinstance(parse_name(name), LocalPath)
    except UsageError:  # what it is worth is told where it is looked up
        return
    if is_path and _is_here(Path(name).expanduser()):
        raise ModelNotFoundError(
            f"{name} is a path, and what is fetched has a name",
            hint="A file of your own runs as it is; the names of what was fetched: abaci list",
        )


def stored_model(name: str, store: Store) -> StoredModel:
    """A model that is in the store. Raises ModelNotFoundError, with near names."""
    stored = _stored(name, store)
    if stored is None:
        raise ModelNotFoundError(f"{known_name(name)} is not here", hint=f"Fetch it: abaci pull {name}")
    return stored


def _is_here(path: Path) -> bool:
    """A name too long for a file is that of none."""
    try:
        return path.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def _stored(name: str, store: Store) -> StoredModel | None:
    """What is kept under the name as it is typed, or under what it means."""
    stored = store.get(name)
    if stored is not None:
        return stored
    try:
        parsed = parse_name(name)
    except UsageError:
        return None
    entry = pinned_entry(load_catalog(), parsed.text) if isinstance(parsed, CatalogName) else None
    return store.get(str(parsed) if entry is None else entry.name)


def known_name(name: str) -> ModelName:
    """What a name means that is not that of a file here.

    Raises ModelNotFoundError for a path and, with near names, for a name that the catalog has not; UsageError.
    """
    parsed = parse_name(name)
    if isinstance(parsed, LocalPath):
        raise ModelNotFoundError(
            f"no file or folder {shortened(name)}", hint="Check the path, or see the catalog: abaci search"
        )
    if isinstance(parsed, CatalogName):
        catalog = load_catalog()
        if catalog.find(parsed.text) is None:
            near = near_names(name, [*_names_here(), *catalog.models], most=4)
            hint = f"Did you mean {', '.join(near)}?" if near else "See what the catalog has: abaci search"
            raise ModelNotFoundError(f"no model is called {name!r}", hint=hint)
    return parsed


def _names_here() -> list[str]:
    """Of the store's models; none of a store that cannot be read, as these are but suggestions."""
    try:
        return [model.name for model in Store().all()]
    except AbaciError:
        return []


def _resolved(stored: StoredModel) -> ResolvedModel:
    """With the catalog's template, whatever name the file is kept under."""
    entry = next((entry for entry in pinned_entries(load_catalog()) if entry.sha256 == stored.sha256), None)
    return ResolvedModel(
        path=stored.path,
        name=stored.name,
        licence=stored.licence or None,
        sha256=stored.sha256,
        source=stored.source,
        chat_template=None if entry is None else entry.chat_template(),
        base_models=stored.base_models,
    )


def _resolve_path(path: Path) -> ResolvedModel:
    if path.is_dir() and (path / "config.json").exists():
        name = path.resolve().name
        return ResolvedModel(path=path, name=name, licence=None, sha256=None, source=str(path), chat_template=None)
    file = _model_in_folder(path) if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"{file} is neither a file nor a folder", hint="A model is read from many places at once.")
    if file.suffix != ".gguf":
        raise UsageError(f"{file} is not a .gguf file", hint="Give a GGUF file, or a Hugging Face folder.")
    return ResolvedModel(path=file, name=file.stem, licence=None, sha256=None, source=str(file), chat_template=None)


def _model_in_folder(folder: Path) -> Path:
    """The one model of a folder; of a model in shards, the first."""
    files = [path for path in sorted(folder.glob("*.gguf")) if _is_first_or_only_shard(path.name)]
    if not files:
        raise ModelNotFoundError(
            f"no .gguf file and no config.json in {folder}", hint="Give a .gguf file, or a folder that holds one."
        )
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise UsageError(f"{folder} holds several models: {names}", hint=f"Name one, for example: {files[0]}")
    return files[0]


def _is_first_or_only_shard(file_name: str) -> bool:
    shard = _SHARD.search(file_name)
    return shard is None or int(shard.group(1)) == 1
