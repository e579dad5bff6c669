"""Fetch a model's files into the store: from this machine, else from sources; only right bytes are kept."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from abaci.errors import DownloadError, IntegrityError, OfflineError, ResourceError
from abaci.hub.catalog import CatalogEntry
from abaci.hub.elsewhere import candidates
from abaci.hub.network import Network
from abaci.hub.partial import PartialFile, sha256_of
from abaci.hub.peer import peer_sources
from abaci.hub.ranged import fetch_ranges
from abaci.hub.reach import SourceUnavailableError
from abaci.hub.references import StoredFile, StoredModel
from abaci.hub.sources import HttpSource, LocalSource, Source, Transfer
from abaci.hub.store import Store, stored_file
from abaci.hub.wanted import Digest, WantedFile, WantedModel


class DownloadListener(Protocol):
    """Whoever shows a download to a person."""

    def advanced(self, source: str, num_bytes: int, total_bytes: int) -> None:
        """`num_bytes` of `total_bytes` are here; may go back, when a source starts again."""

    def noticed(self, message: str) -> None:
        """Something worth a line: a source given up, another process waited for."""


class SilentListener:
    """Shows nothing."""

    def advanced(self, source: str, num_bytes: int, total_bytes: int) -> None:
        """Nothing."""

    def noticed(self, message: str) -> None:
        """Nothing."""


@runtime_checkable
class KeepingSource(Protocol):
    """A source whose files are kept where other tools look for them."""

    def keep(self, file: WantedFile, finished: Path, network: Network) -> Path | None:
        """Move a checked file there and return its place; None where that cannot be."""


@runtime_checkable
class LocatingSource(Protocol):
    """A source that may have a file on this machine already."""

    def locate(self, path: str) -> Path | None:
        """Its place."""


_NUM_ATTEMPTS: Final = 10


class _WrongHashError(Exception):
    """All bytes came and they are not the file's."""


class _VanishedError(Exception):
    """Another process removed a file that was here."""


def download(
    entry: CatalogEntry, store: Store, listener: DownloadListener, sources: Sequence[Source] | None = None
) -> StoredModel:
    """A catalog entry's file in the store, from `sources` (None: the entry's). Raises what `fetch` raises."""
    chosen = entry.sources if sources is None else tuple(sources)
    file = WantedFile(entry.file_name, entry.num_bytes, Digest.sha256(entry.sha256), chosen)
    return fetch(WantedModel(entry.name, (file,), entry.licence), store, listener)


def fetch(
    model: WantedModel,
    store: Store,
    listener: DownloadListener,
    network: Network | None = None,
    trusted: Callable[[Sequence[Path]], bool] = lambda paths: True,
) -> StoredModel:
    """The model in the store, each file from this machine or from those of its sources that deliver it.

    Files that are already here and intact are left alone; those that another tool keeps are used where they are. What
    had arrived when a download was broken off is kept and continued; after a wrong hash or on a full disk nothing is
    kept.

    `trusted` says no of files that may not be taken for intact because their size and time are.

    Raises DownloadError if no source delivers, IntegrityError if one delivered something else, OfflineError where the
    network may not be used, ResourceError on a full disk or an unwritable store.
    """
    with store.fetching():
        present = _intact(model, store)
        if present is not None and trusted([file.location for file in present.files]):
            return present
        fetching = _Fetching(model, store, listener, network or Network.from_environment())
        for _ in range(_NUM_ATTEMPTS):
            try:
                found = [fetching.fetch(file) for file in model.files]
            except _VanishedError:
                continue
            sources = dict.fromkeys(source for _, source in found if source)
            stored = _referred(model, tuple(file for file, _ in found), ", ".join(sources), store)
            if stored is not None:
                return stored
        raise ResourceError(
            f"{model.name} is removed by another process as fast as it comes", hint="Stop that one, then pull again."
        )


def _intact(model: WantedModel, store: Store) -> StoredModel | None:
    stored = store.get(model.name)
    if stored is None or len(stored.files) != len(model.files):
        return None
    by_path = {file.path: file for file in model.files}
    for file in stored.files:
        wanted = by_path.get(file.path, model.files[0] if len(model.files) == 1 else None)
        if wanted is None or wanted.num_bytes != file.num_bytes or wanted.sha256 not in (None, file.sha256):
            return None
        if wanted.digest is not None and wanted.sha256 is None and not _is_right(wanted, file.location):
            return None
    try:
        return store.check(stored)
    except IntegrityError:
        return None


