"""`tool_choice`, which chats and responses spell alike but for the shape of a named function."""

from collections.abc import Mapping
from typing import Any

from abaci.chat.answer import ToolChoice, ToolChoiceMode
from abaci.server.wire import ParameterError


def read_tool_choice(
    given: str | Mapping[str, Any] | None, named: str | None, example: str, *, has_tools: bool
) -> ToolChoice:
    """The choice; `named` is the function that `given` names, None if it names none. Raises ParameterError."""
    match given:
        case None:
            return ToolChoice()
        case "auto" | "none" | "required":
            choice = ToolChoice(ToolChoiceMode(given))
        case _ if named is not None:
            choice = ToolChoice(ToolChoiceMode.NAMED, named)
        case _:
            raise ParameterError("tool_choice", "tool_choice must be none, auto, required or a function", hint=example)
    if choice.mode in (ToolChoiceMode.REQUIRED, ToolChoiceMode.NAMED) and not has_tools:
        raise ParameterError(
            "tool_choice",
            "tool_choice asks for a call, and there are no tools",
            hint="Send tools as well, or leave tool_choice out.",
        )
    return choice
