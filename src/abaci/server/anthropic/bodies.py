"""Request bodies of Anthropic's Messages API, and what they ask for in the neutral form of a chat."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from abaci.chat.answer import ChatRequest, ReasoningOptions, ToolChoice, ToolChoiceMode
from abaci.chat.structured import constraint_of
from abaci.generation import Constraint, SamplingParams
from abaci.server.anthropic.conversation import conversation_of
from abaci.server.wire import ParameterError, WireBody

_MAX_STOP_SEQUENCES = 64

_NOT_SUPPORTED = {
    "container": "Nothing is executed here; give the model tools of your own.",
    "mcp_servers": "Call the servers yourself and give the model tools of your own.",
    "context_management": "Nothing is removed silently; shorten the conversation.",
    "inference_geo": "The answer is made on this machine.",
    "speed": "There is one speed.",
    "top_a": "Use top_p.",
}


class _Effort(WireBody):
    """`output_config`: how hard to think, and the form of the answer."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: dict[str, Any] | None = None


class _Thinking(WireBody):
    """`thinking`."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(default=None, ge=1)
    display: Literal["summarized", "omitted"] | None = None


class _Choice(WireBody):
    """`tool_choice`."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class _Tool(WireBody):
    """A tool of the client's; those that run on Anthropic's servers have another type."""

    name: str = Field(min_length=1)
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    type: str | None = None
    strict: bool | None = None
    defer_loading: bool = False


class PromptBody(WireBody):
    """`/v1/messages/count_tokens`: what belongs to a prompt."""

    model: str
    messages: list[dict[str, Any]]
    system: str | list[dict[str, Any]] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _Choice | None = None
    thinking: _Thinking | None = None
    output_config: _Effort | None = None
    cache_control: dict[str, Any] | None = None

    @classmethod
    def refused_parameters(cls) -> Mapping[str, str]:
        return _NOT_SUPPORTED

    def chat_request(self, params: SamplingParams) -> ChatRequest:
        """The neutral form. Raises ParameterError, UsageError."""
        return ChatRequest(
            messages=conversation_of(self.system, self.messages),
            params=params,
            tools=tuple(_function(index, tool) for index, tool in enumerate(self.tools or ())),
            tool_choice=self._tool_choice(),
            allow_parallel_tool_calls=self.tool_choice is None or not self.tool_choice.disable_parallel_tool_use,
            reasoning=self._reasoning(),
        )

    @property
    def shows_thinking(self) -> bool:
        """Whether the thought is part of the answer."""
        return self.thinking is None or self.thinking.display != "omitted"

    def constraint(self) -> Constraint | None:
        """The form the answer must have."""
        form = None if self.output_config is None else self.output_config.format
        match form:
            case None:
                return None
            case {"type": "json_schema", "schema": dict(schema)}:
                described = {"name": "output", "schema": schema, "strict": True}
                return constraint_of(response_format={"type": "json_schema", "json_schema": described})
        raise ParameterError(
            "output_config",
            "output_config.format is not of type json_schema, or has no schema",
            hint='For example {"type": "json_schema", "schema": {"type": "object"}}.',
        )

    def _tool_choice(self) -> ToolChoice:
        choice = self.tool_choice
        if choice is None or choice.type == "auto":
            return ToolChoice(ToolChoiceMode.AUTO)
        if choice.type == "none":
            return ToolChoice(ToolChoiceMode.NONE)
        if not self.tools:
            raise ParameterError(
                "tool_choice",
                f"tool_choice is {choice.type}, and there are no tools",
                hint="Send tools as well, or leave tool_choice out.",
            )
        if choice.type == "any":
            return ToolChoice(ToolChoiceMode.REQUIRED)
        if choice.name is None:
            raise ParameterError(
                "tool_choice",
                "tool_choice.name is missing",
                hint="Name one of the tools, or choose any of them with the type any.",
            )
        return ToolChoice(ToolChoiceMode.NAMED, choice.name)

    def _reasoning(self) -> ReasoningOptions:
        """Without `thinking`, and where it is adaptive, the model's template decides."""
        effort = None if self.output_config is None else self.output_config.effort
        thinking = self.thinking
        if thinking is None or thinking.type == "adaptive":
            return ReasoningOptions(None, effort)
        if thinking.type == "disabled":
            return ReasoningOptions(False, effort)
        if thinking.budget_tokens is None:
            raise ParameterError(
                "thinking",
                "thinking.budget_tokens is missing",
                hint="Send a number of tokens less than max_tokens, or the type adaptive.",
            )
        return ReasoningOptions(True, effort, thinking.budget_tokens)


class MessagesBody(PromptBody):
    """`/v1/messages`."""

    max_tokens: int = Field(ge=1)
    stop_sequences: list[str] | None = Field(default=None, max_length=_MAX_STOP_SEQUENCES)
    stream: bool | None = None
    temperature: float | None = Field(default=None, ge=0)
    top_k: int | None = Field(default=None, ge=1)
    top_p: float | None = Field(default=None, gt=0, le=1)
    metadata: dict[str, Any] | None = None
    service_tier: Literal["auto", "standard_only"] | None = None

    def asked(self) -> ChatRequest:
        """The chat to answer. Raises ParameterError, UsageError."""
        budget = None if self.thinking is None else self.thinking.budget_tokens
        if budget is not None and budget >= self.max_tokens:
            raise ParameterError(
                "thinking",
                f"thinking.budget_tokens ({budget}) leaves nothing of max_tokens ({self.max_tokens}) for an answer",
                hint="Lower budget_tokens, or raise max_tokens above it.",
            )
        return self.chat_request(
            SamplingParams(
                temperature=self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
                stop=tuple(self.stop_sequences or ()),
                max_tokens=self.max_tokens,
                constraint=self.constraint(),
            )
        )


def _function(index: int, tool: _Tool) -> dict[str, Any]:
    """OpenAI's definition of the same tool."""
    place = f"tools[{index}]"
    if tool.type not in (None, "custom"):
        raise ParameterError(
            "tools", f"{place} is of type {tool.type!r}", hint="Only tools that the client runs are supported."
        )
    if tool.defer_loading:
        raise ParameterError("tools", f"{place}.defer_loading is not supported", hint="All tools are in the prompt.")
    if tool.input_schema is None:
        raise ParameterError(
            "tools", f"{place}.input_schema is missing", hint='For a tool without arguments send {"type": "object"}.'
        )
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}