def _referred(model: WantedModel, files: tuple[StoredFile, ...], source: str, store: Store) -> StoredModel | None:
    """Give the files their name; None where another process has removed one of them meanwhile."""
    first = files[0]
    with store.changing():
        if not all(file.location.exists() for file in files):
            return None
        if len(files) == 1 and first.location.suffix == Path(first.path).suffix:
            path = first.location
        else:
            folder = store.link_folder(model.name, files)
            path = folder / first.path if first.path.endswith(".gguf") else folder
        return store.refer(StoredModel(model.name, path, files, source, model.licence, model.base_models))


@dataclass(frozen=True, slots=True)
class _Fetching:
    """One model on its way."""

    model: WantedModel
    store: Store
    listener: DownloadListener
    network: Network

    def fetch(self, file: WantedFile) -> tuple[StoredFile, str]:
        """One file, and where it came from. Other processes that want it wait."""
        with self.store.locked(
            file.key, lambda: self.listener.noticed(f"waiting: another process is fetching {self.model.name}")
        ):
            found = self._here(file) or self._elsewhere(file)
            return found or self._from_sources(file)

    def show(self, file: WantedFile, label: str) -> Callable[[int], None]:
        """Tells how much of the whole model is here, never going back but when a source starts again."""
        before = 0
        for other in self.model.files:
            if other is file:
                break
            before += other.num_bytes
        shown_bytes = 0

        def show(num_bytes: int) -> None:
            nonlocal shown_bytes
            shown_bytes = max(shown_bytes, num_bytes)  # bytes fetched and then joined are counted once
            self.listener.advanced(label, before + shown_bytes, self.model.num_bytes)

        return show

    def _here(self, file: WantedFile) -> tuple[StoredFile, str] | None:
        """A file that was taken in for another name, or by a run that was stopped before it was named."""
        path = None if file.sha256 is None else self.store.find(file.sha256)
        if path is None or file.sha256 is None or not _is_right(file, path, self.show(file, "this store")):
            return None
        return _noted(file, path, file.sha256, is_ours=True), "this store"

    def _elsewhere(self, file: WantedFile) -> tuple[StoredFile, str] | None:
        """A file of another tool on this machine, used in place."""
        if any(isinstance(source, LocalSource) for source in file.sources):
            return None  # a copy was named
        for path in (*candidates(file), *_located(file)):
            if _is_right(file, path, self.show(file, str(path))):
                return _noted(file, path, file.sha256, is_ours=self.store.has_fetched(path)), str(path)
            self.listener.noticed(f"{path} is called what {file.name} is called, and holds other bytes")
        return None

    def _from_sources(self, file: WantedFile) -> tuple[StoredFile, str]:
        path = self.store.partial_path(file.key)
        try:
            with PartialFile(path, self.show(file, "what has arrived")) as partial:
                if file.digest is None:
                    partial.truncate(0)  # nothing would tell if the file is another one by now
                self._check_space(file, partial)
                source = self._from_any(file, partial)
                sha256 = partial.sha256
                partial.finish()
        except (ResourceError, IntegrityError):
            path.unlink(missing_ok=True)
            raise
        except DownloadError:
            if path.stat().st_size == 0:
                path.unlink()
            raise
        kept = source.keep(file, path, self.network) if isinstance(source, KeepingSource) else None
        location = kept or self.store.adopt(file, path, sha256)
        return _noted(file, location, sha256, is_ours=True), source.label

    def _check_space(self, file: WantedFile, partial: PartialFile) -> None:
        following = self.model.files[self.model.files.index(file) + 1 :]
        needed_bytes = file.num_bytes - partial.num_bytes + sum(map(self._bytes_to_come, following))
        free_bytes = shutil.disk_usage(partial.path.parent).free
        if free_bytes < needed_bytes:
            raise ResourceError(
                f"{self.model.name} needs {needed_bytes / 1e6:,.0f} MB more, and {partial.path.parent} has "
                f"{free_bytes / 1e6:,.0f} MB free",
                hint="Free some space, or set ABACI_HOME to a folder on a larger disk, then pull again.",
            )

    def _bytes_to_come(self, file: WantedFile) -> int:
        """What a later file will take: nothing if this machine has one that may be it, going by its size alone."""
        is_here = file.sha256 is not None and self.store.find(file.sha256) is not None
        if is_here or any(True for _ in (*candidates(file), *_located(file))):
            return 0
        partial = self.store.partial_path(file.key)
        return file.num_bytes - (partial.stat().st_size if partial.exists() else 0)

    def _from_any(self, file: WantedFile, partial: PartialFile) -> Source:
        reasons: list[str] = []
        any_wrong, is_offline = False, bool(file.sources)
        for group in _groups(file):
            try:
                return self._from_group(file, partial, group)
            except OfflineError as error:
                reasons.append(str(error))
                continue
            except SourceUnavailableError as error:
                reasons.append(str(error) if len(group) > 1 else f"{_labels(group)}: {error}")
            except _WrongHashError as error:
                any_wrong = True
                reasons.append(f"{_labels(group)}: {error}")
            is_offline = False
            self.listener.noticed(reasons[-1])
        name = self.model.name if len(self.model.files) == 1 else f"{self.model.name} ({file.path})"
        message = f"{name} could not be fetched:\n" + "\n".join(f"  {reason}" for reason in reasons)
        by_hand = f"abaci pull {self.model.name} --from FILE"
        if any_wrong:
            raise IntegrityError(message, hint=f"Nothing was kept; try later, or give a good copy: {by_hand}")
        if is_offline:
            raise OfflineError(message, hint=f"Leave out what forbids the network, or give a good copy: {by_hand}")
        raise DownloadError(message, hint=f"Check the network and pull again, or give a good copy: {by_hand}")

    def _from_group(self, file: WantedFile, partial: PartialFile, group: tuple[Source, ...]) -> Source:
        """From all at once; where that gives wrong bytes, from each alone, so that one of them is found out."""
        if len(group) > 1:
            try:
                return self._right_bytes(file, partial, group)
            except _WrongHashError as error:
                self.listener.noticed(f"{error}; trying each source alone")
        reasons: list[Exception] = []
        for source in group:
            try:
                return self._right_bytes(file, partial, (source,))
            except (SourceUnavailableError, _WrongHashError) as error:
                reasons.append(error)
        wrong = [reason for reason in reasons if isinstance(reason, _WrongHashError)]
        raise (wrong or reasons)[-1]

    def _right_bytes(self, file: WantedFile, partial: PartialFile, group: tuple[Source, ...]) -> Source:
        """Run a group; if what it completed is wrong, it gets one more try from the first byte."""
        if any(isinstance(source, HttpSource) for source in group):
            self.network.check(_labels(group))
        if partial.num_bytes > file.num_bytes:
            partial.truncate(0)
        for resumed in (partial.num_bytes > 0, False):
            transfer = Transfer(
                file.path,
                file.num_bytes,
                partial,
                self.show(file, _labels(group)),
                self.network,
                self.listener.noticed,
            )
            transfer.show_bytes(partial.num_bytes)
            source = _run(group, transfer)
            if (partial.num_bytes, partial.sha256) == (file.num_bytes, file.sha256) or (
                file.sha256 is None and file.is_right(partial.path)
            ):
                return source
            found = partial.sha256
            partial.truncate(0)
            if not resumed:
                break
            self.listener.noticed(f"{_labels(group)}: what had arrived earlier was damaged; starting again")
        wanted = f"not {file.sha256}" if file.sha256 else "and is not the file that its repository names"
        raise _WrongHashError(f"its file has SHA-256 {found}, {wanted}")


