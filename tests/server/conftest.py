"""A server for each test that asks for one."""

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
