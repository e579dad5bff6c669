"""A server on this machine that speaks the Hugging Face hub's protocol, and misbehaves when told to.

Two origins, as the hub has: the hub itself answers for repositories and small files, and redirects large ones to a
second port that stands for the content network. The real `huggingface_hub` client is pointed at it in the tests, which
is what shows that it speaks the protocol and not what this program expects of it.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
LARGE_FROM_BYTES = 1000
"""Files from this size on are stored as large ones."""
_PAGE = 3


def git_hash(content: bytes) -> str:
    """What git calls a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Asked:
    """One request."""

    origin: str
    """`hub` or `content`."""
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Faults:
    """What goes wrong. Lists are used up from the front, one per request to the content network."""

    statuses: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    cut_after: list[int] = field(default_factory=list)
    """Bytes after which an answer breaks off."""
    hub_statuses: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    wrong_byte_at: int | None = None
    ignores_ranges: bool = False
    seconds_per_piece: float = 0.0
    silent: threading.Event | None = None
    expired_links: int = 0
    """So many signed links are refused."""
    wrong_size: int | None = None


@dataclass
class HubServer:
    """What the server has, how it fails and what it was asked."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: dict[str, str] = field(default_factory=dict)
    """The token that opens a repository."""
    downloads: dict[str, int] = field(default_factory=dict)
    """As the hub counts them."""
    card: dict[str, Any] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    asked: list[Asked] = field(default_factory=list)
    routes: Callable[[Any], bool] | None = None
    """Answers in the hub's place where it says so."""
    etag: Callable[[], str] | None = None
    """What a file of the content network is called; None: its hash."""
    hub_url: str = ""
    content_url: str = ""
    piece_bytes: int = 1 << 14

    def asked_of(self, origin: str, method: str = "GET") -> list[Asked]:
        """The requests to one of the two origins."""
        return [one for one in self.asked if (one.origin, one.method) == (origin, method)]


