"""Changes of a file system that a store is made of: each is whole on the disk, or has not happened."""

import errno
import os
from pathlib import Path


def remove_tree(folder: Path) -> None:
    """Delete a folder of links; what they point to stays."""
    for parent, folders, names in os.walk(folder, topdown=False):
        for name in (*names, *folders):
            path = Path(parent) / name
            if path.is_symlink() or not path.is_dir():
                path.unlink(missing_ok=True)
            else:
                path.rmdir()
    if folder.is_dir():
        folder.rmdir()


def make_folders(folder: Path, base: Path) -> None:
    """All folders from `base` down, each for its owner only: `mkdir` would give its mode to the last one alone."""
    for part in folder.relative_to(base).parts:
        base /= part
        base.mkdir(mode=0o700, exist_ok=True)


def delete_file(path: Path) -> int:
    """Delete a file, if it is there. Returns the bytes freed."""
    try:
        freed_bytes = path.stat().st_size
        path.unlink()
    except FileNotFoundError:
        return 0
    return freed_bytes


def write_whole(path: Path, text: str) -> None:
    """A new file with that text, for its owner only, on the disk when this returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk, where the file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
