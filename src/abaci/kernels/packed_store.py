"""Packed weights kept on disk, so that the next load maps them instead of packing again.

    ABACI_CACHE_DIR, else XDG_CACHE_HOME/abaci, else ~/.cache/abaci
    └── packed/<key>    what a weight arena holds, then a seal of one page

Mapped, the weights are pages of the page cache: nothing is copied or zeroed, processes share them, and the system takes
them back when memory is short. A file is only a copy: any may be removed at any time, and one that is not exactly what
is looked for is not read. Nothing in it is parsed: the seal that it must bear is computed and compared. The weights
themselves are not hashed again, which would take about as long as packing them: a disk is trusted to give back what it
was given.

A file becomes visible by name when all of it is on the disk; one that is never finished never had a name. Whatever else
lies in the folder is somebody's own: it neither counts nor goes. Must not know what is in an arena.
"""

import hashlib
import os
import re
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from abaci.errors import UsageError

SIZE_VARIABLE: Final = "ABACI_PACKED_CACHE_GB"
"""Environment variable that limits all kept files together; 0 keeps none."""

_NAME: Final = re.compile("[0-9a-f]{40}")
_MAGIC_OF_ALL: Final = b"abacipk"
"""That seals of all versions begin with."""
_MAGIC: Final = _MAGIC_OF_ALL + b"1"
_SEAL_BYTES: Final = 4096
_DEFAULT_LIMIT_BYTES: Final = 32 << 30
_SHARE_OF_DISK: Final = 0.25
"""Of what is free, that the kept files may take where no limit is given."""
_SPARE_BYTES: Final = 1 << 30
"""That stay free on the disk."""
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SMALLEST_BYTES: Final = 16 << 20
"""Smaller arenas are packed sooner than a file is opened."""


@dataclass(frozen=True, slots=True)
class PackedKey:
    """Which arena: a description that differs for all that differ in content, and its size."""

    description: str
    num_bytes: int

    @property
    def name(self) -> str:
        """Of its file."""
        return self._digest().hex()[:40]  # as _NAME has it

    def seal(self) -> bytes:
        """The last page of its file."""
        return struct.pack("<8sQ32s", _MAGIC, self.num_bytes, self._digest()).ljust(_SEAL_BYTES, b"\0")

    def _digest(self) -> bytes:
        return hashlib.sha256(self.description.encode()).digest()


