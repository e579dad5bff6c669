"""A download on its way: a file that grows at its end, its SHA-256 known at every moment.

Knows nothing of where bytes come from. Has the few methods of a binary file that downloaders write to.
"""

import errno
import hashlib
import os
from pathlib import Path
from types import TracebackType

from abaci.errors import ResourceError

_READ_CHUNK_BYTES = 1 << 20
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def disk_full(path: Path) -> ResourceError:
    """The error for a disk that cannot take the rest of a file."""
    return ResourceError(
        f"the disk that holds {path.parent} is full; what had arrived was removed",
        hint="free some space, or set ABACI_HOME to a folder on a larger disk, then pull again",
    )


class PartialFile:
    """Opens or continues `path`; bytes already there are hashed again, so that a resumed file is checked as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a+b", buffering=0)
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

    def tell(self) -> int:
        """The end: where the next byte goes."""
        return self._num_bytes

    def seek(self, offset: int) -> int:
        """Cut the file there: what a downloader rewinds, it is about to write again."""
        if offset != self._num_bytes:
            self.truncate(offset)
        return offset

    def truncate(self, size: int | None = None) -> int:
        """Keep the first `size` bytes (None: all)."""
        if size is not None and size != self._num_bytes:
            self._file.truncate(size)
            self._rehash()
        return self._num_bytes

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
        self._num_bytes = self._file.tell()
