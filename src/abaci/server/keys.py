"""API keys: who may come in, and within which limits. The table, and the copy in memory that requests are held against.

A key is shown once, when it is made; what is kept is its SHA-256. A slow hash is for secrets that people choose: these
have 256 random bits, so nobody finds one by trying, however fast the hash. Knows nothing of HTTP.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, select
from sqlalchemy.exc import IntegrityError

from abaci.errors import AbaciError, NotFoundError, UsageError
from abaci.server import tables
from abaci.server.auth import Caller
from abaci.server.database import Database

KEY_PREFIX: Final = "abaci-"

_LOG = logging.getLogger("abaci.server")
_SECRET_BYTES = 32
_BUCKET_BYTES = 4
_MAX_NAME_CHARACTERS = 128


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a key allows. None: no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    tokens_per_day: int | None = None
    """Prompt and output, by UTC date."""
    models: tuple[str, ...] | None = None
    """Names of the models that may be asked for."""

    def __post_init__(self) -> None:
        """Raises UsageError for limits that make no sense."""
        for limit in ("requests_per_minute", "tokens_per_minute", "concurrent_requests", "tokens_per_day"):
            value = getattr(self, limit)
            if value is not None and not 1 <= value < 2**63:
                raise UsageError(f"{limit} must be at least 1, not {value}", hint="To let nothing in, revoke the key.")
        if self.models is not None and not self.models:
            raise UsageError("models: an empty list allows nothing", hint="To let nothing in, revoke the key.")


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key; its secret is not. Times are Unix seconds."""

    id: str
    name: str
    created_seconds: int
    revoked_seconds: int | None = None
    limits: KeyLimits = field(default_factory=KeyLimits)
    shares_cache: bool = False
    """Whether its requests find, and leave, prefixes in the cache that all such keys share."""

    @property
    def is_valid(self) -> bool:
        """Whether it still lets in."""
        return self.revoked_seconds is None

    @property
    def caller(self) -> Caller:
        """Who calls with this key."""
        models = None if self.limits.models is None else frozenset(self.limits.models)
        return Caller(self.name, self.id, "" if self.shares_cache else self.id, models)


