"""Which models there are: `/api/{version,tags,ps,show}`, and for whoever runs the server `/api/{pull,delete,copy}`."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from abaci import hub
from abaci.chat.served import ModelState, ModelStatus, ServedModel
from abaci.errors import ForbiddenError, ModelNotFoundError, UsageError
from abaci.hub.licences.gate import LicenceGate
from abaci.server.ollama.answering import NDJSON, timestamp
from abaci.server.ollama.bodies import CopyBody, ModelBody, PullBody, ShowBody
from abaci.server.ollama.names import resolved_name
from abaci.server.ollama.progress import PullProgress
from abaci.server.replies import Reply, Sender
from abaci.server.services import Services
from abaci.server.wire import compact_json, error_document, read_body, warning_headers
from abaci.version import __version__

_DEFAULT_TAG: Final = ":latest"


async def version(request: Request, services: Services) -> Response:
    """The version of this server."""
    return JSONResponse({"version": __version__})


async def tags(request: Request, services: Services) -> Response:
    """The models the caller may use."""
    models = services.visible_models(request.state.caller)
    return JSONResponse({"models": [_tag(status) for status in models]})


async def loaded(request: Request, services: Services) -> Response:
    """Those in memory."""
    models = services.visible_models(request.state.caller)
    return JSONResponse({"models": [_running(status) for status in models if status.state is ModelState.LOADED]})


async def show(request: Request, services: Services) -> Response:
    """What is known of a model; its template only while it is loaded."""
    body = await read_body(request, ShowBody)
    caller = request.state.caller
    name = services.model_name(caller, resolved_name(services, caller, body.asked))
    for status in services.visible_models(caller):
        if status.name == name:
            document = _description(status, _in_memory(services, status))
            return JSONResponse(document, headers=warning_headers(body.unknown_parameters()))
    raise ModelNotFoundError(f"no model is called {body.asked[:200]!r}", hint="GET /api/tags lists them.")


async def pull(request: Request, services: Services) -> Response:
    """Fetch a model of the catalog, telling how far it is."""
    body = await read_body(request, PullBody)
    name = body.asked.removesuffix(_DEFAULT_TAG)
    if body.insecure:
        raise UsageError("insecure is not supported", hint="Models come from the catalog's sources, always checked.")
    if hub.pinned_entry(hub.load_catalog(), name) is None:
        raise ModelNotFoundError(f"the catalog has no model {name[:200]!r}", hint="`abaci search` shows the catalog.")
    if not services.config.any_model and name not in {status.name for status in services.pool.models()}:
        raise ForbiddenError(
            f"this server would not serve {name}", hint="Its any_model lets clients ask for every model that is here."
        )
    gate = LicenceGate(serves_others=not services.config.is_loopback)

    async def write(sender: Sender) -> None:
        async with aclosing(_pulling(name, gate)) as events:
            if body.stream is False:
                async for _ in events:
                    pass
                await sender.whole({"status": "success"})
                return
            async with sender.stream(NDJSON, lambda error: _line(error_document(error, request.url.path))):
                async for event in events:
                    await sender.piece(_line(event))

    return Reply(
        write,
        slow_reader_seconds=services.config.slow_reader_seconds,
        extra_headers=warning_headers(body.unknown_parameters()),
    )


async def delete(request: Request, services: Services) -> Response:
    """Give up a name, and the model's file if it has no other."""
    body = await read_body(request, ModelBody)
    name = resolved_name(services, request.state.caller, body.asked)
    if await services.pool.forget(name):
        store = hub.Store()
        stored = hub.stored_model(name, store)
        await asyncio.to_thread(store.remove, stored)
    return Response(headers=warning_headers(body.unknown_parameters()))


async def copy(request: Request, services: Services) -> Response:
    """Give a model a further name until the server ends; `aliases` in its settings last."""
    body = await read_body(request, CopyBody)
    await services.pool.alias(body.destination, resolved_name(services, request.state.caller, body.source))
    return Response(headers=warning_headers(body.unknown_parameters()))


