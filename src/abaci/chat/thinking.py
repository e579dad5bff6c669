"""How much a model thinks before it answers: switches of its template, an opened or closed thought, a budget.

Knows the `<think>` dialect and templates by what their source says; nothing of messages, tools or engines.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from abaci.chat.answer import ReasoningOptions
from abaci.chat.parsers.think import GEMMA, THINK, ThoughtTags
from abaci.chat.parsers.tools.harmony import DIALECT as HARMONY
from abaci.errors import UsageError
from abaci.formats.tokenizer import Tokenizer
from abaci.generation import Thinking

CLOSING_SENTENCE: Final = "\n\nI have thought about this long enough and answer now.\n"
"""What ends a thought that has used up its budget."""

MIN_ANSWER_TOKENS: Final = 256
"""What a budget leaves for the answer, or half of the tokens there are."""

_EFFORT_BUDGETS: Final = {"minimal": 512, "low": 1024, "medium": 4096, "high": None, "xhigh": None, "max": None}
"""Tokens of thought for models whose template knows no effort. None: as long as it takes."""

_CHANNEL: Final = "<|channel|>"
_FINAL: Final = "<|channel|>final<|message|>"
_NEXT_MESSAGE: Final = "<|end|><|start|>assistant"

_SWITCHES: Final = ("enable_thinking", "thinking")
_SWITCH: Final = re.compile(r"\b(?:enable_thinking|thinking)\b")


@dataclass(frozen=True, slots=True)
class ThinkingPlan:
    """What a request wants of a model's thinking, resolved against what its template can do.

    is_enabled      None leaves it to the model.
    budget_tokens   None is no limit.
    variables       for the template.
    """

    can_think: bool
    is_harmony: bool
    """Thoughts are messages of their own: one ends the others, that of the final answer."""
    tags: ThoughtTags
    opens_thought: bool
    """The model opens a thought itself, unless the prompt has: so may we."""
    is_enabled: bool | None
    budget_tokens: int | None
    closing_sentence: str
    variables: Mapping[str, Any]

    @classmethod
    def make(cls, source: str, options: ReasoningOptions, given_variables: Mapping[str, Any]) -> "ThinkingPlan":
        """Raises UsageError for what this template's model cannot do."""
        effort = _checked_effort(options.effort)
        is_harmony = HARMONY.is_spoken_by(source)
        tags = GEMMA if GEMMA.begin in source else THINK
        can_think = is_harmony or tags.begin in source or tags.end in source
        knows_effort = "reasoning_effort" in source
        is_enabled = _is_enabled(options, effort, given_variables)
        is_effort_meant = effort is not None and effort != "none"
        if not can_think and (is_enabled or (is_effort_meant and not knows_effort)):
            name = "reasoning_effort" if is_effort_meant else "thinking"
            raise UsageError(
                f"{name}: this model does not think before it answers", hint="Leave it out, or choose another model."
            )
        budget = _checked_budget(options.budget_tokens)
        if budget is None and is_effort_meant and not knows_effort:
            budget = _EFFORT_BUDGETS[str(effort)]
        if budget == 0 and is_enabled is None:
            is_enabled = False
        if tags is GEMMA and is_enabled is None and (is_effort_meant or budget is not None):
            is_enabled = True  # which thinks only where it is told to
        variables: dict[str, Any] = {} if is_enabled is None else dict.fromkeys(_SWITCHES, is_enabled)
        if effort is not None and knows_effort:
            variables["reasoning_effort"] = effort
        return cls(
            can_think=can_think,
            is_harmony=is_harmony,
            tags=tags,
            opens_thought=(tags is THINK and bool(_SWITCH.search(source))) or bool(is_enabled) or budget is not None,
            is_enabled=is_enabled,
            budget_tokens=budget if can_think else None,
            closing_sentence=CLOSING_SENTENCE if options.closing_sentence is None else options.closing_sentence,
            variables={**variables, **given_variables},
        )

    def ending(self, prompt: str, *, is_constrained: bool) -> tuple[str, bool]:
        """What to add to a prompt that ends so, and whether the answer then begins inside a thought.

        Raises UsageError where the template has closed a thought that was asked for.
        """
        if self.is_harmony:
            must_be_known = is_constrained or self.budget_tokens is not None
            return (_FINAL, False) if self.is_enabled is False else ("", must_be_known)
        end = prompt.rstrip()
        if not self.can_think or (end.endswith(self.tags.end) and not self.is_enabled):
            return "", False
        if end.endswith(self.tags.end):
            raise UsageError(
                "thinking: the model's chat template has closed the thought, and no switch opens it",
                hint="Leave it out: this model answers at once; or choose a model that thinks.",
            )
        is_open = end.endswith(self.tags.begin)
        if self.is_enabled is False and self.tags is GEMMA and not is_open:
            return "", False
        if self.is_enabled is False:
            return (f"\n{self.tags.end}\n\n" if is_open else f"{self.tags.begin}\n\n{self.tags.end}\n\n"), False
        must_be_known = is_constrained or self.budget_tokens is not None
        if not is_open and must_be_known and self.opens_thought:
            return f"{self.tags.begin}\n", True
        return "", is_open

    def thinking(self, tokenizer: Tokenizer, max_tokens: int) -> Thinking:
        """For an answer that begins inside a thought, of so many tokens. The budget leaves room for an answer.

        Raises UsageError where the end of a thought is no token of its own, and so cannot be seen by an engine.
        """
        end_text, marker = (_FINAL, _CHANNEL) if self.is_harmony else (self.tags.end, self.tags.end)
        end = tuple(tokenizer.encode(end_text, add_bos=False, allow_special=True))
        if len(tokenizer.encode(marker, add_bos=False, allow_special=True)) != 1:
            raise UsageError(
                f"the model has no token {marker}: its thoughts can be neither bounded nor followed by a fixed form",
                hint="Turn thinking off for this request.",
            )
        if self.budget_tokens is None:
            return Thinking(end)
        closing = [*tokenizer.encode(self.closing_sentence, add_bos=False)]
        if self.is_harmony:
            closing += tokenizer.encode(_NEXT_MESSAGE, add_bos=False, allow_special=True)
        closing += end
        room = max_tokens - len(closing) - min(MIN_ANSWER_TOKENS, max_tokens // 2)
        return Thinking(end, max(0, min(self.budget_tokens, room)), tuple(closing))


def _is_enabled(options: ReasoningOptions, effort: str | None, given_variables: Mapping[str, Any]) -> bool | None:
    """The switch, from the first place that says anything: the option, the template's variables, no effort at all."""
    if options.is_enabled is not None:
        return options.is_enabled
    given = next((given_variables[name] for name in _SWITCHES if name in given_variables), None)
    if isinstance(given, bool):
        return given
    return False if effort == "none" else None


def _checked_effort(effort: str | None) -> str | None:
    if effort is not None and effort not in ("none", *_EFFORT_BUDGETS):
        raise UsageError(
            f"reasoning_effort {effort!r} is not known", hint=f"Choose one of: none, {', '.join(_EFFORT_BUDGETS)}."
        )
    return effort


def _checked_budget(budget_tokens: int | None) -> int | None:
    if budget_tokens is not None and (isinstance(budget_tokens, bool) or budget_tokens < 0):
        raise UsageError(
            f"the thinking budget is {budget_tokens!r}",
            hint="Give a whole number of tokens, 0 for no thought, or leave it out.",
        )
    return budget_tokens
