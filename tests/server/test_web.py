"""The built page as it is handed out: complete, small, closed, and built from the sources that are here."""

import gzip
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from abaci.server.web import PAGES, STATIC_DIRECTORY, web_assets, web_routes

WEB = Path(__file__).parents[2] / "web"
SOURCES = (
    *("package.json", "package-lock.json", "tsconfig.json", "vite.config.ts"),
    *("index.html", "dashboard.html", "src", "public"),
)
LARGEST_GZIPPED_BYTES = 200_000


@pytest.fixture(name="client")
def _client() -> TestClient:
    return TestClient(Starlette(routes=web_routes()), base_url="http://127.0.0.1")


HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def test_the_build_is_of_these_sources() -> None:
    manifest = json.loads((STATIC_DIRECTORY / "manifest.json").read_text())
    sources = [file for name in SOURCES for file in _files_below(WEB / name)]
    built = [file for file in _files_below(STATIC_DIRECTORY) if file.name != "manifest.json"]
    assert manifest == {"sources": _hash_of(sources, WEB), "built": _hash_of(built, STATIC_DIRECTORY)}, "run `make web`"


def test_the_lock_file_names_no_registry() -> None:
    packages = json.loads((WEB / "package-lock.json").read_text())["packages"]
    assert not [name for name, package in packages.items() if "resolved" in package]
    assert all("integrity" in package for name, package in packages.items() if name)


def test_every_built_file_is_served_and_nothing_else_is_needed() -> None:
    assets = web_assets()
    assert len(assets) == len([file for file in _files_below(STATIC_DIRECTORY) if file.name != "manifest.json"])
    for address in PAGES:
        page = assets[address].content.decode()
        links = re.findall(r'(?:src|href)="([^"]*)"', page)
        assert links, address
        assert all("/" + link.removeprefix("./") in assets for link in links), links
        assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\son[a-z]+=", page), "the policy forbids inline code"


def test_the_page_is_small() -> None:
    assert sum(len(asset.gzipped) for asset in web_assets().values()) < LARGEST_GZIPPED_BYTES


@pytest.mark.parametrize("path", ["/", "/dashboard"])
def test_pages_are_closed_and_looked_up_anew(client: TestClient, path: str) -> None:
    answer = client.get(path, headers=HTML)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    policy = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert not [value for value in policy.values() if "unsafe" in value or "http" in value or "*" in value]


def test_hashed_files_never_go_stale(client: TestClient) -> None:
    scripts = [path for path in web_assets() if path.endswith(".js")]
    assert scripts
    for path in scripts:
        answer = client.get(path)
        assert re.fullmatch(r"/assets/[a-z]+-[\w-]{8}\.js", path)
        assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"


def test_a_client_that_has_a_file_is_told_so(client: TestClient) -> None:
    first = client.get("/dashboard")
    tags = f'"another", {first.headers["etag"]}'
    second = client.get("/dashboard", headers={"if-none-match": tags})
    assert (second.status_code, second.content) == (304, b"")
    assert second.headers["etag"] == first.headers["etag"]
    assert client.get("/dashboard", headers={"if-none-match": '"another"'}).status_code == 200


@pytest.mark.parametrize(
    ("accepted", "is_gzipped"),
    [
        ("gzip, deflate, br", True),
        ("br;q=1.0, gzip;q=0.5", True),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("", False),
    ],
)
def test_files_are_compressed_for_those_who_can_read_it(client: TestClient, accepted: str, is_gzipped: bool) -> None:
    with client.stream("GET", "/dashboard", headers={"accept-encoding": accepted}) as answer:
        raw = b"".join(answer.iter_raw())
    assert ("content-encoding" in answer.headers) is is_gzipped
    assert answer.headers["vary"] == "Accept-Encoding"
    assert int(answer.headers["content-length"]) == len(raw)
    assert (gzip.decompress(raw) if is_gzipped else raw) == web_assets()["/dashboard"].content


def test_the_front_door_knows_browsers_from_clients_of_ollama(client: TestClient) -> None:
    plain = client.get("/", headers={"accept": "*/*"})
    assert (plain.text, plain.headers["vary"]) == ("Ollama is running", "Accept")
    head = client.head("/", headers={"accept": "*/*"})
    assert (head.status_code, head.content) == (200, b"")
    page = client.get("/", headers=HTML)
    assert "<!doctype html>" in page.text
    assert page.headers["vary"] == "Accept-Encoding, Accept"


@pytest.mark.parametrize(
    "path", ["/assets/../__init__.py", "/assets/%2e%2e/__init__.py", "/assets/none.js", "/assets/"]
)
def test_only_known_files_are_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_nothing_is_written_through_the_pages(client: TestClient) -> None:
    assert client.post("/dashboard").status_code == 405


def _files_below(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


def _hash_of(files: Iterable[Path], base: Path) -> str:
    """As vite.config.ts has it: one hash over "hash  path" lines in the order of their paths."""
    names = sorted(file.relative_to(base).as_posix() for file in files)
    lines = (f"{hashlib.sha256((base / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
