"""Who is calling: from the headers of a request to a caller. Knows keys, not what they are used for."""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Protocol

from starlette.datastructures import Headers

from abaci.errors import AuthenticationError


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request. `key_id` is None for the key of the command line and where no key is asked for."""

    name: str
    key_id: str | None = None
    cache_salt: str = ""
    """Prefixes are shared only between callers of the same salt."""
    models: frozenset[str] | None = None
    """Names it may use; None: all."""
    is_background: bool = False
    """Whether its requests run only in what others leave over."""

    @property
    def is_admin(self) -> bool:
        """Whether it may change what is on this machine: holders of keys of the database may not."""
        return self.key_id is None


class KeyDirectory(Protocol):
    """The keys of the database."""

    def find(self, secret: str) -> Caller | None:
        """The holder of a key that is valid now. In constant time for keys of the same length; never blocks."""

    @property
    def is_empty(self) -> bool:
        """Whether no valid key exists."""


class Authenticator:
    """Finds the caller of a request. Without any key at all everyone is the same nameless caller."""

    def __init__(self, static_key: str | None, directory: KeyDirectory | None = None) -> None:
        self._static_digest = None if static_key is None else _digest(static_key)
        self._directory = directory

    @property
    def needs_key(self) -> bool:
        """Whether requests must bring a key."""
        return self._static_digest is not None or (self._directory is not None and not self._directory.is_empty)

    def identify(self, headers: Headers) -> Caller:
        """The caller. Raises AuthenticationError where a key is needed and none, or a wrong one, was sent."""
        if not self.needs_key:
            return Caller("local")
        secret = _secret(headers)
        if secret is None:
            raise AuthenticationError("no API key was sent", hint="Send it as `Authorization: Bearer KEY`.")
        if self._static_digest is not None and hmac.compare_digest(_digest(secret), self._static_digest):
            return Caller("command-line")
        found = None if self._directory is None else self._directory.find(secret)
        if found is None:
            raise AuthenticationError("the API key is not valid", hint="`abaci key list` shows the keys there are.")
        return found


def _secret(headers: Headers) -> str | None:
    """OpenAI's clients send a bearer token, Anthropic's x-api-key."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and value.strip():
        return value.strip()
    return headers.get("x-api-key") or None


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
