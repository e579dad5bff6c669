"""Anthropic's conversation, turns of typed blocks, as messages. Knows no model and no template."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from abaci.chat.messages import Message, Role, ToolCall
from abaci.server.wire import ParameterError

_BLOCK_SEPARATOR: Final = "\n\n"
_BOOKKEEPING: Final = "x-anthropic-billing-header:"
"""Begins a block of the system prompt in which a client tells the API, not the model, something that changes with every
request. The model does not see it; otherwise no prefix would ever be found in the cache."""


def conversation_of(system: str | Sequence[Mapping[str, Any]] | None, turns: Sequence[Any]) -> list[Message]:
    """Messages as every dialect has them.

    Consecutive turns of one role are one, as Anthropic has it; the result of a tool is a message of its own. Raises
    ParameterError for what is no text, no call and no result.
    """
    messages = [] if system is None else [Message(Role.SYSTEM, _system_text(system))]
    for index, turn in enumerate(turns):
        for message in _turn_messages(f"messages[{index}]", turn):
            if messages and _belongs_to(messages[-1], message):
                messages[-1] = _joined(messages[-1], message)
            else:
                messages.append(message)
    messages = [_complete(message) for message in messages]
    if messages and messages[-1].role is Role.ASSISTANT:
        raise ParameterError(
            "messages", "the last message is the assistant's", hint="Answers cannot be prefilled; end with the user."
        )
    return messages


def _system_text(given: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(given, str):
        return given
    texts = [_text(f"system[{index}]", block) for index, block in enumerate(given)]
    return _BLOCK_SEPARATOR.join(text for text in texts if not text.startswith(_BOOKKEEPING))


def _turn_messages(place: str, turn: Any) -> Iterable[Message]:
    role = turn.get("role") if isinstance(turn, Mapping) else None
    if role not in ("user", "assistant", "system"):
        raise ParameterError("messages", f"{place}.role is {role!r}", hint="Choose one of: user, assistant.")
    content = turn.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, Sequence):
        raise ParameterError(
            "messages",
            f"{place}.content is neither text nor a list of blocks",
            hint='A block is, for example, {"type": "text", "text": "Hello"}.',
        )
    read = _assistant_message if role == "assistant" else _user_message
    for index, block in enumerate(content):
        message = read(f"{place}.content[{index}]", block)
        yield replace(message, role=Role.SYSTEM) if role == "system" else message


def _user_message(place: str, block: Any) -> Message:
    match block:
        case {"type": "tool_result", "tool_use_id": str(call_id)}:
            result = _result_text(f"{place}.content", block.get("content"))
            return Message(Role.TOOL, f"Error: {result}" if block.get("is_error") else result, tool_call_id=call_id)
        case {"type": "tool_result"}:
            raise ParameterError(
                "messages",
                f"{place}.tool_use_id is missing",
                hint="Send the id of the tool_use that this is the result of.",
            )
    return Message(Role.USER, _text(place, block))


def _result_text(place: str, content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, Sequence):
        raise ParameterError(
            "messages",
            f"{place} is neither text nor a list of blocks",
            hint='A block is, for example, {"type": "text", "text": "Hello"}.',
        )
    return _BLOCK_SEPARATOR.join(_text(f"{place}[{index}]", block) for index, block in enumerate(content))


def _assistant_message(place: str, block: Any) -> Message:
    match block:
        case {"type": "tool_use", "id": str(call_id), "name": str(name), "input": dict(arguments)}:
            return Message(Role.ASSISTANT, None, tool_calls=(ToolCall(name, arguments, call_id),))
        case {"type": "tool_use"}:
            raise ParameterError(
                "messages", f"{place} lacks an id, a name or an input", hint="Send the block back as the answer had it."
            )
        case {"type": "thinking", "thinking": str(thought)}:
            return Message(Role.ASSISTANT, None, reasoning_content=thought)
    return Message(Role.ASSISTANT, _text(place, block))


def _text(place: str, block: Any) -> str:
    match block:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "text"}:
            raise ParameterError(
                _parameter(place), f"{place}.text is missing", hint="Send a text, or leave the block out."
            )
    kind = block.get("type") if isinstance(block, Mapping) else block
    raise ParameterError(
        _parameter(place),
        f"{place} is of type {str(kind)[:60]!r}",
        hint="Send text; turns of the assistant may also have tool_use and thinking, turns of the user tool_result.",
    )


def _parameter(place: str) -> str:
    return place.partition("[")[0]


def _belongs_to(before: Message, message: Message) -> bool:
    return before.role is message.role and message.role in (Role.USER, Role.ASSISTANT)


def _joined(before: Message, message: Message) -> Message:
    return replace(
        before,
        content=_both(before.content, message.content),
        reasoning_content=_both(before.reasoning_content, message.reasoning_content),
        tool_calls=before.tool_calls + message.tool_calls,
    )


def _complete(message: Message) -> Message:
    """An assistant that only thought has said nothing, which is not the same as no content beside calls."""
    is_empty = message.content is None and not message.tool_calls
    return replace(message, content="") if is_empty else message


def _both(first: str | None, second: str | None) -> str | None:
    if first is None or second is None:
        return second if first is None else first
    return f"{first}{_BLOCK_SEPARATOR}{second}"