@dataclass(frozen=True, slots=True)
class PackedStore:
    """A folder of packed weights, shared by all processes of a user. No method fails a load: what cannot be, is not."""

    folder: Path
    limit_bytes: int | None = None
    """Of all files together; None: a share of the disk."""
    smallest_bytes: int = _SMALLEST_BYTES

    @contextmanager
    def opened(self, key: PackedKey) -> Iterator[int | None]:
        """A descriptor of the file whose first `key.num_bytes` are the arena, or None."""
        descriptor = self._open(key)
        try:
            yield descriptor
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def begin(self, key: PackedKey) -> "PackedDraft | None":
        """A file to write an arena to, after older ones have made room; None where it cannot be kept."""
        needed = key.num_bytes + _SEAL_BYTES
        if needed < self.smallest_bytes or self.limit_bytes == 0:
            return None
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._make_room(needed):
                return None
            descriptor = os.open(self.folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        return PackedDraft(self.folder / key.name, key, descriptor)

    def _open(self, key: PackedKey) -> int | None:
        path = self.folder / key.name
        try:
            descriptor = os.open(path, _OPEN_FLAGS)
        except OSError:
            return None
        try:
            if _is_whole(descriptor, key):
                os.utime(descriptor)
                return descriptor
            path.unlink()
        except OSError:
            pass
        os.close(descriptor)
        return None

    def _make_room(self, needed_bytes: int) -> bool:
        """Remove what was not used for longest until the limit and the disk have room."""
        files = sorted(self._files())
        kept_bytes = sum(size for _, size, _ in files)
        free_bytes = _free_bytes(self.folder)
        limit_bytes = self.limit_bytes
        if limit_bytes is None:
            limit_bytes = min(_DEFAULT_LIMIT_BYTES, int((free_bytes + kept_bytes) * _SHARE_OF_DISK))
        if needed_bytes > limit_bytes or needed_bytes + _SPARE_BYTES > free_bytes + kept_bytes:
            return False
        for _, size, path in files:
            if kept_bytes + needed_bytes <= limit_bytes and needed_bytes + _SPARE_BYTES <= free_bytes:
                break
            path.unlink(missing_ok=True)
            kept_bytes -= size
            free_bytes += size
        return True

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """When last used, bytes, path; of those that a store wrote."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False) and _is_sealed(entry.path):
                        status = entry.stat(follow_symlinks=False)
                        yield status.st_mtime_ns, status.st_size, Path(entry.path)


@dataclass(frozen=True, slots=True)
class KeptWeights:
    """Where the packed weights of one source are kept."""

    store: PackedStore
    source: str
    """Tells the source's content from any other's."""


class PackedDraft:
    """A file without a name, written front to back, that `publish` gives its name. Closes when nobody holds it."""

    def __init__(self, path: Path, key: PackedKey, descriptor: int) -> None:
        self._path = path
        self._key = key
        self.descriptor = descriptor

    def seal(self) -> bool:
        """Write what makes the file complete; the arena must be in it. False where that fails."""
        try:
            return os.pwrite(self.descriptor, self._key.seal(), self._key.num_bytes) == _SEAL_BYTES
        except OSError:
            return False

    def publish(self) -> None:
        """In the background: wait until the file is on the disk, then name it. If that fails there is no file."""
        with suppress(RuntimeError):  # the system starts no more threads
            threading.Thread(target=self._publish, name="abaci-packed", daemon=True).start()

    def __del__(self) -> None:
        os.close(self.descriptor)

    def _publish(self) -> None:
        with suppress(OSError):
            os.fsync(self.descriptor)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:  # given a folder's descriptor, os.link follows the link of /proc to the file
                os.link(f"/proc/self/fd/{self.descriptor}", self._path.name, dst_dir_fd=folder)
            finally:
                os.close(folder)


def packed_store() -> PackedStore | None:
    """The user's store as the environment has it; None where nothing is kept. Raises UsageError for a bad limit."""
    limit_bytes = _limit_bytes(os.environ.get(SIZE_VARIABLE))
    if limit_bytes == 0:
        return None
    try:
        return PackedStore(cache_folder() / "packed", limit_bytes)
    except RuntimeError:  # no home
        return None


def cache_folder() -> Path:
    """Where copies live that may vanish at any time, as the environment has it. Raises RuntimeError without a home."""
    if folder := os.environ.get("ABACI_CACHE_DIR"):
        return Path(folder).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "abaci"


def _limit_bytes(text: str | None) -> int | None:
    if not text:
        return None
    try:
        gigabytes = float(text)
        if 0 <= gigabytes < 1e9:
            return int(gigabytes * 1e9)
    except ValueError:
        pass
    raise UsageError(f"{SIZE_VARIABLE} is {text!r}", hint="Give a number of gigabytes, or 0 to keep nothing.")


def _is_sealed(path: str) -> bool:
    """Whether a file ends as a store of any version ends it."""
    descriptor = os.open(path, _OPEN_FLAGS)
    try:
        seal_begin = os.fstat(descriptor).st_size - _SEAL_BYTES
        return seal_begin >= 0 and os.pread(descriptor, len(_MAGIC_OF_ALL), seal_begin) == _MAGIC_OF_ALL
    finally:
        os.close(descriptor)


def _is_whole(descriptor: int, key: PackedKey) -> bool:
    """Whether the open file is ours alone and exactly the one described."""
    status = os.fstat(descriptor)
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        and status.st_size == key.num_bytes + _SEAL_BYTES
        and os.pread(descriptor, _SEAL_BYTES, key.num_bytes) == key.seal()
    )


def _free_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
