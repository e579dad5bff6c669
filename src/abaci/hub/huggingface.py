"""The Hugging Face hub: its files as a source, and what it lists of a repository.

Spoken here directly, over `network`, because the library's own downloader neither shares a file's bytes among sources
nor stops at an offline switch of ours; its variables (`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`, `HF_HUB_CACHE`) mean what
they mean there, and files are kept in its cache. The hub's own servers redirect to signed URLs of a content network,
from which ranges are read, files of Xet storage included (https://huggingface.co/docs/hub/api).
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urljoin, urlsplit

from abaci.errors import OfflineError, UsageError
from abaci.hub import huggingface_cache
from abaci.hub.http_source import checked_http_url, read_json
from abaci.hub.network import Credential, HttpStatusError, Network, Request, one_line, origin_of
from abaci.hub.ranged import fetch_ranges
from abaci.hub.reach import SourceUnavailableError
from abaci.hub.repositories import ListedFile, Listing, is_sound_path
from abaci.hub.sources import Transfer
from abaci.hub.wanted import Algorithm, Digest, WantedFile

_DEFAULT_ENDPOINT: Final = "https://huggingface.co"
_MAX_PAGES: Final = 200
_MAX_FILES: Final = 100_000
_NEXT: Final = re.compile(r'<([^<>]{1,2000})>\s*;\s*rel="?next"?')
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,2000}")


def endpoint() -> str:
    """`HF_ENDPOINT`, else the hub's address. Raises UsageError where it is no URL."""
    return checked_http_url(os.environ.get("HF_ENDPOINT") or _DEFAULT_ENDPOINT).rstrip("/")


def token() -> str | None:
    """`HF_TOKEN`, else the token that the library's login left; None where there is none."""
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in ("1", "ON", "YES", "TRUE"):
        return None
    text = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    if not text:
        path = os.environ.get("HF_TOKEN_PATH")
        try:
            text = (Path(path) if path else huggingface_cache.hub_home() / "token").read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None
    text = text.strip()
    return text if _TOKEN.fullmatch(text) else None


@dataclass(frozen=True, slots=True)
class HuggingFaceSource:
    """The files of one repository at one revision."""

    repository: str
    revision: str = "main"
    commit: str | None = None
    """What the revision was when it was looked up; None: not looked up yet."""

    def __post_init__(self) -> None:
        huggingface_cache.checked_repository(self.repository)
        huggingface_cache.checked_revision(self.revision)

    @property
    def label(self) -> str:
        return "Hugging Face hub"

    def request(self, file_name: str) -> Request:
        revision = quote(self.commit or self.revision, safe="")
        return _request(f"/{self.repository}/resolve/{revision}/{quote(file_name)}", self.repository)

    def fetch(self, transfer: Transfer) -> None:
        fetch_ranges((self,), transfer)

    def locate(self, path: str) -> Path | None:
        """The file, if a tool on this machine has fetched this revision of it."""
        return huggingface_cache.cached_file(self.repository, self.commit or self.revision, path)

    def keep(self, file: WantedFile, finished: Path, network: Network) -> Path | None:
        """Move a checked file into the cache that other tools share."""
        if file.digest is None:
            return None
        try:
            blob = huggingface_cache.keep(
                finished,
                repository=self.repository,
                revision=self.revision,
                commit=self.commit or commit_of(self.repository, self.revision, network),
                path=file.path,
                etag=file.digest.value,
            )
            return blob.resolve()
        except (OSError, SourceUnavailableError, OfflineError):
            return None  # the store takes it instead: what is fetched is not lost


def credentials() -> tuple[Credential, ...]:
    """The user's token, for the hub's origin."""
    secret = token()
    return () if secret is None else (Credential(endpoint(), {"Authorization": f"Bearer {secret}"}),)


def commit_of(repository: str, revision: str, network: Network) -> str:
    """The commit that a revision is now. Raises SourceUnavailableError, OfflineError."""
    if huggingface_cache.is_commit(revision):
        return revision
    return _commit(_info(repository, revision, network), repository)


