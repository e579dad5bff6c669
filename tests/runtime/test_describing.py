"""Models described from their files, from headers over the network, and from the catalog: the same footprint."""

import sys
from pathlib import Path

import pytest
from golden_models import GOLDEN_NAMES, golden_path

sys.path.append(str(Path(__file__).parents[1] / "hub"))
from hub_server import HubServer, running_hub

from abaci import hub
from abaci.errors import DownloadError, FileFormatError, OfflineError, UnsupportedModelError
from abaci.hub.huggingface import list_repository
from abaci.hub.network import Network
from abaci.hub.repositories import wanted_model
from abaci.runtime.describing import Basis, describe_catalog_model, describe_file, describe_remote

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
