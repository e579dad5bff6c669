"""Keeping a store in order: what it holds and costs, what nothing names, second names, and repair from sources."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from abaci.errors import AbaciError, IntegrityError, ModelNotFoundError, UsageError
from abaci.hub.catalog import load_catalog, pinned_entries
from abaci.hub.disk import delete_file, remove_tree
from abaci.hub.download import DownloadListener, fetch
from abaci.hub.names import LocalPath, parse_name
from abaci.hub.network import Network
from abaci.hub.planning import plan
from abaci.hub.references import StoredFile, StoredModel
from abaci.hub.sources import Source
from abaci.hub.store import Store
from abaci.hub.wanted import Digest, WantedFile, WantedModel


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """What one name costs."""

    name: str
    num_bytes: int
    shared_bytes: int
    """Of these, in files that other names need too."""
    elsewhere_bytes: int
    """Of these, in files of other tools, which the store neither made nor deletes."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file or folder of the store that nothing names."""

    path: Path
    num_bytes: int
    is_partial: bool
    """The beginning of a download, which a pull would continue."""


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """What a store holds."""

    home: Path
    models: tuple[ModelUsage, ...]
    own_bytes: int
    """In files that were fetched for this store, each counted once."""
    elsewhere_bytes: int
    leftovers: tuple[Leftover, ...]


def usage(store: Store) -> StoreUsage:
    """What the store holds; files are not read."""
    models = store.all()
    names = Counter(file.location for model in models for file in model.files)
    files = {file.location: file for model in models for file in model.files}.values()
    return StoreUsage(
        store.home,
        tuple(
            ModelUsage(
                model.name,
                model.num_bytes,
                sum(file.num_bytes for file in model.files if names[file.location] > 1),
                sum(file.num_bytes for file in model.files if not file.is_ours),
            )
            for model in models
        ),
        sum(file.num_bytes for file in files if file.is_ours),
        sum(file.num_bytes for file in files if not file.is_ours),
        leftovers(store),
    )


def leftovers(store: Store) -> tuple[Leftover, ...]:
    """What nothing names: of downloads that were stopped, of models that were removed by halves."""
    models = store.all()
    named = {file.location for model in models for file in model.files}
    folders = {store.folder_of(model.path) for model in models}
    found = [Leftover(path, _size(path), True) for path in _children(store.home / "partial")]
    found += [Leftover(path, _size(path), False) for path in _children(store.home / "files") if path not in named]
    found += [Leftover(path, 0, False) for path in _children(store.home / "folders") if path not in folders]
    found += [Leftover(path, _size(path), False) for path in _children(store.home / "models") if path.suffix != ".json"]
    return tuple(found)


def prune(store: Store, on_wait: Callable[[], None]) -> tuple[Leftover, ...]:
    """Delete what nothing names, when no process is fetching; `on_wait` is called once if one is."""
    if not store.home.is_dir():
        return ()
    with store.locked("fetching", on_wait), store.changing():
        found = leftovers(store)
        for leftover in found:
            if leftover.path.is_dir() and not leftover.path.is_symlink():
                remove_tree(leftover.path)
            else:
                delete_file(leftover.path)
    return found


def copy(store: Store, model: StoredModel, name: str) -> StoredModel:
    """A second name for a model; no bytes are copied. Raises UsageError for a name that means something already."""
    if isinstance(parse_name(name), LocalPath):
        raise UsageError(f"{name} is a path", hint="Give a name, such as my-model:1b.")
    with store.changing():
        if store.get(name) is not None or load_catalog().find(name) is not None:
            raise UsageError(
                f"{name} is the name of a model",
                hint=f"Choose another name, or delete that model first: abaci rm {name}",
            )
        if store.get(model.name) is None:
            raise ModelNotFoundError(
                f"{model.name} has been removed meanwhile", hint=f"Fetch it again: abaci pull {model.name}"
            )
        return store.refer(replace(model, name=name))


def damaged_files(
    store: Store, model: StoredModel, show_bytes: Callable[[int], None]
) -> tuple[tuple[StoredFile, IntegrityError], ...]:
    """Hash all files of a model, telling how many bytes have been read. Returns those that are wrong, and why."""
    found, before = [], 0
    for file in model.files:
        done = before

        def show(num_bytes: int, done: int = done) -> None:
            show_bytes(done + num_bytes)

        try:
            store.verify_file(model, file, show)
        except IntegrityError as error:
            found.append((file, error))
        before += file.num_bytes
    return tuple(found)


def repair(
    store: Store, model: StoredModel, damaged: tuple[StoredFile, ...], listener: DownloadListener, network: Network
) -> StoredModel:
    """Fetch damaged files again, by their hash, from wherever the model or another of its names comes from.

    Files of other tools are left as they are; the store then has its own. Raises what `fetch` raises.
    """
    sources = _sources(store, model, network)
    wanted = WantedModel(
        model.name,
        tuple(
            WantedFile(file.path, file.num_bytes, Digest.sha256(file.sha256), sources.get(file.sha256, ()))
            for file in model.files
        ),
        model.licence,
        model.base_models,
    )
    for file in damaged:
        if file.is_ours:
            store.discard(file)
    return fetch(wanted, store, listener, network, trusted={file.location for file in damaged}.isdisjoint)


def _sources(store: Store, model: StoredModel, network: Network) -> dict[str, tuple[Source, ...]]:
    """Per SHA-256, where the model's names say that it comes from; then where the catalog does."""
    found: dict[str, list[Source]] = {file.sha256: [] for file in model.files}
    for other in store.all():
        if other.sha256 != model.sha256:
            continue
        try:
            files = plan(parse_name(other.name), network).files
        except AbaciError:
            continue
        by_path = {file.path: file for file in files}
        for file in model.files:
            planned = by_path.get(file.path) or (files[0] if len(files) == 1 else None)
            if planned is not None:
                found[file.sha256] += planned.sources
    for entry in pinned_entries(load_catalog()):
        if entry.sha256 in found:
            found[entry.sha256] += entry.sources
    return {sha256: tuple(dict.fromkeys(sources)) for sha256, sources in found.items()}


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size if not path.is_dir() else 0
    except FileNotFoundError:
        return 0
