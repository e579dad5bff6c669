"""Ollama's messages as every dialect has them. Knows no model and no template."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from abaci.server.wire import ParameterError

_NAMES: Final = {
    "role": "role",
    "content": "content",
    "thinking": "reasoning_content",
    "tool_calls": "tool_calls",
    "tool_name": "name",
    "tool_call_id": "tool_call_id",
}
"""Keys of Ollama's messages, and what they are called here."""


def conversation_of(given: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The messages, not yet checked beyond their keys. Raises ParameterError that names the message."""
    return [_message(f"messages[{index}]", message) for index, message in enumerate(given)]


def _message(place: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
    message = {key: value for key, value in given.items() if value is not None}
    if message.pop("images", None):
        raise ParameterError("messages", f"{place}.images is not supported", hint="Only text is supported.")
    if unknown := sorted(message.keys() - _NAMES.keys()):
        raise ParameterError(
            "messages",
            f"{place} has keys that are not supported: {', '.join(unknown)}",
            hint=f"Leave them out; a message may have {', '.join(sorted(_NAMES))}.",
        )
    return {_NAMES[key]: value for key, value in message.items() if key != "tool_calls" or value}
