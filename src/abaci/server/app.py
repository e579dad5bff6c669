"""The application: routes bound to handlers, and the guard around them. Nothing is decided here."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from abaci.server import rerank, residency, sharing, tokens
from abaci.server.anthropic import messages
from abaci.server.anthropic.bodies import MessagesBody, PromptBody
from abaci.server.guard import Access, ErrorCarrier, Guard
from abaci.server.inside import InsideCalls
from abaci.server.ollama import answering, embedding, library
from abaci.server.ollama import bodies as ollama_bodies
from abaci.server.openai import batches, chat, completions, embeddings, files, models, responses
from abaci.server.openai.batches import BatchBody
from abaci.server.openai.bodies import (
    ApplyTemplateBody,
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    EmbeddingBody,
    TokenizeBody,
)
from abaci.server.services import Services
from abaci.server.top_route import top
from abaci.server.usage_route import usage
from abaci.server.web import web_routes
from abaci.server.wire import REQUEST_ID_HEADER, WARNING_HEADER, WireBody
from abaci.version import __version__

_LOG = logging.getLogger("abaci.server")

Handler = Callable[[Request, Services], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A handler and where it is reached. It reads its own body, strictly; `body` is for the OpenAPI document."""

    path: str
    methods: tuple[str, ...]
    handler: Handler
    body: type[WireBody] | None = None


def create_app(services: Services) -> ASGIApp:
    """The whole server as an ASGI application; `services` are used from its event loop only."""
    api: ASGIApp = create_api(services)
    if services.config.allowed_origins:
        api = CORSMiddleware(
            api,
            allow_origins=services.config.allowed_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=[REQUEST_ID_HEADER, WARNING_HEADER, "retry-after"],
        )
    return Guard(api, services.config, services.accounts.authenticator, _log_access)


def create_api(services: Services) -> FastAPI:
    """What is behind the guard."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        services.accounts.start()
        services.accounts.batch_service.start(InsideCalls(api), services.config.batch_concurrency)
        try:
            yield
        finally:
            await services.close()

    api = FastAPI(
        title="Abaci", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    for endpoint in ENDPOINTS:
        _add(api, services, endpoint)
    api.router.routes.extend(web_routes())
    api.add_middleware(ErrorCarrier)
    return api


async def health(request: Request, services: Services) -> Response:
    """Whether requests are taken: 503 while the server drains."""
    if services.is_draining:
        return JSONResponse({"status": "draining"}, status_code=503)
    return JSONResponse({"status": "ok"})


async def version(request: Request, services: Services) -> Response:
    """The version of this server."""
    return JSONResponse({"version": __version__})


async def metrics(request: Request, services: Services) -> Response:
    """Prometheus' text format."""
    text = services.metrics.exposition(with_vllm_names=services.config.vllm_metrics)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("/health", ("GET", "HEAD"), health),
    Endpoint("/ping", ("GET", "POST"), health),
    Endpoint("/version", ("GET",), version),
    Endpoint("/metrics", ("GET",), metrics),
    Endpoint("/usage", ("GET",), usage),
    Endpoint("/usage/top", ("GET",), top),
    Endpoint("/v1/chat/completions", ("POST",), chat.chat_completions, ChatBody),
    Endpoint("/v1/completions", ("POST",), completions.completions, CompletionBody),
    Endpoint("/v1/embeddings", ("POST",), embeddings.embeddings, EmbeddingBody),
    Endpoint("/v1/rerank", ("POST",), rerank.rerank, rerank.RerankBody),
    Endpoint("/v2/rerank", ("POST",), rerank.rerank, rerank.RerankBody),
    Endpoint("/rerank", ("POST",), rerank.rerank, rerank.RerankBody),
    Endpoint("/v1/models", ("GET",), models.list_models),
    Endpoint("/v1/models/{name:path}", ("GET",), models.retrieve_model),
    Endpoint("/v1/files", ("POST",), files.upload_file),
    Endpoint("/v1/files", ("GET",), files.list_files),
    Endpoint("/v1/files/{file_id}", ("GET",), files.retrieve_file),
    Endpoint("/v1/files/{file_id}", ("DELETE",), files.delete_file),
    Endpoint("/v1/files/{file_id}/content", ("GET",), files.file_content),
    Endpoint("/v1/batches", ("POST",), batches.create_batch, BatchBody),
    Endpoint("/v1/batches", ("GET",), batches.list_batches),
    Endpoint("/v1/batches/{batch_id}", ("GET",), batches.retrieve_batch),
    Endpoint("/v1/batches/{batch_id}/cancel", ("POST",), batches.cancel_batch),
    Endpoint("/models/load", ("POST",), residency.load_model, residency.ResidencyBody),
    Endpoint("/models/unload", ("POST",), residency.unload_model, residency.ResidencyBody),
    Endpoint("/v1/responses", ("POST",), responses.create_response, responses.ResponsesBody),
    Endpoint("/v1/responses/{response_id}", ("GET",), responses.retrieve_response),
    Endpoint("/v1/responses/{response_id}", ("DELETE",), responses.delete_response),
    Endpoint("/v1/responses/{response_id}/input_items", ("GET",), responses.list_input_items),
    Endpoint("/v1/messages", ("POST",), messages.messages, MessagesBody),
    Endpoint("/v1/messages/count_tokens", ("POST",), messages.count_tokens, PromptBody),
    Endpoint("/api/version", ("GET",), library.version),
    Endpoint("/api/tags", ("GET",), library.tags),
    Endpoint("/api/ps", ("GET",), library.loaded),
    Endpoint("/api/show", ("POST",), library.show, ollama_bodies.ShowBody),
    Endpoint("/api/chat", ("POST",), answering.chat, ollama_bodies.ChatBody),
    Endpoint("/api/generate", ("POST",), answering.generate, ollama_bodies.GenerateBody),
    Endpoint("/api/embed", ("POST",), embedding.embed, ollama_bodies.EmbedBody),
    Endpoint("/api/embeddings", ("POST",), embedding.embeddings, ollama_bodies.EmbeddingsBody),
    Endpoint("/api/pull", ("POST",), library.pull, ollama_bodies.PullBody),
    Endpoint("/api/delete", ("DELETE",), library.delete, ollama_bodies.ModelBody),
    Endpoint("/api/copy", ("POST",), library.copy, ollama_bodies.CopyBody),
    Endpoint("/api/create", ("POST",), library.not_provided),
    Endpoint("/api/push", ("POST",), library.not_provided),
    Endpoint("/abaci/blobs/{digest}", ("GET", "HEAD"), sharing.shared_blob),
    Endpoint("/tokenize", ("POST",), tokens.tokenize, TokenizeBody),
    Endpoint("/detokenize", ("POST",), tokens.detokenize, DetokenizeBody),
    Endpoint("/apply-template", ("POST",), tokens.apply_template, ApplyTemplateBody),
)


