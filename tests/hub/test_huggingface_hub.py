"""The hub: what it lists, what it sends, how it refuses, and the cache that its own client shares with us."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import COMMIT, HubServer, running_hub
from scripted_sources import Recorder

from abaci import hub as package
from abaci.errors import DownloadError, IntegrityError, OfflineError, UsageError
from abaci.formats.opening import open_checkpoint
from abaci.hub.download import fetch
from abaci.hub.huggingface import HuggingFaceSource, list_repository, token
from abaci.hub.huggingface_cache import cache_folder, cached_file
from abaci.hub.network import Network
from abaci.hub.reach import SourceUnavailableError
from abaci.hub.references import StoredModel
from abaci.hub.repositories import wanted_model
from abaci.hub.store import Store
from abaci.hub.wanted import Digest, WantedFile, WantedModel

REPOSITORY = "maker/model"
LARGE = bytes(range(256)) * 12_000
FOLDER = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}" * 700,
    "model-00001-of-00002.safetensors": LARGE,
    "model-00002-of-00002.safetensors": LARGE[::-1],
    "model.safetensors.index.json": b'{"weight_map": {}}',
    "pytorch_model.bin": b"pickle" * 1000,
    "onnx/model.onnx": b"other" * 1000,
    ".gitattributes": b"*.safetensors filter=lfs",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with running_hub() as server:
        server.repositories = {REPOSITORY: dict(FOLDER), "maker/quantised": {"tiny.Q4_K_M.gguf": LARGE}}
        monkeypatch.setenv("HF_ENDPOINT", server.hub_url)
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def pull(store: Store, repository: str = REPOSITORY, recorder: Recorder | None = None) -> StoredModel:
    network = Network()
    listing = list_repository(repository, "main", network)
    return fetch(wanted_model(f"hf.co/{repository}", listing), store, recorder or Recorder(), network)


def pull_file(store: Store, recorder: Recorder | None = None) -> StoredModel:
    """One large file of known hash, as a catalog names it."""
    digest = Digest.sha256(hashlib.sha256(LARGE).hexdigest())
    source = HuggingFaceSource("maker/quantised")
    file = WantedFile("tiny.Q4_K_M.gguf", len(LARGE), digest, (source,))
    return fetch(WantedModel("tiny:1b", (file,), "MIT"), store, recorder or Recorder(), Network())


def client(hub: HubServer, code: str, **environment: str) -> str:
    """What the real client prints, in a process of its own: it reads its environment on import."""
    plain = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    result = subprocess.run(
        [sys.executable, "-c", f"import huggingface_hub as hub\n{code}"],
        env={**plain, "HF_ENDPOINT": hub.hub_url, "HF_HUB_DISABLE_XET": "1", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_a_repository_becomes_a_folder_that_a_reader_can_open(hub: HubServer, store: Store) -> None:
    model = pull(store)
    assert {path.name for path in model.path.iterdir()} == {
        "config.json",
        "tokenizer.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    }
    for file in model.files:
        assert (model.path / file.path).read_bytes() == FOLDER[file.path]
        assert file.sha256 == hashlib.sha256(FOLDER[file.path]).hexdigest()
    assert store.get(model.name) == model
    assert store.check(model) == model


def test_the_reader_opens_what_was_pulled(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name alone: from the hub's list to the tensors of sharded safetensors."""
    monkeypatch.setenv("ABACI_HOME", str(tmp_path / "home"))
    folder = Path(__file__).parents[1] / "golden" / "folders" / "qwen2"
    hub.repositories["maker/golden"] = {path.name: path.read_bytes() for path in folder.iterdir()}
    resolved = package.resolve("maker/golden", download=True)
    with open_checkpoint(resolved.path) as pulled, open_checkpoint(folder) as original:
        assert list(pulled.tensors) == list(original.tensors)
        assert dict(pulled.metadata) == dict(original.metadata) | {"general.name": "golden"}
    assert package.resolve("hf.co/maker/golden", download=False) == resolved


