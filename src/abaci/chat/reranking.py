"""How relevant documents are to a query, asked of a language model: does it say yes, or no?

The prompt is the one that Qwen3-Reranker was trained with (Zhang et al. 2025, "Qwen3 Embedding"; its model card). Other
models of the same chat format understand it too, and judge less well. The score is the probability of "yes" among the
two answers. Knows nothing of engines or wires.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from abaci.errors import UsageError
from abaci.formats.tokenizer import Tokenizer
from abaci.generation import GenerationRequest, TokenLogprob

DEFAULT_INSTRUCTION: Final = "Given a web search query, retrieve relevant passages that answer the query"

_BEGIN: Final = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
_END: Final = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_ANSWERS: Final = ("yes", "no")
_NEEDED: Final = frozenset({"<|im_start|>", "<|im_end|>"})


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document's place among those given, and how relevant it is: 0 to 1."""

    index: int
    score: float


class Reranker:
    """The prompts of one query to one model. Makes two requests for each document, which share all but the answer.

    Raises UsageError for a model that does not speak the format.
    """

    def __init__(self, tokenizer: Tokenizer, query: str, instruction: str | None = None) -> None:
        if not tokenizer.special_tokens.keys() >= _NEEDED:
            raise UsageError(
                "this model cannot rerank: it lacks the tokens of ChatML", hint="Use a Qwen3-Reranker, or another Qwen."
            )
        self._tokenizer = tokenizer
        self._question = f"<Instruct>: {instruction or DEFAULT_INSTRUCTION}\n<Query>: {query}\n<Document>: "
        self._begin, self._end = (self._encoded(text) for text in (_BEGIN, _END))
        self._answers = [self._encoded(answer) for answer in _ANSWERS]

    def requests(self, document: str, ids: tuple[str, str]) -> tuple[GenerationRequest, GenerationRequest]:
        """What asks for the two answers' log-probabilities, under the given ids. Text names no special token."""
        question = self._tokenizer.encode(self._question + document, add_bos=False)
        prompt = (*self._begin, *question, *self._end)
        yes, no = (
            GenerationRequest(
                request_id, (*prompt, *answer), 0, num_prompt_logprobs=0, prompt_logprobs_begin=len(prompt)
            )
            for request_id, answer in zip(ids, self._answers, strict=True)
        )
        return yes, no

    def _encoded(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_bos=False, allow_special=True)


def relevance(
    yes: Sequence[TokenLogprob | None] | None,
    no: Sequence[TokenLogprob | None] | None,
) -> float:
    """The score, from what the two requests gave of their prompts."""
    difference = _logprob(no) - _logprob(yes)
    return 1 / (1 + math.exp(min(difference, 700.0)))


def ranked(scores: Sequence[float], top_n: int | None = None) -> list[Ranked]:
    """The best first, of equal ones the first given; no more than `top_n`."""
    found = [Ranked(index, score) for index, score in enumerate(scores)]
    return sorted(found, key=lambda document: -document.score)[:top_n]


def _logprob(entries: Sequence[TokenLogprob | None] | None) -> float:
    """Of the answer: all tokens that have one, but for the entry of what follows the prompt."""
    assert entries is not None
    return sum(entry.logprob for entry in entries[:-1] if entry is not None)
