"""`GET /v1/models` and `/v1/models/{id}`: OpenAI's list, with what vLLM and llama.cpp tell of a model beside it."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from abaci.chat.served import ModelStatus
from abaci.errors import ModelNotFoundError
from abaci.server.services import Services


async def list_models(request: Request, services: Services) -> Response:
    """The models the caller may use, the default first."""
    visible = services.visible_models(request.state.caller)
    return JSONResponse({"object": "list", "data": [model_document(status) for status in visible]})


async def retrieve_model(request: Request, services: Services) -> Response:
    """One of them; ids may contain `/` and `:`."""
    name = request.path_params["name"]
    for status in services.visible_models(request.state.caller):
        if status.name == name:
            return JSONResponse(model_document(status))
    raise ModelNotFoundError(f"no model is called {name[:200]!r}", hint="GET /v1/models lists them.")


def model_document(status: ModelStatus) -> dict[str, Any]:
    """A model as the API shows it."""
    return {
        "id": status.name,
        "object": "model",
        "created": status.created_seconds,
        "owned_by": "abaci",
        "root": status.path.name,
        "parent": None,
        "max_model_len": status.context_length,
        "permission": [],
        "meta": {
            "n_ctx_train": status.context_length,
            "n_params": status.num_parameters,
            "size": status.file_bytes,
            "architecture": status.architecture,
            "quantization": status.quantisation,
            "license": status.licence,
            "sha256": status.sha256,
        },
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
        "status": {
            "value": status.state.value,
            "memory_bytes": status.memory_bytes,
            "active": status.num_active,
            "idle_until": status.idle_until_seconds,
        },
    }