def _add(api: FastAPI, services: Services, endpoint: Endpoint) -> None:
    async def answer(request: Request) -> Response:
        return await endpoint.handler(request, services)

    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _path_parameters(endpoint.path)
    ]
    extra: dict[str, Any] = {"parameters": parameters} if parameters else {}
    if endpoint.body is not None:
        schema = endpoint.body.model_json_schema(ref_template="#/components/schemas/{model}")
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": _inlined(schema)}}}
    for method in endpoint.methods:  # one route each, as an operation of the document has one method
        api.add_api_route(
            endpoint.path,
            answer,
            methods=[method],
            name=endpoint.handler.__name__,
            description=endpoint.handler.__doc__,
            openapi_extra=extra or None,
            response_model=None,
        )


_WATCHED: Final = frozenset({"/health", "/ping", "/metrics"})
"""Paths that machines ask for all the time."""


def _path_parameters(path: str) -> list[str]:
    return [part.strip("{}").split(":")[0] for part in path.split("/") if part.startswith("{")]


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with its definitions where they are used: it stands alone in the document."""
    definitions = schema.pop("$defs", {})

    def resolve(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return resolve(definitions[value["$ref"].rsplit("/", 1)[-1]])
            return {key: resolve(item) for key, item in value.items()}
        return [resolve(item) for item in value] if isinstance(value, list) else value

    resolved: dict[str, Any] = resolve(schema)
    return resolved


def _log_access(access: Access) -> None:
    _LOG.log(
        logging.DEBUG if access.path in _WATCHED and access.status < 400 else logging.INFO,
        "%s %s %d",
        access.method,
        access.path,
        access.status,
        extra={
            "request_id": access.request_id,
            "status": access.status,
            "seconds": round(access.seconds, 6),
            "key": access.key,
        },
    )
