"""What every test may count on: no network, no weights kept by earlier runs, the real models that `make test` fetched.

Standing here, it also makes the support modules beside it importable from every test folder.
"""

import ipaddress
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from abaci import hub
from abaci.errors import AbaciError
from abaci.kernels.packed_store import SIZE_VARIABLE
from abaci.runtime.journal import SWITCH_VARIABLE


def pytest_configure() -> None:
    """Keep no packed weights and no journal, in this process and those it starts: what is loaded is packed.

    No example of a property test has a time limit: that of a whole test is enough on a busy machine.
    """
    os.environ[SIZE_VARIABLE] = "0"
    os.environ[SWITCH_VARIABLE] = "0"
    settings.register_profile("patient", settings(), deadline=None)
    settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What compiles for minutes, and so has a time limit of its own, comes first: the workers share the rest."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that leaves this machine."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
            self.close()
            raise AssertionError(f"a test reached for {address}")
        connect(self, address)

    def connect_ex_here(self: socket.socket, address: Any) -> int:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
            self.close()
            raise AssertionError(f"a test reached for {address}")
        return connect_ex(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)
    monkeypatch.setattr(socket.socket, "connect_ex", connect_ex_here)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2 135M, fetched by `make test`. Missing weights fail: a skipped test proves nothing."""
    return _fetched("smollm2:135m")


@pytest.fixture(scope="session")
def qwen_path() -> Path:
    """The default model, for checks that `make test` does not run."""
    return _fetched("qwen2.5-coder:0.5b")


@pytest.fixture(scope="session")
def gemma_path() -> Path:
    """Gemma 3 270M, for checks that `make test` does not run."""
    return _fetched("gemma3:270m")


def _fetched(name: str) -> Path:
    try:
        return hub.resolve(name, download=False).path
    except AbaciError as error:
        pytest.fail(f"{error.message}; fetch it first: abaci pull {name}")
