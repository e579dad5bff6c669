"""Fetching: what is kept, what is not, what is continued, and who waits for whom."""

import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_sources import Recorder, ScriptedSource, entry_of

from abaci.errors import DownloadError, IntegrityError, ResourceError
from abaci.hub.download import download
from abaci.hub.sources import LocalSource
from abaci.hub.store import Store

CONTENT = bytes(range(256)) * 1000
OTHER = CONTENT[:-1] + b"\0"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def left_behind(store: Store) -> list[str]:
    """Every file of the store but the locks."""
    return sorted(
        str(p.relative_to(store.home)) for p in store.home.rglob("*") if p.is_file() and "locks" not in p.parts
    )


def test_a_file_arrives_and_is_fetched_once(store: Store) -> None:
    source = ScriptedSource(CONTENT)
    entry = entry_of(CONTENT, source)
    first, second = (download(entry, store, Recorder()) for _ in range(2))
    assert first == second == store.get("tiny:1b")
    assert first.path.read_bytes() == CONTENT
    assert (first.source, first.licence, first.sha256) == ("scripted", "MIT", entry.sha256)
    assert source.began_at == [0]
    assert left_behind(store) == [f"files/{entry.sha256}.gguf", "models/tiny%3A1b.json"]


def test_the_next_source_continues_where_one_broke_off(store: Store) -> None:
    dead, good = ScriptedSource(CONTENT, label="dead", stop_after=1000), ScriptedSource(CONTENT, label="good")
    recorder = Recorder()
    model = download(entry_of(CONTENT, dead, good), store, recorder)
    assert (model.source, good.began_at) == ("good", [1000])
    assert recorder.messages == ["dead: the line went dead"]


def test_a_later_run_continues_where_one_broke_off(store: Store) -> None:
    entry = entry_of(CONTENT, ScriptedSource(CONTENT, stop_after=1000))
    with pytest.raises(DownloadError, match="scripted: the line went dead"):
        download(entry, store, Recorder())
    assert left_behind(store) == [f"partial/{entry.sha256}"]
    good = ScriptedSource(CONTENT)
    assert download(entry, store, Recorder(), [good]).path.read_bytes() == CONTENT
    assert good.began_at == [1000]


def test_a_killed_run_is_continued(store: Store) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    entry = entry_of(CONTENT)
    dead = ScriptedSource(CONTENT, stop_after=1000)
    with pytest.raises(KeyboardInterrupt):
        download(entry, store, Recorder(), [dead, ScriptedSource(CONTENT, before=interrupt)])
    good = ScriptedSource(CONTENT)
    download(entry, store, Recorder(), [good])
    assert good.began_at == [1000]


def test_a_damaged_beginning_is_fetched_again(store: Store) -> None:
    entry = entry_of(CONTENT)
    store.partial_path(entry.sha256).write_bytes(b"damaged")
    source, recorder = ScriptedSource(CONTENT), Recorder()
    assert download(entry, store, recorder, [source]).path.read_bytes() == CONTENT
    assert source.began_at == [7, 0]
    assert "damaged" in recorder.messages[0]


def test_a_beginning_longer_than_the_file_is_dropped(store: Store) -> None:
    entry = entry_of(CONTENT)
    store.partial_path(entry.sha256).write_bytes(CONTENT + b"more")
    source = ScriptedSource(CONTENT)
    download(entry, store, Recorder(), [source])
    assert source.began_at == [0]


def test_a_wrong_hash_leaves_nothing(store: Store) -> None:
    with pytest.raises(IntegrityError, match="SHA-256") as caught:
        download(entry_of(CONTENT, ScriptedSource(OTHER)), store, Recorder())
    assert str(caught.value.hint).endswith("abaci pull tiny:1b --from FILE")
    assert left_behind(store) == []


def test_a_source_with_other_bytes_does_not_stop_the_next(store: Store) -> None:
    model = download(entry_of(CONTENT, ScriptedSource(OTHER), ScriptedSource(CONTENT)), store, Recorder())
    assert model.path.read_bytes() == CONTENT


def test_every_source_and_its_reason_is_named(store: Store) -> None:
    sources = [ScriptedSource(CONTENT, label=name, stop_after=0) for name in ("first", "second")]
    with pytest.raises(DownloadError) as caught:
        download(entry_of(CONTENT, *sources), store, Recorder())
    assert "first: the line went dead" in caught.value.message
    assert "second: the line went dead" in caught.value.message
    assert not isinstance(caught.value, IntegrityError)
    assert left_behind(store) == []


@pytest.fixture
def file_size_limit() -> Iterator[int]:
    """The system refuses to let any file of this process grow beyond this, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield 100_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing(store: Store, file_size_limit: int) -> None:
    assert len(CONTENT) > file_size_limit
    with pytest.raises(ResourceError, match="full") as caught:
        download(entry_of(CONTENT, ScriptedSource(CONTENT)), store, Recorder())
    assert "ABACI_HOME" in str(caught.value.hint)
    assert left_behind(store) == []


def test_a_disk_too_small_is_known_beforehand(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    source = ScriptedSource(CONTENT)
    with pytest.raises(ResourceError, match="needs"):
        download(entry_of(CONTENT, source), store, Recorder())
    assert source.began_at == []
    assert left_behind(store) == []


def test_two_at_once_fetch_once(store: Store) -> None:
    waiting = threading.Event()

    class Waiter(Recorder):
        def noticed(self, message: str) -> None:
            super().noticed(message)
            waiting.set()

    began = threading.Event()

    def hold() -> None:
        began.set()
        assert waiting.wait(10)

    source, waiter = ScriptedSource(CONTENT, before=hold), Waiter()
    entry = entry_of(CONTENT, source)
    first = threading.Thread(target=lambda: download(entry, store, Recorder()))
    first.start()
    assert began.wait(10)
    model = download(entry, Store(store.home), waiter)
    first.join(10)
    assert model.path.read_bytes() == CONTENT
    assert source.began_at == [0]
    assert waiter.messages == ["waiting: another process is fetching tiny:1b"]


def test_a_stored_file_that_changed_is_fetched_again(store: Store) -> None:
    source = ScriptedSource(CONTENT)
    entry = entry_of(CONTENT, source)
    download(entry, store, Recorder()).path.write_bytes(b"overwritten")
    assert download(entry, store, Recorder()).path.read_bytes() == CONTENT


def test_progress_only_grows_and_ends_at_the_size(store: Store, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(CONTENT)
    recorder = Recorder()
    download(entry_of(CONTENT, LocalSource(tmp_path)), store, recorder)
    assert recorder.shown == sorted(recorder.shown)
    assert recorder.shown[-1] == len(CONTENT)


@pytest.mark.parametrize("given", ["file", "folder"])
def test_a_local_source_is_a_file_or_its_folder(store: Store, tmp_path: Path, given: str) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(CONTENT)
    model = download(entry_of(CONTENT, LocalSource(file if given == "file" else tmp_path)), store, Recorder())
    assert model.path.read_bytes() == CONTENT
    assert file.exists()


@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), (b"short", "has 5 bytes, not 256,000")])
def test_a_local_file_that_cannot_be_it(store: Store, tmp_path: Path, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "tiny.gguf").write_bytes(content)
    with pytest.raises(DownloadError, match=reason):
        download(entry_of(CONTENT, LocalSource(tmp_path)), store, Recorder())
