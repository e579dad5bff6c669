"""What a caller gets: results of whole answers, events of growing ones, scores; and how token events become them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from abaci.chat.reranking import Reranker
from abaci.chat.text import TextAssembler
from abaci.errors import AbaciError
from abaci.generation import FinishReason, GenerationRequest, TokenEvent, TokenLogprob, Usage


@dataclass(frozen=True, slots=True)
class Completion:
    """One sample. `token_ids` has every token drawn, the one that ended it included; `text` leaves that one out."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] | None
    """One per token; None if not asked for."""


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """The answer to one prompt: `outputs` has its samples, the shortcuts are those of the first.

    A prompt that could not run has an `error` and no outputs; its text is empty and its `finish_reason` ERROR. One that
    failed on the way has both.
    """

    prompt_token_ids: tuple[int, ...]
    outputs: tuple[Completion, ...]
    usage: Usage
    seed: int | None = None
    """The seed used, drawn if none was given."""
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    """One per prompt token, the first None, and one more with the `top` of what follows; None if not asked for."""
    error: AbaciError | None = None
    embedding: tuple[float, ...] | None = None
    """The pooled hidden states of the prompt; None if not asked for."""

    @property
    def text(self) -> str:
        return self.outputs[0].text if self.outputs else ""

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.outputs[0].token_ids if self.outputs else ()

    @property
    def finish_reason(self) -> FinishReason:
        return self.outputs[0].finish_reason if self.outputs else FinishReason.ERROR

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...] | None:
        return self.outputs[0].logprobs if self.outputs else None


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """What is new in one sample. Text waits until its characters are whole and no stop string can begin in it.

    The last event of a sample has its `finish_reason`; the very last one of the stream has the `usage` and the `seed`,
    which was drawn if none was given.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """Natural log-probabilities under the model of a given text's tokens."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    """One per token; the first None, as nothing precedes it."""
    top: tuple[Mapping[int, float], ...]
    """One per token, the last one included: the likeliest tokens to come next, likeliest first."""


@dataclass(frozen=True, slots=True)
class TimedEvent:
    """An event and when the generator published it, on the clock of `time.perf_counter`."""

    seconds: float
    event: TokenEvent


@dataclass(slots=True)
class _Sample:
    assembler: TextAssembler
    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class Answer:
    """The answer to one request while it grows. One thread at a time.

    `new_assembler` makes the text side of a sample; `cancel_sample` stops one whose text has ended before its tokens.
    """

    def __init__(
        self,
        request: GenerationRequest,
        *,
        new_assembler: Callable[[], TextAssembler],
        cancel_sample: Callable[[int], None],
        submitted_seconds: float,
    ) -> None:
        self.request = request
        self._cancel_sample = cancel_sample
        self._samples = [_Sample(new_assembler()) for _ in range(request.num_samples)]
        self._num_open = request.num_samples
        self._prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
        self._embedding: tuple[float, ...] | None = None
        self._error: AbaciError | None = None
        self._cached_tokens = 0
        self._submitted_seconds = submitted_seconds
        self._first_seconds: float | None = None
        self._last_seconds = submitted_seconds

    @property
    def is_done(self) -> bool:
        """Whether every sample has ended."""
        return self._num_open == 0

    @property
    def error(self) -> AbaciError | None:
        """What ended the request, if that was an error."""
        return self._error

    def push(self, timed: TimedEvent) -> StreamEvent | None:
        """Take the next event; what is new in it, None if nothing is (as after a stop string)."""
        event = timed.event
        sample = self._samples[event.sample_index]
        if sample.finish_reason is not None:
            return None
        self._note_time(timed.seconds, event)
        delta = sample.assembler.push(event)
        sample.text.append(delta.text)
        sample.token_ids.extend(event.token_ids)
        sample.logprobs.extend(event.logprobs)
        sample.finish_reason = delta.finish_reason
        if event.error is not None:
            self._error = _as_abaci_error(event.error)
        if event.finish_reason is None and delta.finish_reason is not None:
            self._cancel_sample(event.sample_index)
        if delta.finish_reason is not None:
            self._num_open -= 1
        if not (delta.text or event.token_ids or delta.finish_reason):
            return None
        return StreamEvent(
            event.sample_index,
            delta.text,
            event.token_ids,
            event.logprobs,
            delta.finish_reason,
            usage=self.usage() if self.is_done else None,
            seed=self.request.seed if self.is_done else None,
        )

    def usage(self) -> Usage:
        """Tokens and seconds so far."""
        first = self._last_seconds if self._first_seconds is None else self._first_seconds
        return Usage(
            prompt_tokens=len(self.request.prompt_token_ids),
            completion_tokens=sum(len(sample.token_ids) for sample in self._samples),
            cached_tokens=self._cached_tokens,
            prefill_seconds=first - self._submitted_seconds,
            decode_seconds=self._last_seconds - first,
        )

    def result(self) -> GenerationResult:
        """The whole answer, once it is done."""
        assert self.is_done
        wants_logprobs = self.request.num_logprobs is not None
        outputs = [
            Completion(
                index=index,
                text="".join(sample.text),
                token_ids=tuple(sample.token_ids),
                finish_reason=sample.finish_reason or FinishReason.ERROR,
                logprobs=tuple(sample.logprobs) if wants_logprobs else None,
            )
            for index, sample in enumerate(self._samples)
        ]
        return GenerationResult(
            prompt_token_ids=self.request.prompt_token_ids,
            outputs=tuple(outputs),
            usage=self.usage(),
            seed=self.request.seed,
            prompt_logprobs=self._prompt_logprobs,
            error=self._error,
            embedding=self._embedding,
        )

    def _note_time(self, seconds: float, event: TokenEvent) -> None:
        self._last_seconds = seconds
        if event.sample_index == 0 and self._first_seconds is None:
            self._first_seconds = seconds
            self._cached_tokens = event.num_cached_tokens
            self._prompt_logprobs = event.prompt_logprobs
            self._embedding = event.embedding


def score_of(result: GenerationResult) -> Score:
    """The score in a result whose prompt's log-probabilities were asked for. Raises the error in it, if any."""
    if result.error is not None:
        raise result.error
    assert result.prompt_logprobs is not None
    known, following = result.prompt_logprobs[:-1], result.prompt_logprobs[1:]
    return Score(
        token_ids=result.prompt_token_ids,
        logprobs=tuple(None if entry is None else entry.logprob for entry in known),
        top=tuple(dict(entry.top) for entry in following if entry is not None),
    )


def embedding_of(result: GenerationResult) -> tuple[float, ...]:
    """The embedding in a result that was asked for one. Raises the error in it, if any."""
    if result.error is not None:
        raise result.error
    assert result.embedding is not None
    return result.embedding


def relevances(reranker: Reranker, results: Sequence[GenerationResult]) -> list[float]:
    """Of documents, from the results of the requests that each had. Raises the first error in them, if any."""
    for result in results:
        if result.error is not None:
            raise result.error
    width = reranker.num_requests
    return [reranker.relevance(results[begin : begin + width]) for begin in range(0, len(results), width)]


def failed(error: AbaciError, prompt_token_ids: Sequence[int] = ()) -> GenerationResult:
    """The result of a prompt that could not run."""
    return GenerationResult(tuple(prompt_token_ids), (), Usage(len(prompt_token_ids), 0), error=error)


def _as_abaci_error(error: Exception) -> AbaciError:
    if isinstance(error, AbaciError):
        return error
    wrapped = AbaciError(f"the step failed: {error}", hint="This is a defect: report it with what was asked.")
    wrapped.__cause__ = error
    return wrapped
