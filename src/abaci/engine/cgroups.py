"""Where the control groups of this process keep their limits, in both versions of Linux's control groups."""

from collections.abc import Iterator
from pathlib import Path


def group_folders(controller: str, root: Path) -> Iterator[Path]:
    """Folders that may hold limits of `controller` for this process, innermost first. `root` is / outside of tests.

    A limit applies at every level, so callers take the smallest. Folders need not exist: inside a container the
    path may be the host's.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _levels(mounts, path)
            yield from _levels(mounts / "unified", path)
        elif controller in controllers.split(","):
            yield from _levels(mounts / controller, path)


def read_words(path: Path) -> list[str]:
    """The words of a small file; none if it is not there or not readable."""
    try:
        return path.read_text().split()
    except OSError:
        return []


def _levels(mount: Path, path: str) -> Iterator[Path]:
    folder = mount / path.lstrip("/")
    for level in (folder, *folder.parents):
        yield level
        if level == mount:
            return