def test_a_second_pull_fetches_nothing(hub: HubServer, store: Store) -> None:
    first = pull(store)
    hub.asked.clear()
    assert pull(store) == first
    assert all("/api/" in one.path for one in hub.asked)


def test_weights_that_run_code_are_refused_with_the_reason(hub: HubServer, store: Store) -> None:
    hub.repositories[REPOSITORY] = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    with pytest.raises(Exception, match=r"pytorch_model\.bin, a format that can run code"):
        pull(store)


def test_what_the_client_fetched_is_used_where_it_is(hub: HubServer, store: Store) -> None:
    snapshot = client(hub, f"print(hub.snapshot_download({REPOSITORY!r}))")
    hub.asked.clear()
    model = pull(store)
    assert all("/api/" in one.path for one in hub.asked)
    assert not any(file.is_ours for file in model.files)
    cached = {Path(snapshot, file.path).resolve() for file in model.files}
    assert {file.location for file in model.files} == cached
    assert store.remove(model) == 0
    assert all(path.exists() for path in cached)


def test_the_client_finds_what_we_fetched(hub: HubServer, store: Store) -> None:
    model = pull(store)
    hub.asked.clear()
    found = client(hub, f"print(hub.hf_hub_download({REPOSITORY!r}, 'config.json'))", HF_HUB_OFFLINE="1")
    assert Path(found).read_bytes() == FOLDER["config.json"]
    assert hub.asked == []
    found = client(hub, f"print(hub.hf_hub_download({REPOSITORY!r}, 'model-00001-of-00002.safetensors'))")
    assert Path(found).resolve() in {file.location for file in model.files}
    assert hub.asked_of("content") == []
    scan = "cache = hub.scan_cache_dir(); print(len(cache.warnings), *(r.repo_id for r in cache.repos))"
    assert client(hub, scan) == f"0 {REPOSITORY}"


def test_what_we_fetched_into_the_cache_goes_with_its_last_name(hub: HubServer, store: Store) -> None:
    model = pull(store)
    assert all(file.is_ours for file in model.files)
    assert store.remove(model) == sum(file.num_bytes for file in model.files)
    assert cached_file(REPOSITORY, "main", "config.json") is None
    assert not any(file.location.exists() for file in model.files)
    assert not list(cache_folder().glob("models--*"))


def test_what_another_tool_fetched_beside_it_stays(hub: HubServer, store: Store) -> None:
    client(hub, f"hub.hf_hub_download({REPOSITORY!r}, 'onnx/model.onnx')")
    model = pull(store)
    store.remove(model)
    found = cached_file(REPOSITORY, "main", "onnx/model.onnx")
    assert found is not None
    assert found.read_bytes() == FOLDER["onnx/model.onnx"]
    assert cached_file(REPOSITORY, "main", "config.json") is None


def test_what_was_fetched_stays_known_as_such(hub: HubServer, store: Store) -> None:
    first = pull(store)
    network = Network()
    listing = list_repository(REPOSITORY, "main", network)
    second = fetch(wanted_model("another:1b", listing), store, Recorder(), network)
    assert all(file.is_ours for file in second.files)
    assert store.remove(first) == 0
    assert store.remove(second) == second.num_bytes


