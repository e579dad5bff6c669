"""The cache that `huggingface_hub` and many other tools share, read and written as they do.

    HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub
    ├── models--org--repo/blobs/<etag>                     bytes; named by SHA-256, small files by their git hash
    ├── models--org--repo/snapshots/<commit>/config.json   links to blobs
    ├── models--org--repo/refs/main                        a commit
    └── .locks/models--org--repo/<etag>.lock               held while a blob comes

(https://huggingface.co/docs/hub/local-cache.) What is found here is used in place. What Abaci fetches from a hub is
kept here, so that other tools find it. Knows no network.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from abaci.errors import UsageError
from abaci.hub.wanted import Digest, checked_path

_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")


def cache_folder() -> Path:
    """The cache as the environment has it."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if folder := os.environ.get(name):
            return _expanded(folder)
    return hub_home() / "hub"


def hub_home() -> Path:
    """Where the library keeps its token and its cache."""
    if home := os.environ.get("HF_HOME"):
        return _expanded(home)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "huggingface"


def checked_repository(name: str) -> str:
    """The name of a repository, `org/repo`. Raises UsageError."""
    if not _REPOSITORY.fullmatch(name) or ".." in name or "--" in name:
        raise UsageError(f"{name[:200]!r} is not the name of a repository", hint="Give ORGANISATION/REPOSITORY.")
    return name


def checked_revision(revision: str) -> str:
    """A branch, tag or commit. Raises UsageError."""
    if not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision or revision.endswith("/"):
        raise UsageError(f"{revision[:200]!r} is not the name of a revision", hint="Give a branch, a tag or a commit.")
    return revision


def is_commit(revision: str) -> bool:
    """Whether a revision names one state for ever."""
    return _COMMIT.fullmatch(revision) is not None


def cached_commit(repository: str, revision: str) -> str | None:
    """The commit that a revision was when it was last looked up."""
    if is_commit(revision):
        return revision
    try:
        commit = (_folder(repository) / "refs" / checked_revision(revision)).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return commit if is_commit(commit) else None


def cached_file(repository: str, revision: str, path: str) -> Path | None:
    """The blob of a file that is in the cache."""
    commit = cached_commit(repository, revision)
    if commit is None:
        return None
    pointer = _folder(repository) / "snapshots" / commit / checked_path(path)
    return pointer.resolve() if pointer.is_file() else None


def blobs_of_hash(sha256: str) -> Iterator[Path]:
    """Blobs of that name, of any repository."""
    name = Digest.sha256(sha256).value
    for blob in cache_folder().glob(f"models--*/blobs/{name}"):
        if blob.is_file():
            yield blob.resolve()


def keep(finished: Path, *, repository: str, revision: str, commit: str, path: str, etag: str) -> Path:
    """Move a checked file into the cache, as a download of the library would have left it. Returns its blob.

    Raises OSError.
    """
    if not is_commit(commit) or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag):
        raise UsageError(
            f"{repository} has no sound commit or hash", hint="Look at the repository's page, or choose another."
        )
    folder = _folder(repository)
    blob = folder / "blobs" / etag
    pointer = folder / "snapshots" / commit / checked_path(path)
    for parent in (blob.parent, pointer.parent):
        parent.mkdir(parents=True, exist_ok=True)
    with _locked(repository, etag):
        _move(finished, blob)
        if not is_commit(revision):
            _write_reference(folder / "refs" / checked_revision(revision), commit)
        unfinished = pointer.with_name(f".{pointer.name}.{os.getpid()}")
        unfinished.unlink(missing_ok=True)
        unfinished.symlink_to(os.path.relpath(blob, pointer.parent))
        unfinished.replace(pointer)
    return blob


def delete_blob(blob: Path) -> int:
    """Delete a blob and the links to it. Returns the bytes freed: none for a path that is no blob of this cache."""
    folder = blob.parent.parent
    is_blob = blob.parent.name == "blobs" and folder.name.startswith("models--")
    if not is_blob or folder.parent != cache_folder().resolve() or not blob.is_file():
        return 0
    repository = folder.name.removeprefix("models--").replace("--", "/")
    with _locked(repository, blob.name):
        for pointer in list((folder / "snapshots").rglob("*")):
            if pointer.is_symlink() and pointer.resolve() == blob:
                pointer.unlink(missing_ok=True)
        freed_bytes = blob.stat().st_size
        blob.unlink()
    _remove_empty(folder)
    return freed_bytes


def _remove_empty(folder: Path) -> None:
    """Take away the folders of a repository that hold nothing more; with the last blob also what its branches were."""
    if not any((folder / "blobs").iterdir()):
        for reference in (folder / "refs").rglob("*"):
            if reference.is_file():
                reference.unlink(missing_ok=True)
    for parent, _, _ in os.walk(folder, topdown=False):
        try:
            Path(parent).rmdir()
        except OSError:  # not empty, or filled again by another process
            continue


def _folder(repository: str) -> Path:
    return cache_folder() / f"models--{checked_repository(repository).replace('/', '--')}"


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser().absolute()


@contextmanager
def _locked(repository: str, etag: str) -> Iterator[None]:
    """The library's own lock on a blob, which is `flock` on this file."""
    lock = cache_folder() / ".locks" / _folder(repository).name / f"{etag}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _move(finished: Path, blob: Path) -> None:
    """Into place in one step, over a copy where the two are on different file systems."""
    try:
        finished.replace(blob)
    except OSError:
        copy = blob.with_name(f"{blob.name}.{os.getpid()}.incomplete")
        try:
            shutil.copyfile(finished, copy)
            with copy.open("rb") as file:
                os.fsync(file.fileno())
            copy.replace(blob)
        finally:
            copy.unlink(missing_ok=True)
        finished.unlink()


def _write_reference(path: Path, commit: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(commit, encoding="ascii")
    unfinished.replace(path)
