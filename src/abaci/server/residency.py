"""`/models/load` and `/models/unload`: which models are in memory, under llama.cpp's names for it."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from abaci.server.openai.models import model_document
from abaci.server.services import Services
from abaci.server.wire import WireBody, read_body


class ResidencyBody(WireBody):
    """Which model."""

    model: str


async def load_model(request: Request, services: Services) -> Response:
    """Load a model before anyone needs it; answers when it is there."""
    body = await read_body(request, ResidencyBody)
    async with services.pool.lease(services.model_name(request.state.caller, body.model)) as model:
        return JSONResponse({"success": True, "model": model_document(model.status)})


async def unload_model(request: Request, services: Services) -> Response:
    """Unload a model once the requests that hold it have ended; answers when it is gone."""
    body = await read_body(request, ResidencyBody)
    was_loaded = await services.pool.unload(services.model_name(request.state.caller, body.model))
    return JSONResponse({"success": True, "was_loaded": was_loaded})
