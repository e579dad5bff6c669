"""Whatever a client sends that fits the OpenAPI document, or nearly, the server does not fail over it."""

from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from scripted_server import ScriptedServer, scripted_server

from abaci.server.routes import ROUTES


@pytest.fixture(scope="module")
def running() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


def test_the_document_has_every_route_but_the_pages(running: ScriptedServer) -> None:
    paths = httpx.get(f"{running.url}/openapi.json", trust_env=False).json()["paths"]
    pages = {"/", "/dashboard", "/favicon.svg", "/assets/{path:path}", "/openapi.json"}
    assert set(paths) == {route.path.replace(":path}", "}") for route in ROUTES if route.path not in pages}


def test_no_server_error(running: ScriptedServer) -> None:
    document = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
    num_operations = 0
    for found in document.get_all_operations():
        operation = found.ok()

        @settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def call(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=[not_a_server_error])

        call()
        num_operations += 1
    assert num_operations > 20