async def not_provided(request: Request, services: Services) -> Response:
    """Making and publishing models: refused."""
    raise UsageError(
        f"{request.url.path[:100]} is not provided", hint="A GGUF file is served by naming it: abaci serve FILE."
    )


def _pull(name: str, gate: LicenceGate, progress: PullProgress) -> None:
    gate.check_name(name)
    gate.check_file(hub.pull(name, progress=progress))


async def _pulling(name: str, gate: LicenceGate) -> AsyncGenerator[dict[str, Any], None]:
    """What Ollama's clients show while a model comes."""
    yield {"status": "pulling manifest"}
    entry = hub.pinned_entry(hub.load_catalog(), name)
    digest = f"sha256:{entry.sha256}" if entry is not None else ""
    progress = PullProgress(asyncio.get_running_loop())
    work = asyncio.ensure_future(asyncio.to_thread(_pull, name, gate, progress))
    work.add_done_callback(progress.finished)
    try:
        async for step in progress.steps():
            yield {"status": f"pulling {digest[7:19]}", "digest": digest, **step} if "total" in step else step
        await work
    finally:
        progress.abandon()
    yield {"status": "verifying sha256 digest"}
    yield {"status": "success"}


def _tag(status: ModelStatus) -> dict[str, Any]:
    return {
        "name": status.name,
        "model": status.name,
        "modified_at": timestamp(status.created_seconds),
        "size": status.file_bytes,
        "digest": status.sha256 or "",
        "details": _details(status),
    }


def _running(status: ModelStatus) -> dict[str, Any]:
    until = status.idle_until_seconds
    return {
        "name": status.name,
        "model": status.name,
        "size": status.memory_bytes,
        "digest": status.sha256 or "",
        "details": _details(status),
        "expires_at": None if until is None else timestamp(until),
        "size_vram": 0,
        "context_length": status.context_length,
    }


def _details(status: ModelStatus) -> dict[str, Any]:
    family = status.architecture or ""
    return {
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": _parameter_size(status.num_parameters),
        "quantization_level": status.quantisation or "",
    }


def _parameter_size(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.2f}M"


def _description(status: ModelStatus, model: ServedModel | None) -> dict[str, Any]:
    template = "" if model is None else model.text.template.source
    capabilities = ["completion", "tools"]
    if "enable_thinking" in template or "<think>" in template:
        capabilities.append("thinking")
    return {
        "modelfile": f"FROM {status.name}\n",
        "parameters": "" if model is None else _parameters(model),
        "template": template,
        "license": status.licence or "",
        "details": _details(status),
        "model_info": _model_info(status),
        "capabilities": capabilities,
        "modified_at": timestamp(status.created_seconds),
    }


def _parameters(model: ServedModel) -> str:
    """What the model's makers advise, one a line."""
    defaults = model.text.rules.defaults
    named = {
        "temperature": defaults.temperature,
        "top_k": defaults.top_k,
        "top_p": defaults.top_p,
        "min_p": defaults.min_p,
        "repeat_penalty": defaults.repetition_penalty,
    }
    return "\n".join(f"{name:<30} {value:g}" for name, value in named.items())


def _model_info(status: ModelStatus) -> dict[str, Any]:
    architecture = status.architecture
    info = {
        "general.architecture": architecture,
        "general.parameter_count": status.num_parameters,
        f"{architecture}.context_length": None if architecture is None else status.context_length,
    }
    return {key: value for key, value in info.items() if value is not None}


def _in_memory(services: Services, status: ModelStatus) -> ServedModel | None:
    if status.state is not ModelState.LOADED:
        return None
    return next((model for model in services.pool.loaded() if model.status.path == status.path), None)


def _line(document: dict[str, Any]) -> bytes:
    return (compact_json(document) + "\n").encode()