class KeyStore:
    """Keys in the database. Synchronous."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str, limits: KeyLimits | None = None, *, shares_cache: bool = False) -> tuple[Key, str]:
        """A new key and its secret, which cannot be had again. Raises UsageError for a bad name or one in use."""
        if not name.strip() or len(name) > _MAX_NAME_CHARACTERS or not name.isprintable():
            raise UsageError(
                f"a key cannot be named {name[:80]!r}", hint=f"Choose 1 to {_MAX_NAME_CHARACTERS} printable characters."
            )
        secret = KEY_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
        key = Key(
            id=f"key_{secrets.token_hex(8)}",
            name=name,
            created_seconds=int(time.time()),
            limits=limits or KeyLimits(),
            shares_cache=shares_cache,
        )
        row = {
            "id": key.id,
            "name": key.name,
            "digest": _digest(secret).hex(),
            "created_seconds": key.created_seconds,
            "shares_cache": key.shares_cache,
            **_limits_to_row(key.limits),
        }
        with self._database.writing() as connection:
            try:
                connection.execute(tables.keys.insert().values(**row))
            except IntegrityError as error:
                raise UsageError(
                    f"there is a key named {name!r} already", hint="Revoke it first, or choose another name."
                ) from error
            _count_change(connection)
        return key, secret

    def all(self) -> list[Key]:
        """Every key, revoked ones too, oldest first."""
        with self._database.reading() as connection:
            return [_key_of_row(row) for row in _rows(connection)]

    def find(self, name_or_id: str) -> Key:
        """The key of that id or name, a valid one before revoked ones. Raises NotFoundError."""
        named = [key for key in self.all() if name_or_id in (key.id, key.name)]
        if not named:
            raise _no_such_key(name_or_id)
        return max(named, key=lambda key: (key.id == name_or_id, key.is_valid, key.created_seconds))

    def revoke(self, name_or_id: str) -> Key:
        """Let a key in no more. It stays in the list. Raises NotFoundError."""
        with self._database.writing() as connection:
            key = replace(_find_valid(connection, name_or_id), revoked_seconds=int(time.time()))
            _update(connection, key, {"revoked_seconds": key.revoked_seconds})
        return key

    def change(self, name_or_id: str, changes: Mapping[str, Any], *, shares_cache: bool | None = None) -> Key:
        """Set limits: `changes` has values for fields of KeyLimits, None takes a limit away.

        Raises NotFoundError, UsageError.
        """
        if unknown := changes.keys() - {limit.name for limit in fields(KeyLimits)}:
            raise UsageError(
                f"there is no limit named {', '.join(sorted(unknown))}",
                hint=f"Choose one of: {', '.join(limit.name for limit in fields(KeyLimits))}.",
            )
        with self._database.writing() as connection:
            key = _find_valid(connection, name_or_id)
            key = replace(
                key,
                limits=replace(key.limits, **changes),
                shares_cache=key.shares_cache if shares_cache is None else shares_cache,
            )
            _update(connection, key, {"shares_cache": key.shares_cache, **_limits_to_row(key.limits)})
        return key

    def revision(self) -> int:
        """A number that is higher after every change of any key, by whatever process."""
        with self._database.reading() as connection:
            return _revision(connection)

    def snapshot(self) -> tuple[int, list[tuple[bytes, Key]]]:
        """The revision, and every key with its digest, as of one moment."""
        with self._database.reading() as connection:
            digests_and_keys = [(bytes.fromhex(row["digest"]), _key_of_row(row)) for row in _rows(connection)]
            return _revision(connection), digests_and_keys


class KeyRing:
    """The keys in memory, for requests to be held against. Belongs to the event loop; implements auth.KeyDirectory.

    `watch` follows what other processes change. A database that fails leaves the last copy in force.
    """

    def __init__(self, store: KeyStore, database: Database) -> None:
        self._store = store
        self._database = database
        self._revision = -1
        self._buckets: dict[bytes, list[tuple[bytes, Key]]] = {}
        self._keys: dict[str, Key] = {}

    @property
    def is_empty(self) -> bool:
        """Whether there never was a key. With all of them revoked nobody may come in; without any, everyone may."""
        return not self._keys

    def find(self, secret: str) -> Caller | None:
        """The holder of a valid key.

        A digest's first bytes choose a short list, which is compared in constant time and to its end. How long it takes
        tells at most those bytes of a hash, and nobody can choose secrets that lead a hash towards a target.
        """
        digest = _digest(secret)
        found: Key | None = None
        for known, key in self._buckets.get(digest[:_BUCKET_BYTES], ()):
            if hmac.compare_digest(known, digest):
                found = key
        return found.caller if found is not None and found.is_valid else None

    def get(self, key_id: str) -> Key | None:
        """The key of that id as of now, revoked or not."""
        return self._keys.get(key_id)

    def load(self) -> None:
        """Read all keys anew, at start and on SIGHUP. Blocks. Raises what the database raises."""
        self._take(*self._store.snapshot())

    async def refresh(self) -> bool:
        """Read the keys anew if one has changed; whether that was so. Raises what the database raises."""
        if await self._database.run(self._store.revision) == self._revision:
            return False
        self._take(*await self._database.run(self._store.snapshot))
        return True

    async def watch(self, interval_seconds: float = 1.0) -> None:
        """Refresh for ever; cancel it to end."""
        is_failing = False
        while True:
            await asyncio.sleep(interval_seconds)
            try:
                await self.refresh()
                is_failing = False
            except AbaciError as error:
                if not is_failing:
                    _LOG.error("keys cannot be read, the last ones known stay in force: %s", error.message)
                is_failing = True

    def _take(self, revision: int, digests_and_keys: Sequence[tuple[bytes, Key]]) -> None:
        buckets: dict[bytes, list[tuple[bytes, Key]]] = {}
        for digest, key in digests_and_keys:
            buckets.setdefault(digest[:_BUCKET_BYTES], []).append((digest, key))
        self._buckets = buckets
        self._keys = {key.id: key for _, key in digests_and_keys}
        self._revision = revision


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def _rows(connection: Connection) -> Sequence[RowMapping]:
    return connection.execute(select(tables.keys).order_by(tables.keys.c.number)).mappings().all()


def _find_valid(connection: Connection, name_or_id: str) -> Key:
    columns = tables.keys.c
    of_that_name = (columns.id == name_or_id) | (columns.name == name_or_id)
    query = select(tables.keys).where(of_that_name, columns.revoked_seconds.is_(None)).order_by(columns.number)
    rows = connection.execute(query).mappings().all()
    if not rows:
        raise _no_such_key(name_or_id)
    exact = [row for row in rows if row["id"] == name_or_id]
    return _key_of_row((exact or rows)[0])


def _no_such_key(name_or_id: str) -> NotFoundError:
    return NotFoundError(f"there is no key {name_or_id!r}", hint="`abaci key list` shows the keys there are.")


def _update(connection: Connection, key: Key, values: Mapping[str, Any]) -> None:
    connection.execute(tables.keys.update().where(tables.keys.c.id == key.id).values(**values))
    _count_change(connection)


def _count_change(connection: Connection) -> None:
    versions = tables.versions
    is_ours = versions.c.name == "keys"
    connection.execute(versions.update().where(is_ours).values(number=versions.c.number + 1))


def _revision(connection: Connection) -> int:
    versions = tables.versions
    number: int = connection.execute(select(versions.c.number).where(versions.c.name == "keys")).scalar_one()
    return number


def _limits_to_row(limits: KeyLimits) -> dict[str, Any]:
    row = {limit.name: getattr(limits, limit.name) for limit in fields(KeyLimits)}
    return row | {"models": None if limits.models is None else json.dumps(list(limits.models), ensure_ascii=False)}


def _key_of_row(row: RowMapping) -> Key:
    limits = {limit.name: row[limit.name] for limit in fields(KeyLimits)}
    limits["models"] = None if row["models"] is None else tuple(json.loads(row["models"]))
    return Key(
        id=row["id"],
        name=row["name"],
        created_seconds=row["created_seconds"],
        revoked_seconds=row["revoked_seconds"],
        limits=KeyLimits(**limits),
        shares_cache=row["shares_cache"],
    )
