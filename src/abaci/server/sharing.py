"""`/abaci/blobs/{digest}`: files of this machine's store for other Abaci servers, by SHA-256. Off unless configured.

Only hashes are asked for, so no name or path of a client reaches a disk; only files of fetched models are given, and
only to callers who may use every model. Ranges are answered, as peers fetch parts of a file from several at once.
"""

import asyncio
import re
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from abaci.errors import ForbiddenError, NotFoundError
from abaci.hub import Store
from abaci.server.services import Services

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


async def shared_blob(request: Request, services: Services) -> Response:
    """A file of the store; 404 for one that is not here, and for all where the server shares none."""
    caller, sha256 = request.state.caller, request.path_params["digest"]
    if not services.config.share_store:
        raise NotFoundError("this server shares no files", hint="Start it with --share-store.")
    if caller.models is not None:
        raise ForbiddenError(
            f"the key {caller.name!r} is for some models only, so it may not fetch files",
            hint="Send a key that may use every model.",
        )
    path = await asyncio.to_thread(_find, sha256)
    if path is None:
        raise NotFoundError(
            f"there is no file {sha256[:80]!r} here",
            hint="Fetch it from where the model comes from; this server has only what it has pulled.",
        )
    return FileResponse(path, media_type="application/octet-stream", headers={"etag": f'"{sha256}"'})


def _find(sha256: str) -> Path | None:
    return Store().shared_path(sha256) if _SHA256.fullmatch(sha256) else None