def list_repository(repository: str, revision: str, network: Network) -> Listing:
    """What the hub has of a repository. Raises SourceUnavailableError, OfflineError, UsageError for a bad name."""
    HuggingFaceSource(repository, revision)  # checks the names
    info = _info(repository, revision, network)
    commit = _commit(info, repository)
    data = info.get("cardData")
    card: Mapping[str, Any] = data if isinstance(data, dict) else {}
    return Listing(
        repository,
        commit,
        _files(repository, commit, network),
        HuggingFaceSource(repository, revision, commit),
        licence=_first_text(card.get("license")),
        licence_name=_first_text(card.get("license_name")),
        base_models=_texts(card.get("base_model")),
        tags=_texts(info.get("tags")),
    )


def _info(repository: str, revision: str, network: Network) -> Mapping[str, Any]:
    path = f"/api/models/{repository}/revision/{quote(revision, safe='')}"
    info, _ = read_json(_request(path, repository), network)
    if not isinstance(info, dict):
        raise SourceUnavailableError("the hub's answer is not a repository")
    return info


def _commit(info: Mapping[str, Any], repository: str) -> str:
    commit = info.get("sha")
    if not isinstance(commit, str) or not huggingface_cache.is_commit(commit):
        raise SourceUnavailableError(f"the hub names no commit of {repository}")
    return commit


def _files(repository: str, commit: str, network: Network) -> tuple[ListedFile, ...]:
    files: list[ListedFile] = []
    request = _request(f"/api/models/{repository}/tree/{commit}?recursive=true", repository)
    for _ in range(_MAX_PAGES):
        page, headers = read_json(request, network)
        if not isinstance(page, list):
            raise SourceUnavailableError("the hub's answer is not a list of files")
        files += (file for file in map(_file, page) if file is not None)
        if len(files) > _MAX_FILES:
            break
        following = _NEXT.search(headers.get("link", ""))
        if following is None:
            return tuple(files)
        url = urljoin(request.url, following[1])
        if origin_of(urlsplit(url)) != origin_of(urlsplit(request.url)):
            raise SourceUnavailableError("the hub's list of files goes on at another host")
        request = Request(url, request.credentials, explain=request.explain)
    raise SourceUnavailableError(f"{repository} has more than {_MAX_FILES:,} files")


def _file(entry: Any) -> ListedFile | None:
    """A file of the list; None for folders, and for names that are not kept."""
    match entry:
        case {"type": "file", "path": str(path), "size": int(size), "lfs": {"oid": str(oid)}}:
            algorithm = Algorithm.SHA256
        case {"type": "file", "path": str(path), "size": int(size), "oid": str(oid)}:
            algorithm = Algorithm.GIT_BLOB
        case _:
            return None
    if size < 0 or not is_sound_path(path):
        return None
    try:
        return ListedFile(path, size, Digest(algorithm, oid.removeprefix("sha256:")))
    except UsageError as error:
        raise SourceUnavailableError(f"the hub gives no sound hash of {path}") from error


def _request(path: str, repository: str) -> Request:
    return Request(endpoint() + path, credentials(), explain=lambda error: _explain(error, repository))


def _explain(error: HttpStatusError, repository: str) -> str | None:
    page, code = f"{endpoint()}/{repository}", error.headers.get("x-error-code", "")
    has_token = token() is not None
    if code == "GatedRepo" and error.status in (401, 403):
        then = "this token's account has not been let in yet" if has_token else "set HF_TOKEN to your token"
        return f"{repository} is gated: ask for access at {page}; {then}"
    if code == "RepoNotFound" or (error.status == 401 and not code):
        return (
            f"there is no repository {repository}, or it is private and {'this' if has_token else 'no'} token opens it"
        )
    if code == "RevisionNotFound":
        return f"{repository} has no such revision"
    if code == "EntryNotFound":
        return f"{repository} has no such file"
    return None


def _first_text(value: Any) -> str:
    return next(iter(_texts(value)), "")


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(one_line(text) for text in values[:1000] if isinstance(text, str))
