"""What one sample may draw next: its thought within its budget, then an answer of the form it was asked for.

    thought, free or ended by force          answer, in the form
    ----------------------------- </think> -----------------------> end token

A row of bits, one for each token, says it all: a forced token is a row with one bit. The state follows from the
sample's tokens alone, so that it can be made anew from them at any time.

Where the form is complete, the request's end tokens are allowed as well, and only there. `min_tokens` keeps them away
for as long as the form can go on without them, but a form that is complete and cannot go on ends the sample.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from abaci.engine.grammar import Grammar, GrammarError, Matcher
from abaci.errors import UsageError
from abaci.generation import GenerationRequest

_ALL = np.uint32(0xFFFFFFFF)


class Guide:
    """Follows one sample. `allow` is called once before each of its draws."""

    __slots__ = ("_ends", "_grammar", "_is_thinking", "_matcher", "_min_tokens", "_num_seen", "_thinking")

    def __init__(self, request: GenerationRequest, grammar: Grammar | None) -> None:
        self._thinking = request.thinking
        self._is_thinking = request.thinking is not None
        self._grammar = grammar
        self._matcher: Matcher | None = None
        self._min_tokens = request.min_tokens
        self._ends = [(token_id // 32, np.uint32(1 << token_id % 32)) for token_id in sorted(request.end_token_ids)]
        self._num_seen = 0

    def allow(self, token_ids: Sequence[int], num_prompt: int, row: NDArray[np.uint32]) -> bool:
        """Write the tokens that may follow `token_ids` into `row`; False, and nothing written, where all may.

        Raises UsageError where the constraint leaves no token, or costs too much to follow.
        """
        if self._matcher is None and self._grammar is not None:
            self._matcher = self._grammar.start()
        for end in range(num_prompt + self._num_seen + 1, len(token_ids) + 1):
            self._see(token_ids, num_prompt, end)
        if self._is_thinking:
            return self._allow_thought(row)
        return self._allow_answer(row)

    def _see(self, token_ids: Sequence[int], num_prompt: int, end: int) -> None:
        """Take in the token before position `end`."""
        self._num_seen += 1
        if not self._is_thinking:
            if self._matcher is not None:
                self._matcher.consume(token_ids[end - 1])
            return
        assert self._thinking is not None
        closing = self._thinking.end_token_ids
        begin = end - len(closing)
        if begin >= num_prompt and tuple(token_ids[begin:end]) == closing:
            self._is_thinking = False

    def _allow_thought(self, row: NDArray[np.uint32]) -> bool:
        thinking = self._thinking
        assert thinking is not None
        if thinking.budget_tokens is not None and self._num_seen >= thinking.budget_tokens:
            forced = thinking.closing_token_ids[self._num_seen - thinking.budget_tokens]
            row[:] = 0
            row[forced // 32] = 1 << forced % 32
            return True
        if self._matcher is None:
            return False
        row[:] = _ALL  # but no end: the answer is still to come
        self._forbid_end(row)
        return True

    def _allow_answer(self, row: NDArray[np.uint32]) -> bool:
        if self._matcher is None:
            return False
        self._matcher.allow(row)
        self._forbid_end(row)
        if self._matcher.is_complete and (self._num_seen >= self._min_tokens or not row.max()):
            for word, bit in self._ends:
                row[word] |= bit
        elif not row.max():
            raise GrammarError(
                f"the constraint leaves no token after {self._num_seen} tokens",
                hint="It leads where no token of this model goes; allow more there.",
            )
        return True

    def _forbid_end(self, row: NDArray[np.uint32]) -> None:
        for word, bit in self._ends:
            row[word] &= ~bit


def needs_guide(request: GenerationRequest) -> bool:
    """Whether anything of the request restricts its draws."""
    return request.constraint is not None or (
        request.thinking is not None and request.thinking.budget_tokens is not None
    )


def check_guidance(request: GenerationRequest, vocab_size: int) -> None:
    """Raise UsageError for a thought or constraint that contradicts itself or the rest of the request."""
    thinking = request.thinking
    if thinking is not None:
        named = (*thinking.end_token_ids, *thinking.closing_token_ids)
        if not thinking.end_token_ids or not all(0 <= token_id < vocab_size for token_id in named):
            raise UsageError(
                "thinking: the tokens that end a thought are missing, or not in the vocabulary",
                hint="Give end_token_ids, each a token of the model.",
            )
        if thinking.budget_tokens is not None:
            if thinking.budget_tokens < 0:
                raise UsageError(
                    f"thinking: the budget is {thinking.budget_tokens} tokens",
                    hint="Give at least 0, or None for no limit.",
                )
            if thinking.closing_token_ids[-len(thinking.end_token_ids) :] != thinking.end_token_ids:
                raise UsageError(
                    "thinking: closing_token_ids do not end with end_token_ids", hint="Append end_token_ids to them."
                )
    if request.constraint is not None and not request.end_token_ids:
        raise UsageError(
            "an answer of a given form needs an end token, and none is left",
            hint="Leave out ignore_eos, or give stop_token_ids.",
        )
