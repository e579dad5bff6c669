"""A download on its way: a file that grows at its end, its SHA-256 known at every moment.

Knows nothing of where bytes come from.
"""

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from abaci.errors import ResourceError

_READ_CHUNK_BYTES = 1 << 20
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def sha256_of(path: Path, show_bytes: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file's bytes, in lower-case hex; `show_bytes` is told how many have been read."""
    return hash_of(path, hashlib.sha256(), show_bytes)


def hash_of(path: Path, digest: "hashlib._Hash", show_bytes: Callable[[int], None] | None = None) -> str:
    """What a hash comes to when it has been fed a file's bytes, in lower-case hex."""
    num_bytes = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_READ_CHUNK_BYTES):
            digest.update(chunk)
            num_bytes += len(chunk)
            if show_bytes is not None:
                show_bytes(num_bytes)
    return digest.hexdigest()


def disk_full(path: Path) -> ResourceError:
    """The error for a disk that cannot take the rest of a file."""
    return ResourceError(
        f"the disk that holds {path.parent} is full; what had arrived was removed",
        hint="Free some space, or set ABACI_HOME to a folder on a larger disk, then pull again.",
    )


class PartialFile:
    """Opens or continues `path`; bytes already there are hashed again, so that a resumed file is checked as a whole.

    `show_bytes` is told how many of them have been.
    """

    def __init__(self, path: Path, show_bytes: Callable[[int], None] | None = None) -> None:
        self.path = path
        self._show_bytes = show_bytes
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "a+b", 0)
        self._rehash()

    @property
    def num_bytes(self) -> int:
        """Bytes in the file."""
        return self._num_bytes

    @property
    def sha256(self) -> str:
        """Of all bytes so far, in lower-case hex."""
        return self._digest.copy().hexdigest()

    def write(self, chunk: bytes) -> int:
        """Append. Raises ResourceError if the disk is full."""
        left = memoryview(chunk)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            if error.errno in _DISK_FULL:
                raise disk_full(self.path) from error
            raise
        self._digest.update(chunk)
        self._num_bytes += len(chunk)
        return len(chunk)

    def truncate(self, size: int) -> None:
        """Keep the first `size` bytes."""
        if size != self._num_bytes:
            self._file.truncate(size)
            self._rehash()

    def finish(self) -> None:
        """Bring the bytes to the disk and close. Raises ResourceError if the disk is full."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            if error.errno in _DISK_FULL:
                raise disk_full(self.path) from error
            raise
        self.close()

    def close(self) -> None:
        """Close, keeping the bytes."""
        self._file.close()

    def __enter__(self) -> "PartialFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _rehash(self) -> None:
        self._file.seek(0)
        self._digest = hashlib.sha256()
        while chunk := self._file.read(_READ_CHUNK_BYTES):
            self._digest.update(chunk)
            if self._show_bytes is not None:
                self._show_bytes(self._file.tell())
        self._num_bytes = self._file.tell()
