"""Models described from their files, from headers over the network, and from the catalog: the same footprint."""

import sys
from pathlib import Path

import pytest
from golden_models import GOLDEN_NAMES, golden_path

from abaci import hub
from abaci.errors import (
    DownloadError,
    FileFormatError,
    ModelNotFoundError,
    OfflineError,
    ResourceError,
    UnsupportedModelError,
)
from abaci.formats.gguf import write_gguf
from abaci.hub.huggingface import list_repository
from abaci.hub.network import Network
from abaci.hub.repositories import wanted_model
from abaci.runtime.describing import Basis, describe_catalog_model, describe_file, describe_model, describe_remote
from abaci.runtime.fit import Memory
from abaci.runtime.fit_gate import check_fit
from abaci.tensor import CacheType, WeightFormat

sys.path.append(str(Path(__file__).parents[1] / "hub"))
from hub_server import HubServer, running_hub

PADDING = bytes(9 << 20)
"""Appended to a file: what is not asked for shows."""


@pytest.fixture
def server(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "ABACI_OFFLINE", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with running_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.hub_url)
        yield running


def wanted(server: HubServer, content: bytes):
    server.repositories = {"maker/tiny": {"tiny.Q8_0.gguf": content}}
    return wanted_model("tiny", list_repository("maker/tiny", "main", Network()))


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_a_header_says_what_the_file_says(server, name):
    content = golden_path(name).read_bytes()
    described = describe_remote(wanted(server, content), Network())
    assert described.footprint == describe_file(golden_path(name), name).footprint
    assert described.basis is Basis.HEADER


def test_only_the_beginning_is_asked_for(server):
    described = describe_remote(wanted(server, golden_path("llama").read_bytes() + PADDING), Network())
    assert described.footprint.weight_bytes > 0
    asked = [one.headers["range"] for one in server.asked_of("content")]
    assert asked == [f"bytes=0-{(4 << 20) - 1}"]


def test_a_damaged_header_is_refused(server):
    content = bytearray(golden_path("llama").read_bytes())
    content[8:16] = b"\xff" * 8
    with pytest.raises(FileFormatError, match="tensor count"):
        describe_remote(wanted(server, bytes(content)), Network())


def test_what_cannot_be_read_by_header_is_told(server):
    server.repositories = {"maker/folder": {"config.json": b"{}", "model.safetensors": bytes(5000)}}
    folder = wanted_model("folder", list_repository("maker/folder", "main", Network()))
    with pytest.raises(UnsupportedModelError, match="GGUF"):
        describe_remote(folder, Network())


def test_a_server_without_ranges_is_told(server):
    model = wanted(server, golden_path("llama").read_bytes())
    server.faults.ignores_ranges = True
    with pytest.raises(DownloadError, match="parts of a file"):
        describe_remote(model, Network())


def test_offline_nothing_is_asked(server):
    model = wanted(server, golden_path("llama").read_bytes())
    before = len(server.asked)
    with pytest.raises(OfflineError):
        describe_remote(model, Network(offline_because="--offline"))
    assert len(server.asked) == before


def test_every_shape_of_the_catalog_has_a_footprint():
    catalog = hub.load_catalog()
    described = {name: describe_catalog_model(name, catalog) for name in catalog.models}
    known = {name: one for name, one in described.items() if one is not None}
    assert known
    for name, one in known.items():
        parameters = catalog.models[name].parameters
        assert one.basis is Basis.CATALOG
        assert one.footprint.products_bytes <= one.footprint.weight_bytes
        if parameters is not None:
            bits = one.footprint.weight_bytes * 8 / parameters.total
            assert 2 < bits < 33, name


def test_a_name_that_the_catalog_does_not_have_is_none_of_it():
    assert describe_catalog_model("abacus:1b") is None


SMALL = Memory(100 << 20, 100 << 20)


def test_what_cannot_run_is_refused_before_it_is_fetched(server):
    """Of a model of the catalog nothing is asked; the arithmetic is in the message."""
    with pytest.raises(ResourceError, match=r"weights \+ .* cache .* = .* this machine has 105 MB") as refused:
        check_fit("qwen2.5:7b", Network(), SMALL)
    assert "abaci recommend --task chat" in refused.value.hint
    assert server.asked == []
    check_fit("qwen2.5:7b", Network(), Memory(0, 64 << 30))


def test_what_no_catalog_knows_is_judged_by_its_header(server):
    server.repositories = {"maker/tiny": {"tiny.Q8_0.gguf": golden_path("llama").read_bytes() + PADDING}}
    check_fit("hf.co/maker/tiny", Network(), Memory(0, 100 << 20))
    with pytest.raises(ResourceError, match="cannot run here"):
        check_fit("hf.co/maker/tiny", Network(), Memory(0, 10 << 20))


def test_an_architecture_that_does_not_run_is_refused(server, tmp_path):
    path = tmp_path / "foreign.gguf"
    write_gguf(path, {"general.architecture": "abacus"}, [("t", WeightFormat.F32, (64,), bytes(256))])
    server.repositories = {"maker/foreign": {"foreign.F32.gguf": path.read_bytes() + PADDING}}
    with pytest.raises(UnsupportedModelError, match="abacus") as refused:
        check_fit("hf.co/maker/foreign", Network(), SMALL)
    assert "--force" in refused.value.hint


@pytest.mark.parametrize("name", ["hf.co/maker/none", "abacus:1b", "./nowhere.gguf"])
def test_what_cannot_be_known_is_left_to_who_fetches(server, name):
    check_fit(name, Network(), SMALL)
    check_fit(name, Network(offline_because="--offline"), SMALL)


def test_a_name_is_described_by_the_best_that_is_at_hand(server):
    server.repositories = {"maker/tiny": {"tiny.Q8_0.gguf": golden_path("llama").read_bytes()}}
    assert describe_model("hf.co/maker/tiny", Network()).basis is Basis.HEADER
    assert describe_model(str(golden_path("llama")), Network()).basis is Basis.FILE
    assert describe_model("qwen2.5:7b", Network(offline_because="--offline")).basis is Basis.CATALOG
    with pytest.raises(OfflineError):
        describe_model("hf.co/maker/tiny", Network(offline_because="--offline"))
    with pytest.raises(ModelNotFoundError):
        describe_model("abacus:1b", Network())


def test_a_file_that_another_tool_has_is_read_where_it_is(server, tmp_path, monkeypatch):
    folder = tmp_path / "studio" / "maker" / "tiny"
    folder.mkdir(parents=True)
    (folder / "tiny.Q8_0.gguf").write_bytes(golden_path("llama").read_bytes())
    monkeypatch.setenv("LM_STUDIO_MODELS", str(tmp_path / "studio"))
    described = describe_model("lmstudio/maker/tiny", Network(offline_because="--offline"))
    assert described.footprint == describe_file(golden_path("llama"), "llama").footprint


def test_the_type_of_the_cache_is_counted_whatever_is_known(server):
    server.repositories = {"maker/tiny": {"tiny.Q8_0.gguf": golden_path("llama").read_bytes()}}
    offline = Network(offline_because="--offline")
    for name, network, head_dim in (
        ("hf.co/maker/tiny", Network(), 32),
        (str(golden_path("llama")), Network(), 32),
        ("qwen2.5:7b", offline, 128),
    ):
        (large,) = describe_model(name, network).footprint.page_bytes
        (small,) = describe_model(name, network, CacheType.INT8).footprint.page_bytes
        assert small * 2 * head_dim == large * (head_dim + 2 * -(-head_dim // 32))
