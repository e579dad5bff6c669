"""Messages of a conversation, as people and OpenAI's clients write them, checked once and frozen.

Knows nothing of templates or tokens.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Final

from abaci.errors import UsageError


class Role(StrEnum):
    """Who speaks. `developer` is OpenAI's newer name for `system` and is read as it."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function the assistant asked for."""

    name: str
    arguments: Mapping[str, Any]
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `content` is None only where the assistant did nothing but call tools."""

    role: Role
    content: str | None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    parts: tuple[str, ...] = ()
    """The texts that `content` was put together from, if there were several: some templates trim each."""

    def to_template(self) -> dict[str, Any]:
        """The mapping that chat templates expect; what is not set is not there. Those of gpt-oss read `thinking`."""
        given: dict[str, Any] = {"role": self.role.value}
        for key in ("content", "name", "reasoning_content", "tool_call_id"):
            if (value := getattr(self, key)) is not None:
                given[key] = value
        if self.reasoning_content is not None:
            given["thinking"] = self.reasoning_content
        if self.tool_calls:
            given["tool_calls"] = [_call_to_template(call) for call in self.tool_calls]
        return given


Conversation = Sequence[Message | Mapping[str, Any]]
"""What callers may give: messages, or mappings with `role` and `content`."""

_ROLE_NAMES: Final = {role.value: role for role in Role} | {"developer": Role.SYSTEM}
_MESSAGE_KEYS: Final = frozenset(field.name for field in fields(Message)) - {"parts"}
_TEXT_KEYS: Final = ("name", "reasoning_content", "tool_call_id")
_CALL_HINT: Final = 'A call is {"type": "function", "function": {"name": "f", "arguments": "{}"}}.'
_ARGUMENTS_HINT: Final = 'Send the arguments as the call had them, for example "{\\"city\\": \\"Oslo\\"}".'


def parse_messages(conversation: Conversation) -> tuple[Message, ...]:
    """Check a conversation. Raises UsageError that names the message and the key."""
    if isinstance(conversation, str | Mapping) or not isinstance(conversation, Sequence):
        raise UsageError(
            "a conversation is a list of messages", hint='For example [{"role": "user", "content": "Hello"}].'
        )
    if not conversation:
        raise UsageError("the conversation has no messages", hint="Give at least one message.")
    return tuple(
        message if isinstance(message, Message) else _parse_message(f"messages[{i}]", message)
        for i, message in enumerate(conversation)
    )


def _parse_message(place: str, given: Mapping[str, Any]) -> Message:
    if not isinstance(given, Mapping):
        raise UsageError(
            f"{place} is not a mapping with role and content", hint='Write it as {"role": "user", "content": "Hello"}.'
        )
    present = _with_one_reasoning(place, {key: value for key, value in given.items() if value is not None})
    if unknown := sorted(map(str, present.keys() - _MESSAGE_KEYS)):
        raise UsageError(
            f"{place} has keys that are not supported: {', '.join(unknown)}",
            hint=f"Leave them out; a message may have {', '.join(sorted(_MESSAGE_KEYS))}.",
        )
    role = _ROLE_NAMES.get(present["role"]) if isinstance(present.get("role"), str) else None
    if role is None:
        raise UsageError(f"{place}.role is {given.get('role')!r}", hint=f"Choose one of: {', '.join(_ROLE_NAMES)}.")
    for key in _TEXT_KEYS:
        if not isinstance(present.get(key, ""), str):
            raise UsageError(f"{place}.{key} is not text", hint="Write it as text, or leave it out.")
    calls = _parse_calls(f"{place}.tool_calls", present.get("tool_calls", ()))
    if calls and role is not Role.ASSISTANT:
        raise UsageError(
            f"{place}.tool_calls stands in a message of the role {role}",
            hint="Only the assistant calls tools; give its calls the role assistant, their results the role tool.",
        )
    texts = _parse_content(f"{place}.content", present.get("content"))
    content = None if texts is None else "".join(texts)
    if content is None and "reasoning_content" in present and not calls:
        content = ""  # an answer that ended within its thought
    if content is None and not calls:
        raise UsageError(f"{place}.content is missing", hint='Give the message a text; "" where there is none.')
    parts = texts if texts is not None and len(texts) > 1 else ()
    named = {key: present[key] for key in _TEXT_KEYS if key in present}
    return Message(role, content, tool_calls=calls, parts=parts, **named)


def _with_one_reasoning(place: str, present: dict[str, Any]) -> dict[str, Any]:
    """Servers name the thought `reasoning_content`, `reasoning` or both, and clients send back what they got."""
    if "reasoning" not in present:
        return present
    reasoning = present.pop("reasoning")
    if present.setdefault("reasoning_content", reasoning) != reasoning:
        raise UsageError(
            f"{place}.reasoning and {place}.reasoning_content say different things",
            hint="Send only one of them: reasoning_content.",
        )
    return present


def _parse_content(place: str, given: Any) -> tuple[str, ...] | None:
    """A text, or those of a list of parts of type "text"."""
    if given is None or isinstance(given, str):
        return None if given is None else (given,)
    if not isinstance(given, Sequence) or isinstance(given, bytes | bytearray):
        raise UsageError(
            f"{place} is neither text nor a list of parts",
            hint='Send text, or a list such as [{"type": "text", "text": "Hello"}].',
        )
    return tuple(_parse_part(f"{place}[{i}]", part) for i, part in enumerate(given))


def _parse_part(place: str, part: Any) -> str:
    if not isinstance(part, Mapping) or part.get("type") != "text":
        kind = part.get("type") if isinstance(part, Mapping) else part
        raise UsageError(
            f"{place} is of type {kind!r}; only text is supported", hint="Send parts of type 'text', or plain text."
        )
    text = part.get("text")
    if not isinstance(text, str):
        raise UsageError(f"{place}.text is not text", hint='A part is {"type": "text", "text": "Hello"}.')
    return text


def _parse_calls(place: str, given: Any) -> tuple[ToolCall, ...]:
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise UsageError(f"{place} is not a list", hint="Send a list of calls, or leave it out.")
    return tuple(
        call if isinstance(call, ToolCall) else _parse_call(f"{place}[{i}]", call) for i, call in enumerate(given)
    )


def _parse_call(place: str, given: Any) -> ToolCall:
    if not isinstance(given, Mapping) or given.get("type", "function") != "function":
        raise UsageError(f"{place} is not a call of type function", hint=_CALL_HINT)
    function = given.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UsageError(f"{place}.function has no name", hint=_CALL_HINT)
    call_id = given.get("id")
    if not isinstance(call_id, str | None):
        raise UsageError(f"{place}.id is not text", hint="Send the id that the call came with, or leave it out.")
    return ToolCall(
        function["name"], _parse_arguments(f"{place}.function.arguments", function.get("arguments")), call_id
    )


def _parse_arguments(place: str, given: Any) -> Mapping[str, Any]:
    """OpenAI sends JSON in a text, templates want what it means."""
    if isinstance(given, str):
        try:
            given = json.loads(given or "{}")
        except (ValueError, RecursionError):
            raise UsageError(f"{place} is not valid JSON", hint=_ARGUMENTS_HINT) from None
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise UsageError(f"{place} is not a JSON object", hint=_ARGUMENTS_HINT)
    return given


def _call_to_template(call: ToolCall) -> dict[str, Any]:
    given = {} if call.id is None else {"id": call.id}
    return {**given, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
