"""Keys: shown once, kept hashed, followed by a running server."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from abaci.errors import NotFoundError, UsageError
from abaci.server.database import DATABASE_NAME, Database
from abaci.server.keys import KEY_PREFIX, KeyLimits, KeyRing, KeyStore


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path)
    yield database
    database.close()


@pytest.fixture
def store(database: Database) -> KeyStore:
    return KeyStore(database)


@pytest.fixture
def ring(store: KeyStore, database: Database) -> KeyRing:
    ring = KeyRing(store, database)
    ring.load()
    return ring


def test_a_key_is_long_and_never_written_down(store: KeyStore, tmp_path: Path) -> None:
    secrets = [store.create(f"team {i}")[1] for i in range(20)]
    assert len(set(secrets)) == 20
    assert all(secret.startswith(KEY_PREFIX) and len(secret) >= len(KEY_PREFIX) + 32 for secret in secrets)
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        assert not any(secret.removeprefix(KEY_PREFIX).encode() in content for secret in secrets)
    assert secrets[0] not in repr(store.all())


def test_what_is_set_comes_back(store: KeyStore) -> None:
    limits = KeyLimits(60, 10_000, 4, 1_000_000, ("a", "ü:b/c"))
    key, _ = store.create("team", limits, shares_cache=True)
    assert store.all() == [key]
    assert key.limits == limits
    assert key.caller.models == {"a", "ü:b/c"}
    assert key.caller.cache_salt == ""
    changed = store.change("team", {"tokens_per_day": None, "models": None, "concurrent_requests": 9})
    assert changed.limits == KeyLimits(60, 10_000, 9, None, None)
    assert store.change(key.id, {}, shares_cache=False).caller.cache_salt == key.id
    assert store.all()[0].limits == changed.limits


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 129])
def test_bad_names_are_refused(store: KeyStore, name: str) -> None:
    with pytest.raises(UsageError, match="name"):
        store.create(name)


def test_bad_limits_are_refused(store: KeyStore) -> None:
    store.create("team")
    for changes in ({"tokens_per_day": 0}, {"models": ()}, {"requests_per_minute": 2**63}, {"wishes": 3}):
        with pytest.raises(UsageError, match=next(iter(changes))):
            store.change("team", changes)


def test_a_name_is_free_again_once_revoked(store: KeyStore) -> None:
    first, _ = store.create("team")
    with pytest.raises(UsageError, match="already"):
        store.create("team")
    store.revoke("team")
    second, _ = store.create("team")
    assert [(key.id, key.is_valid) for key in store.all()] == [(first.id, False), (second.id, True)]
    with pytest.raises(NotFoundError):
        store.revoke(first.id)


def test_a_name_that_is_the_id_of_another_key_does_not_stand_for_it(store: KeyStore) -> None:
    first, _ = store.create("first")
    store.create(first.id)
    assert store.revoke(first.id).id == first.id


def test_only_valid_secrets_are_found(store: KeyStore, ring: KeyRing) -> None:
    assert ring.is_empty
    key, secret = store.create("team")
    ring.load()
    found = ring.find(secret)
    assert found is not None
    assert (found.name, found.key_id, found.cache_salt) == ("team", key.id, key.id)
    for wrong in ("", secret[:-1], secret + "a", secret.upper(), "\udcff", KEY_PREFIX):
        assert ring.find(wrong) is None


def test_a_shared_bucket_still_tells_keys_apart(
    store: KeyStore, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("abaci.server.keys._BUCKET_BYTES", 0)
    secrets = {name: store.create(name)[1] for name in ("a", "b", "c")}
    ring.load()
    assert {name: caller.name for name, secret in secrets.items() if (caller := ring.find(secret))} == {
        name: name for name in secrets
    }
    assert ring.find("abaci-other") is None


def test_without_valid_keys_nobody_comes_in_again(store: KeyStore, ring: KeyRing) -> None:
    _, secret = store.create("team")
    store.revoke("team")
    ring.load()
    assert ring.find(secret) is None
    assert not ring.is_empty


def test_a_ring_reads_only_after_changes(store: KeyStore, ring: KeyRing) -> None:
    async def follow() -> list[bool]:
        seen = [await ring.refresh()]
        _, secret = store.create("team")
        seen += [await ring.refresh(), await ring.refresh()]
        assert ring.find(secret) is not None
        store.change("team", {"tokens_per_day": 5})
        seen.append(await ring.refresh())
        store.revoke("team")
        seen.append(await ring.refresh())
        assert ring.find(secret) is None
        return seen

    assert asyncio.run(follow()) == [False, True, False, True, True]


def test_changes_of_another_process_arrive(tmp_path: Path, ring: KeyRing) -> None:
    program = f"""
from pathlib import Path
from abaci.server.database import Database
from abaci.server.keys import KeyStore
database = Database.open(Path({str(tmp_path)!r}))
print(KeyStore(database).create("from outside")[1])
"""

    async def wait() -> str:
        watching = asyncio.create_task(ring.watch(0.02))
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=subprocess.PIPE)
        secret = (await process.communicate())[0].decode().strip()
        async with asyncio.timeout(5):
            while ring.find(secret) is None:
                await asyncio.sleep(0.01)
        watching.cancel()
        return secret

    found = ring.find(asyncio.run(wait()))
    assert found is not None
    assert found.name == "from outside"


def test_a_database_that_fails_leaves_the_last_keys_in_force(
    tmp_path: Path, store: KeyStore, ring: KeyRing, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    _, secret = store.create("team")
    ring.load()

    async def watch() -> None:
        watching = asyncio.create_task(ring.watch(0.01))
        await asyncio.sleep(0.1)
        assert not watching.done()
        watching.cancel()

    database._engine.dispose()
    for path in tmp_path.glob(f"{DATABASE_NAME}*"):
        path.unlink()
    (tmp_path / DATABASE_NAME).write_bytes(b"damaged" * 1000)
    with caplog.at_level(logging.ERROR):
        asyncio.run(watch())
    assert len(caplog.records) == 1
    assert ring.find(secret) is not None
