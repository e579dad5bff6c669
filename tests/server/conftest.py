"""Servers for tests that ask for one."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from scripted_server import ScriptedServer


@pytest.fixture
def server() -> "Iterator[ScriptedServer]":
    """The whole server over models that answer from a script."""
    from scripted_server import scripted_server

    with scripted_server() as running:
        yield running


@pytest.fixture(scope="module")
def module_server() -> "Iterator[ScriptedServer]":
    """One for all tests of a file."""
    from scripted_server import scripted_server

    with scripted_server() as running:
        yield running


@pytest.fixture
def reused_server(module_server: "ScriptedServer") -> "ScriptedServer":
    """The file's server as if it had just started; for tests that leave no keys behind."""
    module_server.reset()
    return module_server
