"""Files behind plain URLs, and small documents read from them."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from abaci.errors import UsageError
from abaci.hub.network import Answer, Credential, HttpStatusError, Network, Request, host_of
from abaci.hub.pace import MOST_PATIENCE_SECONDS, Patience
from abaci.hub.ranged import fetch_ranges
from abaci.hub.reach import SourceUnavailableError
from abaci.hub.sources import Transfer

Result = TypeVar("Result")

_MAX_DOCUMENT_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class UrlSource:
    """A file at a URL, or in a folder of URLs where `url` ends with a slash."""

    url: str
    credentials: tuple[Credential, ...] = ()
    private_allowed: bool = True
    """Whether the host may be inside this network: where the user named the URL."""

    @property
    def label(self) -> str:
        return host_of(self.url)

    def request(self, file_name: str) -> Request:
        url = self.url + quote(file_name) if self.url.endswith("/") else self.url
        return Request(url, credentials=self.credentials, private_allowed=self.private_allowed)

    def fetch(self, transfer: Transfer) -> None:
        fetch_ranges((self,), transfer)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What a server says of a file before it is fetched."""

    num_bytes: int
    etag: str | None
    sha256: str | None
    """Where the server is a hub that names it."""


def look_at(request: Request, network: Network) -> RemoteFile:
    """Size and hash of a file, from its first byte. Raises SourceUnavailableError, OfflineError."""

    def read(answer: Answer) -> RemoteFile:
        text = answer.headers.get("content-range", "").rpartition("/")[2]
        size = text if answer.status == 206 else answer.headers.get("content-length", "")
        if not (size.isascii() and size.isdigit() and 0 < len(size) < 19):
            raise SourceUnavailableError(f"{host_of(request.url)} does not say how large the file is")
        etag = (answer.header("x-linked-etag") or answer.headers.get("etag", "")).removeprefix("W/").strip('"')
        linked = answer.header("x-linked-etag") is not None and len(etag) == 64
        return RemoteFile(int(size), etag or None, etag if linked else None)

    first_byte = Request(request.url, request.credentials, request.headers, 0, 1, request.private_allowed, request.sign)
    return patiently(lambda: _opened(first_byte, network, read))


def read_json(request: Request, network: Network) -> tuple[Any, Mapping[str, str]]:
    """A document and its headers. Raises SourceUnavailableError where it is none, OfflineError."""

    def read(answer: Answer) -> tuple[Any, Mapping[str, str]]:
        try:
            return json.loads(answer.read_all(_MAX_DOCUMENT_BYTES)), answer.headers
        except (ValueError, RecursionError) as error:
            raise SourceUnavailableError(f"{host_of(request.url)} answered with something that is no JSON") from error

    return patiently(lambda: _opened(request, network, read))


def patiently(call: Callable[[], Result], patience: Patience | None = None) -> Result:
    """The call's result, asked for again while what speaks against it may pass."""
    patience = patience or Patience()
    for num_failures in range(1, patience.num_attempts + 1):
        try:
            return call()
        except HttpStatusError as error:
            asked = error.retry_after_seconds
            if not error.may_pass or num_failures == patience.num_attempts or (asked or 0) > MOST_PATIENCE_SECONDS:
                raise
            time.sleep(patience.wait_seconds(num_failures, asked))
    raise AssertionError("a patience of no attempts")


def _opened(request: Request, network: Network, read: Callable[[Answer], Result]) -> Result:
    with network.open(request) as answer:
        return read(answer)


def checked_http_url(text: str) -> str:
    """A URL of http or https. Raises UsageError."""
    try:
        url = urlsplit(text)
        sound = url.scheme in ("http", "https") and bool(url.hostname) and url.username is None and text.isprintable()
    except ValueError:
        sound = False
    if not sound:
        raise UsageError(f"{text[:200]!r} is not a URL", hint="For example: https://host/folder/model.gguf")
    return text
