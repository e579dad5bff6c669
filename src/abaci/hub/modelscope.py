"""ModelScope: its files as a source, and what it lists of a repository. Every file comes with its SHA-256.

`MODELSCOPE_DOMAIN` (as in its own client) names another host, `MODELSCOPE_ENDPOINT` a whole address;
`MODELSCOPE_API_TOKEN` is sent to that host only. (https://modelscope.cn/docs; the routes are those of its client.)
"""

import os
import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from abaci.errors import UsageError
from abaci.hub.http_source import checked_http_url, read_json
from abaci.hub.huggingface_cache import checked_repository, checked_revision
from abaci.hub.network import Credential, HttpStatusError, Network, Request
from abaci.hub.ranged import fetch_ranges
from abaci.hub.reach import SourceUnavailableError
from abaci.hub.repositories import ListedFile, Listing, is_sound_path
from abaci.hub.sources import Transfer
from abaci.hub.wanted import Digest

USUAL_REVISION: Final = "master"
_DEFAULT_DOMAIN: Final = "www.modelscope.cn"
_TOKEN: Final = re.compile(r"[\x21-\x3a\x3c-\x7e]{1,2000}")


def endpoint() -> str:
    """The address of the hub. Raises UsageError where the environment's is none."""
    domain = os.environ.get("MODELSCOPE_DOMAIN") or _DEFAULT_DOMAIN
    return checked_http_url(os.environ.get("MODELSCOPE_ENDPOINT") or f"https://{domain}").rstrip("/")


@dataclass(frozen=True, slots=True)
class ModelScopeSource:
    """The files of one repository at one revision."""

    repository: str
    revision: str = USUAL_REVISION

    def __post_init__(self) -> None:
        checked_repository(self.repository)
        checked_revision(self.revision)

    @property
    def label(self) -> str:
        return "ModelScope"

    def request(self, file_name: str) -> Request:
        query = urlencode({"Revision": self.revision, "FilePath": file_name})
        return _request(f"/api/v1/models/{self.repository}/repo?{query}", self.repository)

    def fetch(self, transfer: Transfer) -> None:
        fetch_ranges((self,), transfer)


def list_repository(repository: str, revision: str, network: Network) -> Listing:
    """What the hub has of a repository. Raises SourceUnavailableError, OfflineError, UsageError for a bad name."""
    source = ModelScopeSource(repository, revision)
    query = urlencode({"Revision": revision, "Recursive": "true"})
    document, _ = read_json(_request(f"/api/v1/models/{repository}/repo/files?{query}", repository), network)
    match document:
        case {"Data": {"Files": list(entries)}}:
            files = tuple(file for file in map(_file, entries) if file is not None)
        case _:
            raise SourceUnavailableError("ModelScope's answer is not a list of files")
    return Listing(repository, revision, files, source)


def _file(entry: Any) -> ListedFile | None:
    match entry:
        case {"Type": "blob", "Path": str(path), "Size": int(size), "Sha256": str(sha256)}:
            if size < 0 or not is_sound_path(path):
                return None
            try:
                return ListedFile(path, size, Digest.sha256(sha256.lower()))
            except UsageError as error:
                raise SourceUnavailableError(f"ModelScope gives no sound hash of {path}") from error
    return None


def _request(path: str, repository: str) -> Request:
    token = os.environ.get("MODELSCOPE_API_TOKEN", "").strip()
    headers = {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"}
    credentials = (Credential(endpoint(), headers),) if _TOKEN.fullmatch(token) else ()
    return Request(endpoint() + path, credentials, explain=lambda error: _explain(error, repository))


def _explain(error: HttpStatusError, repository: str) -> str | None:
    if error.status == 404:
        return f"ModelScope has no repository {repository}, or no such file in it"
    if error.status in (401, 403):
        return f"{repository} is not open to everyone; set MODELSCOPE_API_TOKEN to a token that may read it"
    return None
