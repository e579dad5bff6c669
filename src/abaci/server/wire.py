"""What all dialects share on the wire: request bodies read strictly, errors in each dialect's envelope.

Knows bytes and JSON, not what is asked for.
"""

import json
import math
import re
import secrets
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from abaci.errors import AbaciError, ContextLengthError, ModelNotFoundError, UsageError
from abaci.server.validation import demand

WARNING_HEADER = "x-abaci-warning"
REQUEST_ID_HEADER = "x-request-id"
ANTHROPIC_REQUEST_ID_HEADER = "request-id"
"""The same id under the name that Anthropic's clients look for."""

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")

_Body = TypeVar("_Body", bound="WireBody")

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    502: "api_error",
    503: "overloaded_error",
}


class ParameterError(UsageError):
    """A request's parameter that cannot be honoured; `parameter` is its name on the wire."""

    def __init__(self, parameter: str | None, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.parameter = parameter


class WireBody(BaseModel):
    """A request body: types are strict, and what is not declared is kept apart for `unknown_parameters`."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, arbitrary_types_allowed=False)

    @classmethod
    def refused_parameters(cls) -> Mapping[str, str]:
        """Parameters of the dialect that are known and not supported, with what to do instead."""
        return {}

    def unknown_parameters(self) -> list[str]:
        """Names of parameters that no dialect we know has: accepted, without effect, and said so in a header."""
        return sorted(self.model_extra or ())


async def read_body(request: Request, kind: type[_Body]) -> _Body:
    """The request's JSON as `kind`. Raises ParameterError that names what is wrong and where."""
    value = await read_json(request)
    if not isinstance(value, dict):
        raise ParameterError(
            None, "the body is JSON, but not an object", hint='Send an object: {"parameter": value, ...}.'
        )
    refused = kind.refused_parameters()
    for name, advice in refused.items():
        if value.get(name) is not None:
            raise ParameterError(name, f"{name} is not supported", hint=advice)
        value.pop(name, None)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise explain(error) from error


async def read_json(request: Request) -> Any:
    """The request's body, decoded. Raises ParameterError."""
    body = await request.body()
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
        if b"\\ud" in body or b"\\uD" in body:  # half a surrogate pair is no text, and could not be sent back
            compact_json(value).encode()
    except (ValueError, RecursionError) as error:
        raise ParameterError(
            None, f"the body is not valid JSON: {error}", hint="Send JSON in UTF-8; check its quotes and commas."
        ) from error
    return value


def compact_json(value: Any) -> str:
    """JSON without a blank too many. Halves of characters, which UTF-8 cannot say, are escaped."""
    text = _COMPACT.encode(value)
    if text.isascii() or _HALF_CHARACTER.search(text) is None:
        return text
    return json.dumps(value, separators=(",", ":"))


def explain(error: ValidationError) -> ParameterError:
    """The first thing wrong, in words."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("function-", "lax-", "strict-")))
    parameter = str(first["loc"][0]) if first["loc"] else None
    given = repr(first["input"])
    shown = given if len(given) <= 80 else given[:77] + "..."
    if first["type"] == "missing":
        hint = "Send it as well; GET /openapi.json has what a body needs."
        return ParameterError(parameter, f"{place} is missing", hint=hint)
    return ParameterError(parameter, f"{place} is {shown}", hint=demand(first["msg"]))


def request_id_of(headers: Mapping[str, str]) -> str:
    """The client's own id where it is harmless, else a new one."""
    given = headers.get(REQUEST_ID_HEADER, "")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


def warning_headers(unknown: list[str]) -> dict[str, str]:
    """The header that tells of parameters without effect."""
    if not unknown:
        return {}
    names = ", ".join(name.encode("ascii", "replace").decode()[:64] for name in unknown[:20])
    return {WARNING_HEADER: "unknown parameters ignored: " + "".join(c if c.isprintable() else "?" for c in names)}


def error_status(error: Exception) -> int:
    """HTTP status of an exception: ours say, anything else is 500."""
    return error.http_status if isinstance(error, AbaciError) else 500


def error_document(error: Exception, path: str) -> dict[str, Any]:
    """The error as clients of the path's dialect expect it. What is no AbaciError stays in the log, not on the wire.

    The hint ends the message, as many clients show nothing else, and stands in a member of its own for those that do.
    """
    status = error_status(error)
    message = _message(error)
    if path.startswith("/api/"):
        return {"error": message}
    kind = _ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    hint = {"hint": error.hint} if isinstance(error, AbaciError) and error.hint is not None else {}
    if path.startswith("/v1/messages"):
        return {"type": "error", "error": {"type": kind, "message": message, **hint}}
    parameter = getattr(error, "parameter", None)
    return {"error": {"message": message, "type": kind, "param": parameter, "code": _code(error), **hint}}


def error_response(error: Exception, path: str, headers: Mapping[str, str] | None = None) -> Response:
    """A whole response for an error, with Retry-After where the error knows one."""
    sent = dict(headers or {})
    retry_after = getattr(error, "retry_after_seconds", None)
    if retry_after is not None:
        sent["retry-after"] = str(max(1, math.ceil(retry_after)))
    if error_status(error) == 401:
        sent["www-authenticate"] = "Bearer"
    return JSONResponse(error_document(error, path), status_code=error_status(error), headers=sent)


def _message(error: Exception) -> str:
    if not isinstance(error, AbaciError):
        return "internal error; the server's log has it under this request's id"
    return error.message if error.hint is None else f"{error.message} ({error.hint})"


def _code(error: Exception) -> str | None:
    if isinstance(error, ContextLengthError):
        return "context_length_exceeded"
    if isinstance(error, ModelNotFoundError):
        return "model_not_found"
    if error_status(error) == 401:
        return "invalid_api_key"
    return None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
