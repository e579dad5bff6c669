"""`/v1/batches`: many requests in a file, answered in a file. A caller sees its own batches only."""

from dataclasses import asdict
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from abaci.server.batch_service import BatchService, owner_of
from abaci.server.batches import Batch, BatchStatus, published_files
from abaci.server.openai.files import page_document, page_limit
from abaci.server.services import Services
from abaci.server.wire import ParameterError, WireBody, read_body, warning_headers

BATCH_ENDPOINTS: Final = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/responses",
)

_WINDOW: Final = "24h"
_USUAL_LIMIT: Final = 20
_MAX_LIMIT: Final = 100


class BatchBody(WireBody):
    """A request for a batch."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None

    @classmethod
    def refused_parameters(cls) -> dict[str, str]:
        return {"output_expires_after": "Delete the output when it is not needed any more."}


async def create_batch(request: Request, services: Services) -> Response:
    """Begin to answer the requests of an uploaded file."""
    body = await read_body(request, BatchBody)
    if body.endpoint not in BATCH_ENDPOINTS:
        raise ParameterError(
            "endpoint", f"endpoint is {body.endpoint[:64]!r}", hint=f"Choose one of: {', '.join(BATCH_ENDPOINTS)}."
        )
    if body.completion_window != _WINDOW:
        raise ParameterError(
            "completion_window",
            f"completion_window is {body.completion_window[:64]!r}",
            hint=f"Send {_WINDOW!r}, the only one there is.",
        )
    desk = services.accounts.batch_service
    batch = await desk.create(request.state.caller, body.input_file_id, body.endpoint, body.metadata)
    return JSONResponse(batch_document(batch, frozenset()), headers=warning_headers(body.unknown_parameters()))


async def list_batches(request: Request, services: Services) -> Response:
    """The caller's batches, the newest first."""
    desk = services.accounts.batch_service
    page = await desk.database.run(
        desk.batches.list,
        owner_of(request.state.caller),
        after=request.query_params.get("after"),
        limit=page_limit(request, _USUAL_LIMIT, _MAX_LIMIT),
    )
    return JSONResponse(page_document(await _documents(desk, *page.items), page.has_more))


async def retrieve_batch(request: Request, services: Services) -> Response:
    """Where a batch is."""
    desk = services.accounts.batch_service
    batch = await desk.database.run(desk.batches.get, owner_of(request.state.caller), request.path_params["batch_id"])
    return JSONResponse((await _documents(desk, batch))[0])


async def cancel_batch(request: Request, services: Services) -> Response:
    """End a batch early; what is answered by then can be had."""
    desk = services.accounts.batch_service
    batch = await desk.cancel(request.state.caller, request.path_params["batch_id"])
    return JSONResponse((await _documents(desk, batch))[0])


def batch_document(batch: Batch, published: frozenset[str]) -> dict[str, Any]:
    """A batch as the API shows it; `published` holds the ids of outputs that are files by now."""
    ended = {status: batch.ended_seconds if batch.status is status else None for status in BatchStatus}
    errors = [asdict(error) for error in batch.errors]
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": {"object": "list", "data": errors} if errors else None,
        "input_file_id": batch.input_file_id,
        "completion_window": _WINDOW,
        "status": batch.status.value,
        "output_file_id": batch.output_file_id if batch.output_file_id in published else None,
        "error_file_id": batch.error_file_id if batch.error_file_id in published else None,
        "created_at": batch.created_seconds,
        "in_progress_at": batch.started_seconds,
        "expires_at": batch.expires_seconds,
        "finalizing_at": batch.finalizing_seconds,
        "completed_at": ended[BatchStatus.COMPLETED],
        "failed_at": ended[BatchStatus.FAILED],
        "expired_at": ended[BatchStatus.EXPIRED],
        "cancelling_at": batch.cancelling_seconds,
        "cancelled_at": ended[BatchStatus.CANCELLED],
        "request_counts": {"total": batch.num_total, "completed": batch.num_completed, "failed": batch.num_failed},
        "metadata": batch.metadata,
    }


async def _documents(desk: BatchService, *batches: Batch) -> list[dict[str, Any]]:
    published = await desk.database.run(published_files, desk.database, batches)
    return [batch_document(batch, published) for batch in batches]
