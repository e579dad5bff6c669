"""The table of routes and the router say the same; every setting is documented."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from scripted_server import ScriptedServer, scripted_server
from starlette.routing import BaseRoute
from starlette.routing import Route as BoundRoute

from abaci.server.app import create_api
from abaci.server.config import ServerConfig
from abaci.server.routes import ROUTES, Route, RouteTable, Rule

KEY = "the-key"


@pytest.fixture(scope="module")
def locked() -> Iterator[ScriptedServer]:
    with scripted_server(api_key=KEY) as running:
        yield running


def test_every_route_has_a_rule_and_every_rule_a_route(server: ScriptedServer) -> None:
    bound = {pair for route in create_api(server.services).routes for pair in _pairs(route)}
    listed = {(route.path, method) for route in ROUTES for method in route.methods}
    assert {pair for pair in bound if pair[1] != "HEAD"} == {pair for pair in listed if pair[1] != "HEAD"}


def _pairs(route: BaseRoute) -> set[tuple[str, str]]:
    assert isinstance(route, BoundRoute)
    return {(route.path, method) for method in route.methods or ()}


def _sample(route: Route) -> str:
    """A path that it matches."""
    return route.path.replace(":path}", "}").replace("{", "").replace("}", "")


def test_a_path_has_one_rule() -> None:
    table = RouteTable()
    for route in ROUTES:
        sample = _sample(route)
        rules = {found.rule for found in table.find(sample) if set(found.methods) & set(route.methods)}
        assert rules == {route.rule}, route.path


def test_only_pages_and_probes_are_public() -> None:
    public = {route.path for route in ROUTES if route.rule is Rule.PUBLIC}
    assert public == {"/", "/dashboard", "/favicon.svg", "/assets/{path:path}", "/health", "/ping", "/version"}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_without_a_key_nothing_else_answers(locked: ScriptedServer, route: Route) -> None:
    path = _sample(route)
    for method in route.methods:
        status = httpx.request(method, locked.url + path, json={}, trust_env=False).status_code
        assert (status == 401) == (route.rule is not Rule.PUBLIC)


def test_every_setting_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    missing = [name for name in ServerConfig.model_fields if f"| `{name}` |" not in text]
    assert not missing
