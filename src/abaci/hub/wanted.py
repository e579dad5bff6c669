"""What is to be fetched: files with their sizes and hashes, and where they may come from.

A path of a file inside its model is checked when it is made, whoever named it: a catalog, a hub or a manifest. Nothing
that leaves the model's folder can be written down here, so nothing of the kind reaches a disk.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from abaci.errors import UsageError
from abaci.hub.partial import hash_of

if TYPE_CHECKING:
    from abaci.hub.sources import Source

_MAX_PATH_BYTES: Final = 512
_MAX_PART_BYTES: Final = 200
_MAX_PARTS: Final = 8
_MAX_NAME_CHARACTERS: Final = 2000
_FORBIDDEN: Final = re.compile(r'[\\:*?"<>|]')
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SHA1: Final = re.compile(r"[0-9a-f]{40}")


class Algorithm(StrEnum):
    """How a file's name on a hub follows from its bytes."""

    SHA256 = "sha256"
    GIT_BLOB = "git-sha1"
    """SHA-1 over `blob`, a space, the size, a zero byte and the bytes: how git names files."""


@dataclass(frozen=True, slots=True)
class Digest:
    """What a file's bytes must hash to, in lower-case hex."""

    algorithm: Algorithm
    value: str

    def __post_init__(self) -> None:
        pattern = _SHA256 if self.algorithm is Algorithm.SHA256 else _SHA1
        if not pattern.fullmatch(self.value):
            raise UsageError(
                f"{self.value[:80]!r} is not a {self.algorithm} hash",
                hint="Give it in hexadecimal digits, in lower case.",
            )

    @classmethod
    def sha256(cls, value: str) -> "Digest":
        """A SHA-256."""
        return cls(Algorithm.SHA256, value)


def git_blob_hasher(num_bytes: int) -> "hashlib._Hash":
    """A hash to feed a file's bytes to, for the name git gives it."""
    return hashlib.sha1(b"blob %d\0" % num_bytes, usedforsecurity=False)


@dataclass(frozen=True, slots=True)
class WantedFile:
    """One file of a model. `path` is relative to the model's folder, with `/` between its parts."""

    path: str
    num_bytes: int
    digest: Digest | None
    """None where nobody says what the bytes must be: whatever comes whole is taken, and its hash noted."""
    sources: tuple["Source", ...] = ()

    def __post_init__(self) -> None:
        checked_path(self.path)
        if self.num_bytes < 0:
            raise UsageError(f"{self.path} cannot have {self.num_bytes} bytes", hint="Give its size, 0 or more.")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def sha256(self) -> str | None:
        """Where that is what is known of its bytes."""
        known = self.digest is not None and self.digest.algorithm is Algorithm.SHA256
        return self.digest.value if known and self.digest is not None else None

    @property
    def key(self) -> str:
        """What a download of it is kept under: its hash, or one of its sources and size."""
        if self.digest is not None:
            return self.digest.value
        return hashlib.sha256(f"{self.sources!r} {self.path} {self.num_bytes}".encode()).hexdigest()

    def is_right(self, path: Path, show_bytes: Callable[[int], None] | None = None) -> bool:
        """Whether a file has the bytes wanted; without a known hash, as many. Raises OSError."""
        if path.stat().st_size != self.num_bytes:
            return False
        if self.digest is None:
            return True
        is_sha256 = self.digest.algorithm is Algorithm.SHA256
        digest = hashlib.sha256() if is_sha256 else git_blob_hasher(self.num_bytes)
        return hash_of(path, digest, show_bytes) == self.digest.value


_LOOK: Final = "Look at the repository's page, or choose another."


@dataclass(frozen=True, slots=True)
class WantedModel:
    """A model: one file, the shards of one, or a folder. `name` is what it is kept under."""

    name: str
    files: tuple[WantedFile, ...]
    licence: str = ""
    base_models: tuple[str, ...] = ()
    """What it was made from, as its repository says: their licences hold too."""

    def __post_init__(self) -> None:
        checked_name(self.name)
        if not self.files:
            raise UsageError(f"{self.name} has no files", hint=_LOOK)
        paths = [file.path for file in self.files]
        if len({path.casefold() for path in paths}) != len(paths):
            raise UsageError(f"{self.name} names a file twice", hint=_LOOK)
        if any(other.startswith(f"{path}/") for path in paths for other in paths):
            raise UsageError(f"{self.name} has a file where it needs a folder", hint=_LOOK)

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(file.num_bytes for file in self.files)


def checked_path(path: str) -> str:
    """The path, if it stays where it is put on every system. Raises UsageError."""
    parts = path.split("/")
    sound = (
        len(parts) <= _MAX_PARTS
        and path.isprintable()
        and not _FORBIDDEN.search(path)
        and len(path.encode()) <= _MAX_PATH_BYTES
        and all(part and not part.startswith(".") and not part.endswith((".", " ")) for part in parts)
        and all(len(part.encode()) <= _MAX_PART_BYTES for part in parts)
    )
    if not sound:
        raise UsageError(
            f"{path[:200]!r} cannot be the name of a model's file", hint="Rename it, or choose another file."
        )
    return path


def checked_name(name: str) -> str:
    """The name, if a model can be kept under it. Raises UsageError."""
    if not name or len(name) > _MAX_NAME_CHARACTERS or not name.isprintable() or name != name.strip():
        raise UsageError(
            f"{name[:200]!r} cannot be the name of a model", hint="Give one of printable characters, and not too many."
        )
    return name
