"""How verbs talk to a running server: a few small requests, for which the standard library is enough."""

import json
import urllib.error
import urllib.request
from typing import Annotated, Any

import typer

from abaci.errors import AbaciError, AuthenticationError, ModelNotFoundError, ResourceError

_TIMEOUT_SECONDS = 600.0

UrlOption = Annotated[str, typer.Option(metavar="URL", envvar="ABACI_URL", help="Where the server listens.")]
KeyOption = Annotated[str | None, typer.Option(metavar="KEY", envvar="ABACI_API_KEY", help="The server's key.")]

DEFAULT_URL = "http://127.0.0.1:8000"


def call(url: str, path: str, api_key: str | None, body: dict[str, Any] | None = None) -> Any:
    """The server's JSON answer. Raises ResourceError if nobody listens, and the server's own errors as ours."""
    from abaci.hub.network import check_reach

    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    if api_key is not None:
        headers["authorization"] = f"Bearer {api_key}"
    if not url.startswith(("http://", "https://")):
        raise ResourceError(f"{url} is no address of a server", hint="For example: --url http://127.0.0.1:8000")
    check_reach(url)
    request = urllib.request.Request(url.rstrip("/") + path, data, headers)  # noqa: S310  http or https, see above
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise _told(error) from error
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        reason = getattr(reason, "strerror", None) or reason
        raise ResourceError(f"no server answers at {url}: {reason}", hint="Start one: abaci serve") from error


def _told(error: urllib.error.HTTPError) -> AbaciError:
    try:
        told = json.load(error)["error"]
        message, hint = told["message"], told.get("hint")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, hint = f"the server answered {error.code}", None
    kinds: dict[int, type[AbaciError]] = {401: AuthenticationError, 404: ModelNotFoundError}
    return kinds.get(error.code, AbaciError)(message, hint=hint or "Its log says more; `abaci ps` lists its models.")
