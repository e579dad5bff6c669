"""`/v1/files`: what batches read and leave. A caller sees its own files only."""

from collections.abc import AsyncIterator
from typing import Any, Final

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from abaci.server.batch_service import BatchService, owner_of
from abaci.server.files import FilePurpose, StoredFile
from abaci.server.services import Services
from abaci.server.wire import ParameterError, warning_headers

_MAX_FIELDS: Final = 16
_FIELDS: Final = frozenset({"file", "purpose", "expires_after[anchor]", "expires_after[seconds]"})
_KEEP_SECONDS: Final = range(3600, 30 * 24 * 3600 + 1)
_MAX_LIMIT: Final = 10_000


async def upload_file(request: Request, services: Services) -> Response:
    """Keep an uploaded file; its purpose must be `batch`."""
    desk = services.accounts.batch_service
    try:
        form = await request.form(max_files=1, max_fields=_MAX_FIELDS)
    except HTTPException as error:
        raise ParameterError(
            "file",
            f"the form cannot be read: {error.detail}",
            hint="Send a form with the fields purpose and file: curl -F purpose=batch -F file=@requests.jsonl",
        ) from error
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise ParameterError("file", "file is missing", hint="Send a form with the fields file and purpose.")
        stored = await desk.database.run(
            desk.files.create,
            owner_of(request.state.caller),
            file.filename or "",
            _upload_purpose(form),
            file.file,
            keep_seconds=_keep_seconds(form),
        )
        unknown = sorted(form.keys() - _FIELDS)
    finally:
        await form.close()
    return JSONResponse(file_document(stored), headers=warning_headers(unknown))


async def list_files(request: Request, services: Services) -> Response:
    """The caller's files, the newest first."""
    query = request.query_params
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise ParameterError("order", f"order is {order[:64]!r}", hint="Choose one of: asc, desc.")
    purpose = query.get("purpose")
    desk = services.accounts.batch_service
    page = await desk.database.run(
        desk.files.list,
        owner_of(request.state.caller),
        purpose=None if purpose is None else _purpose(purpose),
        after=query.get("after"),
        limit=page_limit(request, _MAX_LIMIT, _MAX_LIMIT),
        newest_first=order == "desc",
    )
    return JSONResponse(page_document([file_document(file) for file in page.items], page.has_more))


async def retrieve_file(request: Request, services: Services) -> Response:
    """What is known of a file."""
    return JSONResponse(file_document(await _find(request, services.accounts.batch_service)))


async def file_content(request: Request, services: Services) -> Response:
    """The bytes of a file."""
    desk = services.accounts.batch_service
    file = await _find(request, desk)
    headers = {"content-length": str(file.num_bytes)}
    return StreamingResponse(_pieces(desk, file), media_type="application/octet-stream", headers=headers)


async def delete_file(request: Request, services: Services) -> Response:
    """Delete a file. A batch that has begun does not need its input any more."""
    desk = services.accounts.batch_service
    file_id = request.path_params["file_id"]
    await desk.database.run(desk.files.delete, owner_of(request.state.caller), file_id)
    return JSONResponse({"id": file_id, "object": "file", "deleted": True})


def file_document(file: StoredFile) -> dict[str, Any]:
    """A file as the API shows it."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.num_bytes,
        "created_at": file.created_seconds,
        "expires_at": file.expires_seconds,
        "filename": file.name,
        "purpose": file.purpose.value,
        "status": "processed",
        "status_details": None,
    }


def page_document(items: list[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """Part of a list, as the API shows it."""
    return {
        "object": "list",
        "data": items,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }


def page_limit(request: Request, usual: int, most: int) -> int:
    """The query's `limit`. Raises ParameterError."""
    text = request.query_params.get("limit", str(usual))
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= most):
        raise ParameterError("limit", f"limit is {text[:64]!r}", hint=f"Send a whole number from 1 to {most}.")
    return int(text)


async def _find(request: Request, desk: BatchService) -> StoredFile:
    return await desk.database.run(desk.files.get, owner_of(request.state.caller), request.path_params["file_id"])


async def _pieces(desk: BatchService, file: StoredFile) -> AsyncIterator[bytes]:
    position = -1
    while found := await desk.database.run(desk.files.read, file.id, position):
        data, position = found
        yield data


def _upload_purpose(form: FormData) -> FilePurpose:
    purpose = form.get("purpose")
    if purpose != FilePurpose.BATCH:
        raise ParameterError(
            "purpose",
            f"purpose is {str(purpose)[:64]!r}",
            hint="Send the purpose batch, the only one for files that are uploaded.",
        )
    return FilePurpose.BATCH


def _purpose(text: str) -> FilePurpose:
    try:
        return FilePurpose(text)
    except ValueError:
        names = " or ".join(purpose.value for purpose in FilePurpose)
        raise ParameterError("purpose", f"purpose is {text[:64]!r}", hint=f"Choose {names}.") from None


def _keep_seconds(form: FormData) -> int | None:
    anchor, seconds = form.get("expires_after[anchor]"), form.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise ParameterError(
            "expires_after",
            "expires_after[anchor] is not created_at",
            hint="Send created_at, or leave expires_after out.",
        )
    text = str(seconds)
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) in _KEEP_SECONDS):
        raise ParameterError(
            "expires_after",
            f"expires_after[seconds] is {text[:64]!r}",
            hint=f"Send {_KEEP_SECONDS[0]} to {_KEEP_SECONDS[-1]}, an hour to 30 days.",
        )
    return int(text)
