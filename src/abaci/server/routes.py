"""Every route of the server and who may call it. A route that is not in this table does not exist.

The guard reads the table before any handler runs; a test holds it against the application's router.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Rule(StrEnum):
    """Who may call a route."""

    PUBLIC = "public"
    """Anyone who can connect: the pages, and what load balancers ask."""
    KEY = "key"
    """Holders of a key; everyone where no key exists, which is allowed on loopback only."""
    ADMIN = "admin"
    """Whoever runs the server: holders of the key it was started with; everyone where no key exists."""


@dataclass(frozen=True, slots=True)
class Route:
    """A path in Starlette's notation, its methods and its rule."""

    path: str
    methods: tuple[str, ...]
    rule: Rule


ROUTES: tuple[Route, ...] = (
    # Pages, and what tells whether the server lives.
    Route("/", ("GET", "HEAD"), Rule.PUBLIC),
    Route("/dashboard", ("GET", "HEAD"), Rule.PUBLIC),
    Route("/favicon.svg", ("GET", "HEAD"), Rule.PUBLIC),
    Route("/assets/{path:path}", ("GET", "HEAD"), Rule.PUBLIC),
    Route("/health", ("GET", "HEAD"), Rule.PUBLIC),
    Route("/ping", ("GET", "POST"), Rule.PUBLIC),
    Route("/version", ("GET",), Rule.PUBLIC),
    Route("/openapi.json", ("GET",), Rule.KEY),
    Route("/metrics", ("GET",), Rule.KEY),
    Route("/usage", ("GET",), Rule.KEY),
    Route("/usage/top", ("GET",), Rule.KEY),
    # OpenAI.
    Route("/v1/chat/completions", ("POST",), Rule.KEY),
    Route("/v1/completions", ("POST",), Rule.KEY),
    Route("/v1/embeddings", ("POST",), Rule.KEY),
    Route("/v1/rerank", ("POST",), Rule.KEY),
    Route("/v2/rerank", ("POST",), Rule.KEY),
    Route("/rerank", ("POST",), Rule.KEY),
    Route("/v1/models", ("GET",), Rule.KEY),
    Route("/v1/models/{name:path}", ("GET",), Rule.KEY),
    Route("/v1/files", ("GET", "POST"), Rule.KEY),
    Route("/v1/files/{file_id}", ("GET", "DELETE"), Rule.KEY),
    Route("/v1/files/{file_id}/content", ("GET",), Rule.KEY),
    Route("/v1/batches", ("GET", "POST"), Rule.KEY),
    Route("/v1/batches/{batch_id}", ("GET",), Rule.KEY),
    Route("/v1/batches/{batch_id}/cancel", ("POST",), Rule.KEY),
    Route("/models/load", ("POST",), Rule.ADMIN),
    Route("/models/unload", ("POST",), Rule.ADMIN),
    Route("/v1/responses", ("POST",), Rule.KEY),
    Route("/v1/responses/{response_id}", ("GET", "DELETE"), Rule.KEY),
    Route("/v1/responses/{response_id}/input_items", ("GET",), Rule.KEY),
    # Anthropic.
    Route("/v1/messages", ("POST",), Rule.KEY),
    Route("/v1/messages/count_tokens", ("POST",), Rule.KEY),
    # Ollama.
    Route("/api/version", ("GET",), Rule.KEY),
    Route("/api/tags", ("GET",), Rule.KEY),
    Route("/api/ps", ("GET",), Rule.KEY),
    Route("/api/show", ("POST",), Rule.KEY),
    Route("/api/chat", ("POST",), Rule.KEY),
    Route("/api/generate", ("POST",), Rule.KEY),
    Route("/api/embed", ("POST",), Rule.KEY),
    Route("/api/embeddings", ("POST",), Rule.KEY),
    Route("/api/pull", ("POST",), Rule.ADMIN),
    Route("/api/delete", ("DELETE",), Rule.ADMIN),
    Route("/api/copy", ("POST",), Rule.ADMIN),
    Route("/api/create", ("POST",), Rule.ADMIN),
    Route("/api/push", ("POST",), Rule.ADMIN),
    # Files of models, for other servers.
    Route("/abaci/blobs/{digest}", ("GET", "HEAD"), Rule.KEY),
    # What prompts become.
    Route("/tokenize", ("POST",), Rule.KEY),
    Route("/detokenize", ("POST",), Rule.KEY),
    Route("/apply-template", ("POST",), Rule.KEY),
)


class RouteTable:
    """Finds the route of a path."""

    def __init__(self, routes: Iterable[Route] = ROUTES) -> None:
        self._routes = [(re.compile(_pattern(route.path)), route) for route in routes]

    def find(self, path: str) -> list[Route]:
        """The routes of that path, whatever their methods."""
        return [route for pattern, route in self._routes if pattern.fullmatch(path)]


def _pattern(path: str) -> str:
    """Starlette's `{name}` is one segment, `{name:path}` any number of them."""
    parts = re.split(r"(\{[a-z_]+(?::path)?\})", path)
    return "".join(
        (".+" if part.endswith(":path}") else "[^/]+") if part.startswith("{") else re.escape(part) for part in parts
    )
