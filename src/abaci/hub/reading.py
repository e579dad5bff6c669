"""A range of a file's bytes from wherever it is, without fetching the rest: how headers are looked at."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Final

from abaci.errors import DownloadError
from abaci.hub.download import LocatingSource
from abaci.hub.http_source import patiently
from abaci.hub.network import Answer, Network, Request, host_of
from abaci.hub.reach import SourceUnavailableError
from abaci.hub.sources import HttpSource, LocalSource, Source
from abaci.hub.wanted import WantedFile

_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


def read_range(file: WantedFile, begin: int, end: int, network: Network) -> bytes:
    """Exactly the bytes from `begin` to before `end`, from the first source that gives them.

    They are not hashed: who looks at a header must take it for anyone's. Raises DownloadError, OfflineError.
    """
    reasons: list[str] = []
    for source in file.sources:
        here = _path(source, file)
        if here is not None:
            try:
                return _read_here(here, begin, end, file.num_bytes)
            except OSError as error:
                reasons.append(f"{source.label}: {error.strerror}")
        if not isinstance(source, HttpSource):
            reasons.append(f"{source.label}: does not give parts of a file")
            continue
        request = replace(source.request(file.path), begin=begin, end=end)
        try:
            return patiently(lambda request=request: _read(request, file.num_bytes, network))  # type: ignore[misc]
        except SourceUnavailableError as error:
            reasons.append(f"{source.label}: {error}")
    raise DownloadError(
        f"the beginning of {file.path} could not be read:\n" + "\n".join(f"  {reason}" for reason in reasons),
        hint="Check the network.",
    )


def _path(source: Source, file: WantedFile) -> Path | None:
    """Where the source has the file on this machine, if it does."""
    if isinstance(source, LocalSource):
        return source.path / file.path if source.path.is_dir() else source.path
    return source.locate(file.path) if isinstance(source, LocatingSource) else None


def _read_here(path: Path, begin: int, end: int, file_bytes: int) -> bytes:
    with path.open("rb") as local:
        if os.fstat(local.fileno()).st_size != file_bytes:
            raise OSError(0, f"{path} has another size")
        local.seek(begin)
        return local.read(end - begin)


def _read(request: Request, file_bytes: int, network: Network) -> bytes:
    assert request.begin is not None and request.end is not None
    num_bytes = request.end - request.begin
    with network.open(request) as answer:
        _check(answer, request, file_bytes)
        body = answer.read_all(num_bytes)
    if len(body) != num_bytes:
        raise SourceUnavailableError(f"of {num_bytes:,} bytes asked for, {len(body):,} came")
    return body


def _check(answer: Answer, request: Request, file_bytes: int) -> None:
    """Whether the answer is the range, of a file of that size."""
    found = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
    if answer.status != 206 or found is None:
        raise SourceUnavailableError(f"{host_of(request.url)} does not give parts of a file")
    first, last, total = map(int, found.groups())
    if (first, last + 1, total) != (request.begin, request.end, file_bytes):
        raise SourceUnavailableError(
            f"{host_of(request.url)} gave bytes {first} to {last} of {total}, not {request.begin} to "
            f"{(request.end or 0) - 1} of {file_bytes}"
        )