@contextmanager
def running_hub() -> Iterator[HubServer]:
    """A server for the time of a test."""
    hub = HubServer()
    servers = []
    for origin, handler_type in (("hub", _HubHandler), ("content", _ContentHandler)):
        handler = type("Handler", (handler_type,), {"hub": hub, "origin": origin})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        servers.append((server, thread))
    hub.hub_url, hub.content_url = (f"http://127.0.0.1:{server.server_port}" for server, _ in servers)
    try:
        yield hub
    finally:
        if hub.faults.silent is not None:
            hub.faults.silent.set()
        for server, thread in servers:
            server.shutdown()
            thread.join()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    origin: str

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.asked.append(Asked(self.origin, self.command, self.path, headers))
        if self.hub.faults.silent is not None:
            self.hub.faults.silent.wait(20)
        try:
            self.answer()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def answer(self) -> None:
        raise NotImplementedError

    def send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def send_content(self, content: bytes, headers: dict[str, str]) -> None:
        """A file or a range of it, with what the faults make of it."""
        faults = self.hub.faults
        content_range = self.headers.get("Range", "")
        begin, end, status = 0, len(content), 200
        if content_range and not faults.ignores_ranges:
            first, _, last = content_range.removeprefix("bytes=").partition("-")
            begin, end, status = int(first), min(len(content), int(last) + 1 if last else len(content)), 206
            headers = headers | {"Content-Range": f"bytes {begin}-{end - 1}/{len(content)}"}
        body = content[begin:end]
        wrong = faults.wrong_byte_at
        if wrong is not None and begin <= wrong < end:
            body = body[: wrong - begin] + bytes([body[wrong - begin] ^ 1]) + body[wrong - begin + 1 :]
        cut = faults.cut_after.pop(0) if faults.cut_after and self.command == "GET" else None
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body)), "Accept-Ranges": "bytes"}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "GET":
            return
        body = body if cut is None else body[:cut]
        for start in range(0, len(body), self.hub.piece_bytes):
            time.sleep(faults.seconds_per_piece)
            self.wfile.write(body[start : start + self.hub.piece_bytes])
        if cut is not None:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Quiet."""


class _HubHandler(_Handler):
    def answer(self) -> None:
        if self.hub.routes is not None and self.hub.routes(self):
            return
        if self.hub.faults.hub_statuses:
            status, headers = self.hub.faults.hub_statuses.pop(0)
            self.send(status, headers=headers)
            return
        path = unquote(urlsplit(self.path).path).removeprefix("/")
        parts = path.removeprefix("api/models/").split("/")
        repository, rest = "/".join(parts[:2]), parts[2:]
        files = self.hub.repositories.get(repository)
        if files is None:
            self.refuse(404, "RepoNotFound", "Repository not found")
        elif not self.is_open(repository):
            return
        elif rest and rest[1:2] not in ([], ["main"], [COMMIT]):
            self.refuse(404, "RevisionNotFound", "Invalid rev id")
        elif path.startswith("api/models/"):
            self.answer_api(repository, files, rest)
        else:
            self.answer_file(files, "/".join(rest[2:]))

    def is_open(self, repository: str) -> bool:
        secret = self.hub.gated.get(repository)
        sent = self.headers.get("Authorization")
        if secret is None or sent == f"Bearer {secret}":
            return True
        self.refuse(403 if sent else 401, "GatedRepo", f"Access to model {repository} is restricted.")
        return False

    def refuse(self, status: int, code: str, message: str) -> None:
        self.send(status, message.encode(), {"X-Error-Code": code, "X-Error-Message": message})

    def answer_api(self, repository: str, files: dict[str, bytes], rest: list[str]) -> None:
        if rest[:1] == ["tree"]:
            self.answer_tree(repository, files)
            return
        siblings = [{"rfilename": path} for path in sorted(files)]
        self.send_json(
            {
                "_id": "1",
                "id": repository,
                "modelId": repository,
                "sha": COMMIT,
                "private": False,
                "gated": "manual" if repository in self.hub.gated else False,
                "tags": ["license:mit"],
                "downloads": self.hub.downloads.get(repository),
                "cardData": self.hub.card,
                "siblings": siblings,
            }
        )

    def answer_tree(self, repository: str, files: dict[str, bytes]) -> None:
        folders = sorted({path.rpartition("/")[0] for path in files if "/" in path})
        entries: list[dict[str, Any]] = [{"type": "directory", "oid": "f" * 40, "size": 0, "path": f} for f in folders]
        for path, content in sorted(files.items()):
            entry = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
            if len(content) >= LARGE_FROM_BYTES:
                oid = hashlib.sha256(content).hexdigest()
                entry |= {"lfs": {"oid": oid, "size": len(content), "pointerSize": 130}, "xetHash": "a" * 64}
            entries.append(entry)
        start = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        headers = {}
        if start + _PAGE < len(entries):
            following = (
                f"{self.hub.hub_url}/api/models/{repository}/tree/{COMMIT}?recursive=true&cursor={start + _PAGE}"
            )
            headers["Link"] = f'<{following}>; rel="next"'
        self.send_json(entries[start : start + _PAGE], headers)

    def send_json(self, value: Any, headers: dict[str, str] | None = None) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"} | (headers or {}))

    def answer_file(self, files: dict[str, bytes], path: str) -> None:
        content = files.get(path)
        if content is None:
            self.refuse(404, "EntryNotFound", "Entry not found")
            return
        headers = {"X-Repo-Commit": COMMIT}
        if len(content) < LARGE_FROM_BYTES:
            self.send_content(content, headers | {"ETag": f'"{git_hash(content)}"'})
            return
        oid = hashlib.sha256(content).hexdigest()
        headers |= {
            "Location": f"{self.hub.content_url}/{oid}?signature={len(self.hub.asked)}",
            "X-Linked-Etag": f'"{oid}"',
            "X-Linked-Size": str(len(content)),
            "ETag": f'"{git_hash(content)}"',
            "X-Xet-Hash": "a" * 64,
            "Link": f'<{self.hub.hub_url}/api/models/x/xet-read-token/{COMMIT}>; rel="xet-auth"',
        }
        self.send(302, b"Found. Redirecting", headers)


class _ContentHandler(_Handler):
    def answer(self) -> None:
        faults = self.hub.faults
        oid = urlsplit(self.path).path.strip("/")
        for files in self.hub.repositories.values():
            for content in files.values():
                if hashlib.sha256(content).hexdigest() == oid:
                    if faults.expired_links:
                        faults.expired_links -= 1
                        self.send(403, b"expired")
                    elif faults.statuses:
                        status, headers = faults.statuses.pop(0)
                        self.send(status, headers=headers)
                    else:
                        shown = content if faults.wrong_size is None else bytes(faults.wrong_size)
                        self.send_content(shown, {"ETag": self.hub.etag() if self.hub.etag else f'"{oid}"'})
                    return
        self.send(404)
