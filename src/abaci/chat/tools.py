"""The functions a model may call: OpenAI's definitions, checked once, and words for models that were not taught tools.

Knows nothing of tokens or grammars.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from abaci.chat.messages import Message, Role, ToolCall
from abaci.errors import UsageError

_NAME: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")
_TOOL_HINT: Final = 'A tool is {"type": "function", "function": {"name": ..., "parameters": {...}}}.'
_PARAMETERS_HINT: Final = 'Arguments are an object: {"type": "object", "properties": {"city": {"type": "string"}}}.'
_TOOLS_VARIABLE: Final = re.compile(r"""(?<![\w'".])tools(?![\w'"])""")
"""The variable, and not a key of messages, in which Phi-4-mini expects them."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function on offer. `parameters` is the JSON schema of its arguments, an object.

    `is_strict` asks that a call keep to the schema even where calling is up to the model.
    """

    name: str
    parameters: Mapping[str, Any]
    is_strict: bool = False


def parse_tools(tools: Sequence[Mapping[str, Any]]) -> tuple[Function, ...]:
    """Check definitions. Raises UsageError that names the tool and the key."""
    functions = tuple(_parse_tool(f"tools[{i}]", tool) for i, tool in enumerate(tools))
    seen: set[str] = set()
    for i, function in enumerate(functions):
        if function.name in seen:
            raise UsageError(
                f"tools[{i}].function.name: {function.name!r} is there twice",
                hint="Give every function a name of its own.",
            )
        seen.add(function.name)
    return functions


def _parse_tool(place: str, tool: Any) -> Function:
    if not isinstance(tool, Mapping) or tool.get("type", "function") != "function":
        kind = tool.get("type") if isinstance(tool, Mapping) else tool
        raise UsageError(f"{place} is of type {kind!r}", hint=_TOOL_HINT)
    function = tool.get("function")
    if not isinstance(function, Mapping):
        raise UsageError(
            f"{place}.function is missing",
            hint=_TOOL_HINT,
        )
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(
            f"{place}.function.name {name!r} cannot be called",
            hint="Choose a name of 1 to 64 letters, digits and characters of: _ . : / -",
        )
    if not isinstance(function.get("description"), str | None):
        raise UsageError(
            f"{place}.function.description is not text", hint="Say in words what the function does, or leave it out."
        )
    is_strict = function.get("strict")
    if not isinstance(is_strict, bool | None):
        raise UsageError(
            f"{place}.function.strict is neither true nor false", hint="Write true or false, or leave it out."
        )
    return Function(name, _parse_parameters(f"{place}.function.parameters", function), bool(is_strict))


def _parse_parameters(place: str, function: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema; a function without one takes no arguments."""
    parameters = function.get("parameters")
    if parameters is None:
        return {"type": "object", "properties": {}}
    if not isinstance(parameters, Mapping):
        raise UsageError(f"{place} is not a JSON schema", hint=_PARAMETERS_HINT)
    if parameters.get("type", "object") != "object":
        raise UsageError(f"{place}.type is {parameters['type']!r}", hint=_PARAMETERS_HINT)
    return {"type": "object", **parameters}


# For templates that know no tools.


def knows_tools(template_source: str) -> bool:
    """Whether a chat template tells the model of tools."""
    return _TOOLS_VARIABLE.search(template_source) is not None


def knows_calls(template_source: str) -> bool:
    """Whether a chat template shows the model the calls it made before."""
    return "tool_calls" in template_source


def explain_tools(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """The conversation with a system message that explains the tools, and plain JSON as the way to call them."""
    lines = [json.dumps(tool.get("function"), ensure_ascii=False) for tool in tools]
    explanation = "\n".join(
        [
            "You can call functions. These are available, one per line, with JSON schemas of their parameters:",
            *lines,
            'To call one, answer with nothing but {"name": <function name>, "arguments": <object of arguments>}; '
            "to call several, with a JSON list of such objects. If no function is needed, answer in plain words.",
        ]
    )
    first = messages[0]
    if first.role is Role.SYSTEM:
        content = f"{first.content or ''}\n\n{explanation}".lstrip()
        return (replace(first, content=content, parts=()), *messages[1:])
    return (Message(Role.SYSTEM, explanation), *messages)


def tell_calls(messages: Iterable[Message]) -> tuple[Message, ...]:
    """The conversation with earlier calls, and their results, as mere text: results are the user's words."""
    return tuple(_told(messages))


def _told(messages: Iterable[Message]) -> Iterator[Message]:
    results: list[str] = []
    names: dict[str, str] = {}
    for message in messages:
        if message.role is Role.TOOL:
            results.append(_result(message, names))
            continue
        if results:
            yield Message(Role.USER, "\n\n".join(results))
            results = []
        if message.tool_calls:
            names |= {call.id: call.name for call in message.tool_calls if call.id is not None}
            calls = _written(message.tool_calls)
            yield replace(message, content=f"{message.content or ''}\n{calls}".lstrip(), tool_calls=(), parts=())
        else:
            yield message
    if results:
        yield Message(Role.USER, "\n\n".join(results))


def _result(message: Message, names: Mapping[str, str]) -> str:
    name = message.name or names.get(message.tool_call_id or "")
    return f"Result of {name or 'the function'}:\n{message.content or ''}"


def _written(calls: Sequence[ToolCall]) -> str:
    values = [{"name": call.name, "arguments": call.arguments} for call in calls]
    return json.dumps(values[0] if len(values) == 1 else values, ensure_ascii=False)