def _noted(file: WantedFile, location: Path, sha256: str | None, *, is_ours: bool) -> StoredFile:
    """What is to be written down of a file that was found right; it may have been removed since."""
    try:
        return stored_file(file.path, location, sha256 or sha256_of(location), is_ours=is_ours)
    except FileNotFoundError as error:
        raise _VanishedError from error


def _run(group: tuple[Source, ...], transfer: Transfer) -> Source:
    """Fetch, and say who delivered: of several the one whose files are kept for other tools, else the first."""
    several = [source for source in group if isinstance(source, HttpSource)]
    if len(several) < len(group) or not several:
        group[0].fetch(transfer)
        return group[0]
    delivered = fetch_ranges(several, transfer) or (several[0],)
    return next((source for source in delivered if isinstance(source, KeepingSource)), delivered[0])


def _groups(file: WantedFile) -> Iterator[tuple[Source, ...]]:
    """Sources in their order; those that can share a file's bytes among them, together, with this network's peers."""
    is_named = any(isinstance(source, LocalSource) for source in file.sources)
    together: list[Source] = [] if is_named or file.sha256 is None else list(peer_sources(file.sha256))
    for source in file.sources:
        if isinstance(source, HttpSource):
            together.append(source)
            continue
        if together:
            yield tuple(together)
            together = []
        yield (source,)
    if together:
        yield tuple(together)


def _located(file: WantedFile) -> Iterator[Path]:
    """What its sources have on this machine already."""
    for source in file.sources:
        path = source.locate(file.path) if isinstance(source, LocatingSource) else None
        if path is not None:
            yield path


def _labels(group: tuple[Source, ...]) -> str:
    return ", ".join(dict.fromkeys(source.label for source in group))


def _is_right(file: WantedFile, path: Path, show_bytes: Callable[[int], None] | None = None) -> bool:
    try:
        return file.is_right(path, show_bytes)
    except OSError:
        return False
