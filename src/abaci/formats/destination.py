"""Where a file will be written: looked at before any work is done that would be lost. Knows no format."""

import os
import shutil
from pathlib import Path

from abaci.errors import ResourceError, UsageError


def check_new_file(path: Path, *, replace: bool) -> None:
    """Raises UsageError for a folder, for a place in a folder that is not there, and for a file that is not to be
    replaced."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint="Give the name of a file.")
    if os.path.lexists(path) and not replace:
        raise UsageError(f"{path} exists", hint="Choose another name, or say --force.")
    check_folder_of(path)


def check_folder_of(path: Path) -> None:
    """Raises UsageError where the folder that `path` will be in is not there."""
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path.parent}: no such folder", hint="Make the folder first, or write somewhere else.")


def check_room(path: Path, num_bytes: int) -> None:
    """Raises ResourceError, with the numbers, where the disk that `path` will be on has less room than that."""
    free_bytes = shutil.disk_usage(path.absolute().parent).free
    if free_bytes < num_bytes:
        raise ResourceError(
            f"{path.parent} has {free_bytes / 1e6:,.0f} MB free, {path.name} takes {num_bytes / 1e6:,.0f} MB",
            hint="Make room, or write somewhere else.",
        )
