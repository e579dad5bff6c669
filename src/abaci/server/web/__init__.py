"""The web page as the server hands it out: the built files under `static/`, read once, with closing headers.

Knows nothing of models, keys or the API; the pages speak to those as any other client does. `web/` at the root of the
repository holds the sources, `make web` builds them.
"""

import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

STATIC_DIRECTORY: Final = Path(__file__).parent / "static"

PAGES: Final[Mapping[str, str]] = MappingProxyType({"/": "index.html", "/dashboard": "dashboard.html"})
"""Address of each page, and its file."""

CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",
    )
)
"""Nothing is loaded from elsewhere, no inline script or style runs, text becomes markup only through the sanitiser."""

SECURITY_HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "content-security-policy": CONTENT_SECURITY_POLICY,
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=()",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
    }
)

_CONTENT_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        ".css": "text/css; charset=utf-8",
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".svg": "image/svg+xml",
    }
)
_REFUSED: Final = re.compile(r"q=0(\.0*)?")
_HASHED_NAMES: Final = "/assets/"
"""Files below it carry a hash of their content in their names, so a copy of them never goes stale."""


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the page with what HTTP says about it."""

    content: bytes
    gzipped: bytes
    content_type: str
    etag: str
    """Weak, since it stands for the compressed bytes too."""
    cache_control: str


def web_assets() -> Mapping[str, Asset]:
    """Every file of the web page by the path it is served under, pages under their addresses."""
    addresses = {file: address for address, file in PAGES.items()}
    assets = {}
    for file in sorted(STATIC_DIRECTORY.rglob("*")):
        if file.suffix in _CONTENT_TYPES:
            name = file.relative_to(STATIC_DIRECTORY).as_posix()
            address = addresses.get(name, f"/{name}")
            assets[address] = _read_asset(file, address)
    return MappingProxyType(assets)


def asset_response(asset: Asset, request_headers: Mapping[str, str]) -> Response:
    """The asset in answer to a request with these headers (names in lower case); 304 if the client has it already."""
    headers = dict(SECURITY_HEADERS)
    headers |= {"etag": asset.etag, "cache-control": asset.cache_control, "vary": "Accept-Encoding"}
    if asset.etag in request_headers.get("if-none-match", "").split(", "):
        return Response(status_code=304, headers=headers)
    headers["content-type"] = asset.content_type
    if _accepts_gzip(request_headers.get("accept-encoding", "")):
        headers["content-encoding"] = "gzip"
        return Response(asset.gzipped, headers=headers)
    return Response(asset.content, headers=headers)


def web_routes() -> list[Route]:
    """Routes of the page, public by nature: they hold no data. GET and HEAD.

    At `/` only a client that asks for HTML gets the page; the others get the sentence by which Ollama's clients know
    that somebody is there.
    """
    assets = web_assets()

    async def front_door(request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            response = asset_response(assets["/"], request.headers)
        else:
            response = PlainTextResponse("Ollama is running")
        response.headers.add_vary_header("Accept")
        return response

    async def asset(request: Request) -> Response:
        found = assets.get(request.url.path)
        if found is None:
            raise HTTPException(404, f"there is no file {request.url.path}")
        return asset_response(found, request.headers)

    paths = ("/dashboard", "/favicon.svg", f"{_HASHED_NAMES}{{path:path}}")
    routes = [Route("/", front_door, methods=["GET"], include_in_schema=False)]
    return routes + [Route(path, asset, methods=["GET"], include_in_schema=False) for path in paths]


def _read_asset(file: Path, address: str) -> Asset:
    content = file.read_bytes()
    return Asset(
        content=content,
        gzipped=gzip.compress(content, compresslevel=9, mtime=0),
        content_type=_CONTENT_TYPES[file.suffix],
        etag=f'W/"{hashlib.sha256(content).hexdigest()[:32]}"',
        cache_control="public, max-age=31536000, immutable" if address.startswith(_HASHED_NAMES) else "no-cache",
    )


def _accepts_gzip(accept_encoding: str) -> bool:
    """Whether the header lists gzip, and not to refuse it (`q=0`)."""
    for member in accept_encoding.split(","):
        name, _, weight = member.strip().partition(";")
        if name.strip() == "gzip":
            return _REFUSED.fullmatch(weight.strip()) is None
    return False
