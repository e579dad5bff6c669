"""From a chat request to a generation request, and to the readers of its answers.

Here the parts of `chat` meet: messages and tools are rendered, thinking is planned, tool choices become constraints.
Knows nothing of engines or wires.

- Tools a template knows are its own business. For others they are explained in a system message, and calls are plain
  JSON; calls in the history are then told as text.
- `tool_choice` none: the tools are not shown. Required and named: a grammar holds the answer to calls, and a response
  form is moot. Auto: the model decides; a response form, or strict functions, still bind what it decides for.
- A constraint begins after the thought.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from abaci.chat.answer import ChatRequest, ToolChoice, ToolChoiceMode
from abaci.chat.calling import CallConstraints
from abaci.chat.messages import Message, parse_messages
from abaci.chat.parsers import ToolDialect, tool_dialect, tool_dialects
from abaci.chat.parsers.think import ThinkParser, ThoughtTags
from abaci.chat.prompt import render_chat
from abaci.chat.reading import AnswerReader, ToolReading
from abaci.chat.requests import check_params, stop_strings
from abaci.chat.served import TextModel
from abaci.chat.text import TextAssembler
from abaci.chat.thinking import ThinkingPlan
from abaci.chat.tools import Function, explain_tools, knows_calls, knows_tools, parse_tools, tell_calls
from abaci.errors import UsageError
from abaci.formats.tokenizer import Tokenizer
from abaci.generation import Constraint, GenerationRequest, SamplingParams

_FORCED: Final = (ToolChoiceMode.REQUIRED, ToolChoiceMode.NAMED)


@dataclass(frozen=True, slots=True)
class PreparedChat:
    """A chat ready to submit. `prompt` is the text of its prompt, special tokens by name."""

    request: GenerationRequest
    prompt: str
    tokenizer: Tokenizer
    params: SamplingParams
    can_think: bool
    is_thinking: bool
    """The answer begins inside a thought."""
    thought_tags: ThoughtTags
    tools: ToolReading | None

    def new_reader(self, sample_index: int) -> AnswerReader:
        """For the events of one sample."""
        special = self.tokenizer.special_tokens
        markers = [
            *((self.thought_tags.marker, self.thought_tags.end) if self.can_think else ()),
            *(self.tools.dialect.markers if self.tools else ()),
        ]
        assembler = TextAssembler(
            self.tokenizer,
            stop=stop_strings(self.params),
            include_stop=self.params.include_stop_str_in_output,
            skip_special=self.params.skip_special_tokens,
            shown_special=[special[marker] for marker in markers if marker in special],
            min_tokens=self.params.min_tokens,
        )
        reads_thoughts = self.tools is not None and self.tools.dialect.has_thoughts
        think = (
            ThinkParser(is_open=self.is_thinking, tags=self.thought_tags)
            if self.can_think and not reads_thoughts
            else None
        )
        return AnswerReader(sample_index, assembler, think=think, tools=self.tools)


def prepare(text: TextModel, request: ChatRequest, request_id: str) -> PreparedChat:
    """Turn a chat into what a generator takes.

    Raises UsageError that names what is malformed or cannot be honoured, ContextLengthError where the prompt leaves no
    room for an answer, FileFormatError for a template beyond its limits.
    """
    check_params(request.params)
    source = text.template.source
    tools = _Tools.make(request, source)
    plan = ThinkingPlan.make(source, request.reasoning, request.template_variables)
    pieces = render_chat(
        text.template,
        text.tokenizer,
        tools.written_into(parse_messages(request.messages)),
        tools=tools.for_template,
        add_generation_prompt=request.add_generation_prompt,
        variables=plan.variables,
    )
    is_constrained = request.params.constraint is not None or (tools.is_constraining and not tools.are_apart)
    addition, is_thinking = "", False
    if request.add_generation_prompt and not (tools.are_forced and tools.are_apart):
        addition, is_thinking = plan.ending(_spelled(pieces, text.tokenizer), is_constrained=is_constrained)
    pieces = _with_ending(pieces, text.tokenizer.split_special(addition))
    constraint = tools.constraint(text.tokenizer, request.params.constraint, after_thought=is_thinking)
    params = replace(request.params, constraint=constraint)
    resolved = text.rules.resolve(params, text.tokenizer.encode_pieces(pieces, add_bos=False), request_id)
    if is_thinking and (constraint is not None or plan.budget_tokens is not None):
        resolved = replace(resolved, thinking=plan.thinking(text.tokenizer, resolved.max_tokens))
    return PreparedChat(
        request=resolved,
        prompt=_spelled(pieces, text.tokenizer),
        tokenizer=text.tokenizer,
        params=params,
        can_think=plan.can_think and request.add_generation_prompt,
        is_thinking=is_thinking,
        thought_tags=plan.tags,
        tools=tools.reading,
    )


@dataclass(frozen=True, slots=True)
class _Tools:
    """The tools of a request as this model's template takes them."""

    functions: tuple[Function, ...]
    definitions: Sequence[Mapping[str, Any]]
    choice: ToolChoice
    allow_parallel: bool
    dialect: ToolDialect
    is_explained: bool
    """The template knows no tools: a system message tells of them."""
    tells_calls: bool
    """The template knows no calls: earlier ones are told as text."""

    @classmethod
    def make(cls, request: ChatRequest, source: str) -> "_Tools":
        functions = parse_tools(request.tools)
        choice = request.tool_choice
        if choice.mode in _FORCED and not functions:
            raise UsageError(
                f"tool_choice {choice.mode}: there are no tools to call",
                hint="Give tools as well, or leave tool_choice out.",
            )
        if choice.mode is ToolChoiceMode.NAMED:
            named = tuple(function for function in functions if function.name == choice.name)
            if not named:
                raise UsageError(
                    f"tool_choice names the function {choice.name!r}, which is not among the tools",
                    hint=f"Choose one of: {', '.join(function.name for function in functions)}.",
                )
            functions = named
        is_offered = choice.mode is not ToolChoiceMode.NONE
        is_native = knows_tools(source)
        return cls(
            functions if is_offered else (),
            request.tools if is_offered else (),
            choice,
            request.allow_parallel_tool_calls and choice.mode is not ToolChoiceMode.NAMED,
            tool_dialect(source) if is_native else tool_dialects()["plain_json"],
            is_explained=bool(functions) and is_offered and not is_native,
            tells_calls=not knows_calls(source),
        )

    def written_into(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The conversation, with what the template would not say of tools."""
        if self.tells_calls:
            messages = tell_calls(messages)
        return explain_tools(messages, self.definitions) if self.is_explained else messages

    @property
    def for_template(self) -> Sequence[Mapping[str, Any]] | None:
        return self.definitions if self.definitions and not self.is_explained else None

    @property
    def are_apart(self) -> bool:
        """Whether calls are no part of the answer's text."""
        return self.dialect.has_thoughts

    @property
    def are_forced(self) -> bool:
        """Whether the answer must be calls."""
        return self.choice.mode in _FORCED

    @property
    def is_constraining(self) -> bool:
        """Whether calls have a constraint even where the answer has none."""
        return self.are_forced or any(function.is_strict for function in self.functions)

    def constraint(
        self, tokenizer: Tokenizer, response: Constraint | None, *, after_thought: bool
    ) -> Constraint | None:
        """What the answer is held to, given the form asked of it."""
        if not self.functions or (self.are_apart and not self.are_forced):
            return response
        constraints = CallConstraints(
            self.dialect,
            self.functions,
            tokenizer,
            allow_parallel=self.allow_parallel,
            after_thought=after_thought,
        )
        if self.are_forced:
            return constraints.required()
        return constraints.strict() if response is None else constraints.or_response(response)

    @property
    def reading(self) -> ToolReading | None:
        if not self.functions and not self.dialect.has_thoughts:
            return None
        return ToolReading(
            self.dialect,
            frozenset(function.name for function in self.functions),
            is_certain=self.are_forced,
            is_single=not self.allow_parallel,
            schemas={function.name: function.parameters for function in self.functions},
        )


def _with_ending(pieces: Sequence[str | int], ending: Sequence[str | int]) -> list[str | int]:
    """Both, with text that meets encoded as one."""
    if pieces and ending and isinstance(pieces[-1], str) and isinstance(ending[0], str):
        return [*pieces[:-1], pieces[-1] + ending[0], *ending[1:]]
    return [*pieces, *ending]


def _spelled(pieces: Sequence[str | int], tokenizer: Tokenizer) -> str:
    return "".join(tokenizer.token(piece) if isinstance(piece, int) else piece for piece in pieces)
