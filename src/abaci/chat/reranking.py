"""How relevant documents are to a query, asked of a language model: does it say yes, or no?

The prompt is the one that Qwen3-Reranker was trained with (Zhang et al. 2025, "Qwen3 Embedding"; its model card). Other
models of the same chat format understand it too, and judge less well. The score is the probability of "yes" among the
two answers: as the model's own head gives them, or as a classifier does, which is the two answers' rows of that head
and all that some files keep of it. Knows nothing of engines or wires.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from abaci.errors import UsageError
from abaci.formats.tokenizer import Tokenizer
from abaci.generation import GenerationRequest, Pooling, TokenLogprob

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


@dataclass(frozen=True, slots=True, eq=False)
class YesOrNo:
    """A classifier of hidden states. `direction` is its row for yes less its row for no."""

    direction: NDArray[np.float32]

    def relevance(self, state: Sequence[float]) -> float:
        """The probability of yes, from the last token's hidden state."""
        return _share_of_yes(float(np.dot(self.direction.astype(np.float64), np.asarray(state, np.float64))))


class Answered(Protocol):
    """What came of a request, as far as it tells how relevant a document is."""

    @property
    def prompt_logprobs(self) -> Sequence[TokenLogprob | None] | None: ...

    @property
    def embedding(self) -> Sequence[float] | None: ...


class Reranker:
    """The prompts of one query to one model, and what its answers mean.

    With a classifier a document makes one request, else two, which share all but the answer. Raises UsageError for a
    model that does not speak the format.
    """

    def __init__(
        self, tokenizer: Tokenizer, query: str, instruction: str | None = None, classifier: YesOrNo | None = None
    ) -> None:
        if not tokenizer.special_tokens.keys() >= _NEEDED:
            raise UsageError(
                "this model cannot rerank: it lacks the tokens of ChatML", hint="Use a Qwen3-Reranker, or another Qwen."
            )
        self._tokenizer = tokenizer
        self._question = f"<Instruct>: {instruction or DEFAULT_INSTRUCTION}\n<Query>: {query}\n<Document>: "
        self._begin, self._end = (self._encoded(text) for text in (_BEGIN, _END))
        self._answers = [self._encoded(answer) for answer in _ANSWERS]
        self._classifier = classifier

    @property
    def num_requests(self) -> int:
        """Of each document."""
        return len(self._answers) if self._classifier is None else 1

    def requests(self, document: str, ids: Sequence[str]) -> tuple[GenerationRequest, ...]:
        """What a document is judged by, under the given ids, one for each request. Text names no special token."""
        question = self._tokenizer.encode(self._question + document, add_bos=False)
        prompt = (*self._begin, *question, *self._end)
        if self._classifier is not None:
            (request_id,) = ids
            return (GenerationRequest(request_id, prompt, 0, pooling=Pooling.LAST),)
        return tuple(
            GenerationRequest(
                request_id, (*prompt, *answer), 0, num_prompt_logprobs=0, prompt_logprobs_begin=len(prompt)
            )
            for request_id, answer in zip(ids, self._answers, strict=True)
        )

    def relevance(self, answered: Sequence[Answered]) -> float:
        """The score, from what a document's requests came to, in their order."""
        if self._classifier is None:
            yes, no = answered
            return relevance(yes.prompt_logprobs, no.prompt_logprobs)
        state = answered[0].embedding
        assert state is not None
        return self._classifier.relevance(state)

    def _encoded(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_bos=False, allow_special=True)


def relevance(
    yes: Sequence[TokenLogprob | None] | None,
    no: Sequence[TokenLogprob | None] | None,
) -> float:
    """The score, from what the two requests gave of their prompts."""
    return _share_of_yes(_logprob(yes) - _logprob(no))


def ranked(scores: Sequence[float], top_n: int | None = None) -> list[Ranked]:
    """The best first, of equal ones the first given; no more than `top_n`."""
    found = [Ranked(index, score) for index, score in enumerate(scores)]
    return sorted(found, key=lambda document: -document.score)[:top_n]


def _share_of_yes(difference: float) -> float:
    """The probability of yes among the two, from how much greater its logarithm is."""
    return 1 / (1 + math.exp(min(-difference, 700.0)))


def _logprob(entries: Sequence[TokenLogprob | None] | None) -> float:
    """Of the answer: all tokens that have one, but for the entry of what follows the prompt."""
    assert entries is not None
    return sum(entry.logprob for entry in entries[:-1] if entry is not None)
