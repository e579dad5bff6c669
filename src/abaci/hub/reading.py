"""A range of a file's bytes from wherever it is, without fetching the rest: how headers are looked at."""

import re
from dataclasses import replace
from typing import Final

from abaci.errors import DownloadError
from abaci.hub.http_source import patiently
from abaci.hub.network import Answer, Network, Request, host_of
from abaci.hub.reach import SourceUnavailableError
from abaci.hub.sources import HttpSource
from abaci.hub.wanted import WantedFile

_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


def read_range(file: WantedFile, begin: int, end: int, network: Network) -> bytes:
    """Exactly the bytes from `begin` to before `end`, from the first source that gives them.

    They are not hashed: who looks at a header must take it for anyone's. Raises DownloadError, OfflineError.
    """
    reasons: list[str] = []
    for source in file.sources:
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
        hint="check the network",
    )


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
