"""What is asked of a chat model and what comes back, whichever wire it travels on: the neutral form of a chat.

The servers' dialects (OpenAI, Anthropic, Ollama) translate to and from these values and to nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from abaci.chat.messages import Conversation
from abaci.generation import FinishReason, SamplingParams, TokenLogprob


class ToolChoiceMode(StrEnum):
    """Whether the model may, must or must not call tools."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"
    NAMED = "named"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`name` is the function to call where the mode is NAMED."""

    mode: ToolChoiceMode = ToolChoiceMode.AUTO
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ReasoningOptions:
    """How much to think. None leaves it to the model's template.

    `effort` is passed to templates that know one, and is a budget for others. `budget_tokens` ends the thought by
    force, with `closing_sentence` (None: a plain one).
    """

    is_enabled: bool | None = None
    effort: str | None = None
    budget_tokens: int | None = None
    closing_sentence: str | None = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One chat to answer. `tools` are OpenAI's function definitions: {"type": "function", "function": {...}}."""

    messages: Conversation
    params: SamplingParams = field(default_factory=SamplingParams)
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    allow_parallel_tool_calls: bool = True
    reasoning: ReasoningOptions = field(default_factory=ReasoningOptions)
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool = True


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call.

    The first of an `index` has id and name and no arguments yet; the arguments of all, joined, are valid JSON.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class AnswerDelta:
    """What is new in one sample of an answer. The last delta of a sample has its `finish_reason`.

    `token_ids` and `logprobs` are those of the event this came from, the token that ended the sample included.
    `stopped_by_string` says that the generator does not know yet that the sample has ended: cancel it there. Set too
    where the only call that was wanted is complete.
    """

    sample_index: int
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    has_tool_calls: bool = False
    """With a `finish_reason`: the sample called tools, and OpenAI's reason is "tool_calls" where this one is STOP."""
    stopped_by_string: bool = False
    stop_string: str | None = None
    """The stop string that ended the sample, if one did."""
    error: Exception | None = None

    @property
    def is_empty(self) -> bool:
        """Nothing a reader could see."""
        return not (self.content or self.reasoning or self.tool_calls or self.finish_reason)
