"""Fetch a catalog entry's file into the store: sources in order, one process at a time, only right bytes kept."""

import shutil
from collections.abc import Sequence
from typing import Protocol

from abaci.errors import DownloadError, IntegrityError, ResourceError
from abaci.hub.catalog import CatalogEntry
from abaci.hub.partial import PartialFile
from abaci.hub.sources import Source, SourceUnavailableError, Transfer
from abaci.hub.store import Store, StoredModel


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


class _WrongHashError(Exception):
    """All bytes came and they are not the file's."""


def download(
    entry: CatalogEntry, store: Store, listener: DownloadListener, sources: Sequence[Source] | None = None
) -> StoredModel:
    """The entry's file in the store, from the first of `sources` (None: the entry's) that delivers it.

    A file that is already here and intact is left alone. What had arrived when a download was broken off is kept and
    continued; after a wrong hash or on a full disk nothing is kept.

    Raises DownloadError if no source delivers, IntegrityError if one delivered something else, ResourceError on a full
    disk or an unwritable store.
    """
    with store.locked(entry.sha256, lambda: listener.noticed(f"waiting: another process is fetching {entry.name}")):
        present = _intact(entry, store)
        if present is not None:
            return present
        path = store.partial_path(entry.sha256)
        try:
            with PartialFile(path) as partial:
                _check_space(entry, partial)
                source = _fetch_from_any(entry, partial, entry.sources if sources is None else sources, listener)
                partial.finish()
        except (ResourceError, IntegrityError):
            path.unlink(missing_ok=True)
            raise
        except DownloadError:
            if path.stat().st_size == 0:
                path.unlink()
            raise
        return store.adopt(entry.name, path, sha256=entry.sha256, source=source.label, licence=entry.licence)


def _intact(entry: CatalogEntry, store: Store) -> StoredModel | None:
    model = store.get(entry.name)
    if model is None or model.sha256 != entry.sha256:
        return None
    try:
        return store.check(model)
    except IntegrityError:
        return None


def _check_space(entry: CatalogEntry, partial: PartialFile) -> None:
    needed_bytes = entry.num_bytes - partial.num_bytes
    free_bytes = shutil.disk_usage(partial.path.parent).free
    if free_bytes < needed_bytes:
        raise ResourceError(
            f"{entry.name} needs {needed_bytes / 1e6:,.0f} MB more, and {partial.path.parent} has "
            f"{free_bytes / 1e6:,.0f} MB free",
            hint="free some space, or set ABACI_HOME to a folder on a larger disk, then pull again",
        )


def _fetch_from_any(
    entry: CatalogEntry, partial: PartialFile, sources: Sequence[Source], listener: DownloadListener
) -> Source:
    reasons: list[str] = []
    any_wrong = False
    for source in sources:
        try:
            _fetch_right_bytes(entry, partial, source, listener)
            return source
        except SourceUnavailableError as error:
            reasons.append(f"{source.label}: {error}")
        except _WrongHashError as error:
            any_wrong = True
            reasons.append(f"{source.label}: {error}")
        listener.noticed(reasons[-1])
    message = f"{entry.name} could not be fetched:\n" + "\n".join(f"  {reason}" for reason in reasons)
    if any_wrong:
        raise IntegrityError(message, hint="nothing was kept; try later, or give a good copy: abaci pull --from FILE")
    raise DownloadError(message, hint="check the network and pull again, or give a copy: abaci pull --from FILE")


def _fetch_right_bytes(entry: CatalogEntry, partial: PartialFile, source: Source, listener: DownloadListener) -> None:
    """Run one source; if what it completed is wrong, it gets one more try from the first byte."""

    shown_bytes = 0

    def show(num_bytes: int) -> None:
        nonlocal shown_bytes
        shown_bytes = max(shown_bytes, num_bytes)  # bytes fetched and then joined are counted once
        listener.advanced(source.label, shown_bytes, entry.num_bytes)

    transfer = Transfer(entry.file_name, entry.num_bytes, partial, show)
    if partial.num_bytes > entry.num_bytes:
        partial.truncate(0)
    for resumed in (partial.num_bytes > 0, False):
        show(partial.num_bytes)
        source.fetch(transfer)
        if partial.num_bytes == entry.num_bytes and partial.sha256 == entry.sha256:
            return
        found = f"its file has SHA-256 {partial.sha256}, not {entry.sha256}"
        partial.truncate(0)
        shown_bytes = 0
        if not resumed:
            raise _WrongHashError(found)
        listener.noticed(f"{source.label}: what had arrived earlier was damaged; starting again")
