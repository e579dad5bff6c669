"""`abaci ps`: what a running server has in memory."""

import time
from typing import Any

from abaci.cli.server_client import DEFAULT_URL, KeyOption, UrlOption, call
from abaci.cli.terminal import JsonOption, megabytes, print_json, print_line, print_text, table


def ps(url: UrlOption = DEFAULT_URL, api_key: KeyOption = None, as_json: JsonOption = False) -> None:
    """List the models a running server has loaded."""
    models = call(url, "/v1/models", api_key)["data"]
    loaded = [model for model in models if model["status"]["value"] != "unloaded"]
    if as_json:
        print_json(loaded)
    elif not loaded:
        print_line(f"no model is loaded at {url}")
    else:
        header = ("NAME", "SIZE", "CONTEXT", "STATE", "REQUESTS", "UNTIL")
        print_text(table([header, *(_row(model) for model in loaded)]))


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    status = model["status"]
    memory = status["memory_bytes"]
    return (
        model["id"],
        "" if memory is None else megabytes(memory),
        "" if model["max_model_len"] is None else f"{model['max_model_len']:,}",
        status["value"],
        str(status["active"]),
        _until(status["idle_until"], status["active"]),
    )


def _until(seconds: float | None, num_active: int) -> str:
    """When it is unloaded, for people."""
    if num_active:
        return "in use"
    if seconds is None:
        return "stays"
    left = max(0, round(seconds - time.time()))
    return f"{left // 60} min {left % 60} s"
