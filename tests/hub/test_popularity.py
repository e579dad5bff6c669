"""Download counts: asked for politely, believed carefully, missed by nobody."""

import threading

import pytest
from hub_server import running_hub

from abaci.hub import popularity
from abaci.hub.network import Network
from abaci.hub.popularity import download_counts


@pytest.fixture
def hub(monkeypatch):
    with running_hub() as server:
        server.repositories = {"maker/one": {}, "maker/two": {}, "maker/gated": {}}
        server.downloads = {"maker/one": 1234, "maker/two": 5}
        monkeypatch.setenv("HF_ENDPOINT", server.hub_url)
        yield server


def test_counts_are_the_hubs(hub):
    asked = ["maker/one", "maker/two", "maker/one", "maker/none"]
    assert download_counts(asked, Network()) == {"maker/one": 1234, "maker/two": 5}
    assert len(hub.asked) == 3


def test_no_token_is_sent(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    download_counts(["maker/one"], Network())
    assert all("authorization" not in one.headers for one in hub.asked)


def test_offline_nothing_is_asked(hub):
    assert download_counts(["maker/one"], Network(offline_because="--offline")) == {}
    assert hub.asked == []


@pytest.mark.parametrize("told", [-1, "many", True, None, 1.5])
def test_nonsense_is_no_count(hub, told):
    hub.downloads = {"maker/one": told}
    assert download_counts(["maker/one"], Network()) == {}


def test_a_hub_that_is_silent_costs_little(hub, monkeypatch):
    monkeypatch.setattr(popularity, "REACH_SECONDS", 0.2)
    hub.faults.silent = threading.Event()
    assert download_counts(["maker/one"], Network()) == {}