def test_a_file_arrives_over_redirects_and_its_token_stays(
    hub: HubServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    model = pull_file(store)
    assert model.path.read_bytes() == LARGE
    assert all(one.headers["authorization"] == "Bearer hf_secret" for one in hub.asked_of("hub"))
    assert hub.asked_of("content")
    assert not any("authorization" in one.headers for one in hub.asked_of("content"))


def test_the_hub_is_asked_once_where_a_file_is(hub: HubServer, store: Store) -> None:
    pull_file(store)
    assert len([one for one in hub.asked_of("hub") if "/resolve/" in one.path]) == 1
    assert len(hub.asked_of("content")) == 3


def test_a_link_that_ran_out_is_asked_for_again(hub: HubServer, store: Store) -> None:
    hub.faults.expired_links = 0
    pull_file(store)
    store.remove(store.get("tiny:1b") or pytest.fail("not kept"))
    recorder = Recorder()

    def expire(num_bytes: int) -> None:
        if num_bytes > 1_500_000 and not hub.faults.expired_links:
            hub.faults.expired_links = 1

    recorder.advanced = lambda source, num_bytes, total: expire(num_bytes)  # type: ignore[method-assign]
    assert pull_file(store, recorder).path.read_bytes() == LARGE


def test_gated_repositories_say_what_to_do(hub: HubServer, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated = {REPOSITORY: "hf_right"}
    with pytest.raises(SourceUnavailableError, match=r"gated: ask for access at .*maker/model; set HF_TOKEN"):
        pull(store)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(SourceUnavailableError, match="has not been let in"):
        pull(store)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert pull(store).path.is_dir()


def test_what_is_not_there_is_named(hub: HubServer, store: Store) -> None:
    with pytest.raises(SourceUnavailableError, match="no repository maker/none"):
        pull(store, "maker/none")
    with pytest.raises(SourceUnavailableError, match="no such revision"):
        list_repository(REPOSITORY, "v9", Network())


def test_a_busy_hub_is_asked_again(hub: HubServer, store: Store) -> None:
    hub.faults.hub_statuses = [(503, {})]
    hub.faults.statuses = [(429, {"Retry-After": "1"})]
    started = time.monotonic()
    assert pull_file(store).path.read_bytes() == LARGE
    assert time.monotonic() - started >= 1


def test_a_hub_that_wants_to_be_left_alone_for_long_is_given_up(hub: HubServer, store: Store) -> None:
    hub.faults.statuses = [(429, {"Retry-After": "3600"})] * 20
    with pytest.raises(DownloadError, match="answered 429"):
        pull_file(store)


def test_answers_that_break_off_are_continued_at_the_byte(hub: HubServer, store: Store) -> None:
    hub.faults.cut_after = [100_000, 1, 300_000, 0, 70_000]
    assert pull_file(store).path.read_bytes() == LARGE
    begins = [int(one.headers["range"].removeprefix("bytes=").split("-")[0]) for one in hub.asked_of("content")]
    assert any(begin % 1_000_000 not in (0, 48576, 97152) for begin in begins), begins


def test_a_download_resumes_at_the_byte(hub: HubServer, store: Store) -> None:
    digest = hashlib.sha256(LARGE).hexdigest()
    store.partial_path(digest).write_bytes(LARGE[:1234])
    assert pull_file(store).path.read_bytes() == LARGE
    begins = {one.headers["range"].split("-")[0] for one in hub.asked_of("content")}
    assert "bytes=1234" in begins
    assert "bytes=0" not in begins


def test_wrong_bytes_are_never_kept(hub: HubServer, store: Store) -> None:
    hub.faults.wrong_byte_at = 2_000_000
    with pytest.raises(IntegrityError, match="SHA-256"):
        pull_file(store)
    assert not list((store.home / "partial").iterdir())
    assert store.find(hashlib.sha256(LARGE).hexdigest()) is None
    assert cached_file("maker/quantised", "main", "tiny.Q4_K_M.gguf") is None


def test_a_small_file_with_wrong_bytes_is_never_kept(hub: HubServer, store: Store) -> None:
    hub.faults.wrong_byte_at = 3
    with pytest.raises(IntegrityError, match=r"config\.json"):
        pull(store)
    assert store.all() == []


def test_a_file_of_another_size_is_not_fetched(hub: HubServer, store: Store) -> None:
    hub.faults.wrong_size = 17
    with pytest.raises(DownloadError, match=f"its file has 17 bytes, not {len(LARGE):,}"):
        pull_file(store)


@pytest.mark.parametrize("already", [0, 1234])
def test_a_server_that_ignores_ranges_still_delivers(hub: HubServer, store: Store, already: int) -> None:
    hub.faults.ignores_ranges = True
    store.partial_path(hashlib.sha256(LARGE).hexdigest()).write_bytes(LARGE[:already])
    assert pull_file(store).path.read_bytes() == LARGE


def test_several_connections_share_a_file(hub: HubServer, store: Store) -> None:
    hub.faults.seconds_per_piece = 0.001
    pull_file(store)
    begins = {one.headers["range"] for one in hub.asked_of("content")}
    assert len(begins) == 3


def test_offline_asks_nobody(hub: HubServer, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(offline_because="HF_HUB_OFFLINE")
    digest = Digest.sha256(hashlib.sha256(LARGE).hexdigest())
    file = WantedFile("tiny.Q4_K_M.gguf", len(LARGE), digest, (HuggingFaceSource("maker/quantised"),))
    with pytest.raises(OfflineError, match="HF_HUB_OFFLINE is set"):
        fetch(WantedModel("tiny:1b", (file,)), store, Recorder(), network)
    with pytest.raises(OfflineError):
        list_repository(REPOSITORY, "main", network)
    assert hub.asked == []


def test_offline_uses_what_is_cached(hub: HubServer, store: Store) -> None:
    client(hub, "hub.hf_hub_download('maker/quantised', 'tiny.Q4_K_M.gguf')")
    hub.asked.clear()
    digest = Digest.sha256(hashlib.sha256(LARGE).hexdigest())
    file = WantedFile("tiny.Q4_K_M.gguf", len(LARGE), digest, (HuggingFaceSource("maker/quantised"),))
    model = fetch(WantedModel("tiny:1b", (file,)), store, Recorder(), Network(offline_because="ABACI_OFFLINE"))
    assert model.path.read_bytes() == LARGE
    assert model.path.name == "tiny.Q4_K_M.gguf"
    assert hub.asked == []


def test_a_damaged_cache_is_not_believed(hub: HubServer, store: Store) -> None:
    client(hub, "hub.hf_hub_download('maker/quantised', 'tiny.Q4_K_M.gguf')")
    blob = cached_file("maker/quantised", "main", "tiny.Q4_K_M.gguf")
    assert blob is not None
    blob.write_bytes(LARGE[:-1] + b"?")
    assert pull_file(store).path.read_bytes() == LARGE


def test_a_silent_hub_gives_way_within_five_seconds(hub: HubServer, store: Store) -> None:
    hub.faults.silent = threading.Event()
    started = time.monotonic()
    with pytest.raises(DownloadError, match="does not answer"):
        pull_file(store)
    assert time.monotonic() - started < 5


def test_a_dead_hub_gives_way(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(DownloadError, match="refused"):
        pull_file(store)


def test_licence_and_base_come_with_the_list(hub: HubServer) -> None:
    hub.card = {"license": "other", "license_name": "maker-terms", "base_model": ["maker/base"]}
    listing = list_repository(REPOSITORY, "main", Network())
    assert (listing.licence, listing.licence_name, listing.base_models) == ("other", "maker-terms", ("maker/base",))
    assert listing.commit == COMMIT
    assert ".gitattributes" not in {file.path for file in listing.files}


@pytest.mark.parametrize("name", ["../x", "a/b/c", "a/..", "", "a b/c", "org/re\npo", "-a/b", "a--b/c"])
def test_names_that_are_no_repository(name: str) -> None:
    with pytest.raises(UsageError):
        HuggingFaceSource(name)


@pytest.mark.parametrize(
    ("environment", "file", "found"),
    [
        ({"HF_TOKEN": " hf_a \n"}, None, "hf_a"),
        ({}, "hf_b\n", "hf_b"),
        ({"HF_TOKEN": "hf_a"}, "hf_b", "hf_a"),
        ({"HF_TOKEN": "hf_a", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}, None, None),
        ({"HF_TOKEN": "a\r\nX-Evil: 1"}, None, None),
        ({}, None, None),
    ],
)
def test_where_the_token_is(
    environment: dict[str, str], file: str | None, found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if file is not None:
        (tmp_path / "token").write_text(file)
    assert token() == found


def test_the_token_is_in_no_message(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    request = HuggingFaceSource(REPOSITORY).request("config.json")
    assert "hf_secret" not in repr(request)
    assert json.dumps(request.url)
