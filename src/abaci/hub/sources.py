"""Where a model's bytes can come from. A source appends to a partial file; whether it counts is decided elsewhere.

A source never judges a hash and never names the finished file, so none of them can make a bad download look good.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

from abaci.hub.network import Network, Request
from abaci.hub.partial import PartialFile
from abaci.hub.reach import SourceUnavailableError

_COPY_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Transfer:
    """What a source is asked for: `total_bytes` of `file_name` into `partial`, from where that stands."""

    file_name: str
    total_bytes: int
    partial: PartialFile
    show_bytes: Callable[[int], None]
    """Called with the number of bytes here so far, those not yet in `partial` included."""
    network: Network
    notice: Callable[[str], None] = lambda message: None
    """Called with what is worth a line for people."""


class Source(Protocol):
    """One place that may have a file."""

    @property
    def label(self) -> str:
        """Short name for messages, e.g. `Hugging Face hub`."""

    def fetch(self, transfer: Transfer) -> None:
        """Append what is missing. Raises SourceUnavailableError, or ResourceError where the disk is full.

        What was appended before an error stays, for this or the next source to continue from.
        """


@runtime_checkable
class HttpSource(Source, Protocol):
    """A source that is a URL: several of them can deliver parts of one file at once."""

    def request(self, file_name: str) -> Request:
        """What to ask for, the range left open."""


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A file on this machine, or a folder that holds it under the catalog's file name."""

    path: Path

    @property
    def label(self) -> str:
        return str(self.path)

    def fetch(self, transfer: Transfer) -> None:
        path = self.path / transfer.file_name if self.path.is_dir() else self.path
        append_file(path, transfer)


def append_file(path: Path, transfer: Transfer) -> None:
    """Append what is missing from a local file of exactly the wanted size."""
    try:
        with path.open("rb") as file:
            found_bytes = path.stat().st_size
            if found_bytes != transfer.total_bytes:
                raise SourceUnavailableError(f"{path} has {found_bytes:,} bytes, not {transfer.total_bytes:,}")
            file.seek(transfer.partial.num_bytes)
            append_stream(file, transfer, transfer.total_bytes - transfer.partial.num_bytes)
    except OSError as error:
        raise SourceUnavailableError(f"{path}: {error.strerror or error}") from error


def append_stream(stream: IO[bytes], transfer: Transfer, num_bytes: int) -> None:
    """Append exactly `num_bytes` from a stream, never reading past them."""
    left = num_bytes
    while left:
        chunk = stream.read(min(_COPY_CHUNK_BYTES, left))
        if not chunk:
            raise SourceUnavailableError(f"ended {left:,} bytes early")
        transfer.partial.write(chunk)
        transfer.show_bytes(transfer.partial.num_bytes)
        left -= len(chunk)
