"""Items of the Responses API as messages, and as the API lists them. Knows no model and no store."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from abaci.chat.messages import Message, Role, parse_messages
from abaci.server.wire import ParameterError

Item = Mapping[str, Any]

_TEXT_PARTS: Final = frozenset({"input_text", "output_text", "text", "reasoning_text", "summary_text"})


def new_id(prefix: str) -> str:
    """An id of the API: what it names, and random digits."""
    return f"{prefix}_{secrets.token_hex(24)}"


def input_items(given: str | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The input as items with types and ids. Raises ParameterError."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    return [_complete(f"input[{index}]", item) for index, item in enumerate(given)]


def messages_of(items: Iterable[Item]) -> list[Message]:
    """A conversation; what the assistant thought, said and called in one turn is one message.

    Raises ParameterError that names the item, UsageError for arguments that are no JSON.
    """
    messages: list[Message] = []
    for index, item in enumerate(items):
        message = _message(f"input[{index}]", item)
        if messages and _is_same_turn(messages[-1], message):
            messages[-1] = _joined(messages[-1], message)
        else:
            messages.append(message)
    return [
        replace(message, content="") if message.content is None and not message.tool_calls else message
        for message in messages
    ]


def _complete(place: str, item: Mapping[str, Any]) -> dict[str, Any]:
    kind = item.get("type") or ("message" if "role" in item else None)
    if kind not in ("message", "function_call", "function_call_output", "reasoning"):
        raise ParameterError(
            "input",
            f"{place} is of type {str(kind)[:60]!r}",
            hint="Choose one of: message, function_call, function_call_output, reasoning.",
        )
    complete = {**item, "type": kind}
    if kind == "message" and isinstance(item.get("content"), str):
        part = "output_text" if item.get("role") == "assistant" else "input_text"
        complete["content"] = [{"type": part, "text": item["content"]}]
    if not isinstance(item.get("id"), str):
        complete["id"] = new_id("msg" if kind == "message" else "item")
    return complete


def _message(place: str, item: Item) -> Message:
    match item:
        case {"type": "message", "role": "user" | "system" | "developer" | "assistant" as role}:
            role = "system" if role == "developer" else role
            return Message(Role(role), _text(f"{place}.content", item.get("content")))
        case {"type": "function_call", "name": str(name), "call_id": str(call_id), "arguments": str(arguments)}:
            call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
            (message,) = parse_messages([{"role": "assistant", "content": None, "tool_calls": [call]}])
            return message
        case {"type": "function_call_output", "call_id": str(call_id)}:
            return Message(Role.TOOL, _text(f"{place}.output", item.get("output")), tool_call_id=call_id)
        case {"type": "reasoning"}:
            thought = item.get("content") or item.get("summary") or ""
            return Message(Role.ASSISTANT, None, reasoning_content=_text(f"{place}.content", thought))
        case {"type": "message"}:
            raise ParameterError(
                "input",
                f"{place}.role is {str(item.get('role'))[:60]!r}",
                hint="Choose one of: user, assistant, system, developer.",
            )
    raise ParameterError(
        "input",
        f"{place} lacks a call_id, or as a call a name or arguments",
        hint="Send the item back as the answer had it; a result has call_id and output.",
    )


def _text(place: str, content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise ParameterError(
            "input",
            f"{place} is neither text nor a list of parts",
            hint='Send text, or a list such as [{"type": "input_text", "text": "Hello"}].',
        )
    return "".join(_part_text(f"{place}[{index}]", part) for index, part in enumerate(content))


def _part_text(place: str, part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else part
    if kind == "refusal" and isinstance(part.get("refusal"), str):
        return str(part["refusal"])
    if kind not in _TEXT_PARTS or not isinstance(part.get("text"), str):
        raise ParameterError(
            "input",
            f"{place} is of type {str(kind)[:60]!r}",
            hint="Send parts of type input_text or output_text, or plain text.",
        )
    return str(part["text"])


def _is_same_turn(before: Message, message: Message) -> bool:
    """Thought, then words, then calls; anything out of that order begins anew."""
    if not (before.role is message.role is Role.ASSISTANT) or message.reasoning_content is not None:
        return False
    return bool(message.tool_calls) or (before.content is None and not before.tool_calls)


def _joined(before: Message, message: Message) -> Message:
    content = before.content if message.content is None else message.content
    return replace(before, content=content, tool_calls=before.tool_calls + message.tool_calls)
