"""A Generator that recites: whatever consumes token events can be tested with it, without weights or scheduling."""

import queue
import threading
from collections.abc import Callable, Sequence

from abaci.errors import EngineClosedError, UsageError
from abaci.generation import FinishReason, GenerationRequest, TokenEvent, TokenLogprob, TokenSink

Script = Callable[[GenerationRequest, int], Sequence[int]]
"""The tokens to recite for a sample of a request, by its index."""


class ScriptedGenerator:
    """Answers each request with `script(request, sample_index)`, one token an event, on a thread of its own.

    Limits, end tokens and cancellation are honoured as an engine does; a script that ends early ends its sample as
    STOP. Every log-probability asked for is 0. An exception that the script raises ends the sample with an error event.
    """

    def __init__(self, script: Script) -> None:
        self.requests: list[GenerationRequest] = []
        """Everything submitted so far."""
        self._script = script
        self._cancelled: set[tuple[str, int | None]] = set()
        self._queue: queue.SimpleQueue[tuple[GenerationRequest, TokenSink] | None] = queue.SimpleQueue()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="scripted-generator", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest, sink: TokenSink) -> None:
        """Queue a request. Raises UsageError for an empty prompt, EngineClosedError after close."""
        if self._is_closed:
            raise EngineClosedError("the generator is closed", hint="Make a new one.")
        if not request.prompt_token_ids:
            raise UsageError("the prompt has no tokens", hint="Give at least one token.")
        self.requests.append(request)
        self._queue.put((request, sink))

    def cancel(self, request_id: str, sample_index: int | None = None) -> None:
        """Stop a request, or one sample of it, before its next token."""
        self._cancelled.add((request_id, sample_index))

    def close(self) -> None:
        """Stop; what is queued ends with an error event. Idempotent."""
        self._is_closed = True
        self._queue.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            request, sink = item
            for sample_index in range(request.num_samples):
                self._recite(request, sample_index, sink)

    def _recite(self, request: GenerationRequest, sample_index: int, sink: TokenSink) -> None:
        try:
            token_ids = tuple(self._script(request, sample_index))[: request.max_tokens]
        except Exception as error:
            sink(self._ending(request, sample_index, FinishReason.ERROR, error))
            return
        scores = _prompt_logprobs(request) if sample_index == 0 else None
        for count, token_id in enumerate(token_ids, 1):
            if self._is_closed:
                sink(
                    self._ending(
                        request,
                        sample_index,
                        FinishReason.ERROR,
                        EngineClosedError("the generator is closed", hint="Make a new one."),
                    )
                )
                return
            if not self._cancelled.isdisjoint({(request.request_id, None), (request.request_id, sample_index)}):
                sink(self._ending(request, sample_index, FinishReason.CANCELLED))
                return
            is_end = token_id in request.end_token_ids and count > request.min_tokens
            reason = FinishReason.STOP if is_end else None
            if count == request.max_tokens:
                reason = reason or FinishReason.LENGTH
            logprobs = (TokenLogprob(token_id, 0.0),) if request.num_logprobs is not None else ()
            sink(TokenEvent(request.request_id, sample_index, (token_id,), logprobs, reason, is_end, scores))
            scores = None
            if reason is not None:
                return
        reason = FinishReason.STOP if request.max_tokens else FinishReason.LENGTH
        sink(TokenEvent(request.request_id, sample_index, (), finish_reason=reason, prompt_logprobs=scores))

    @staticmethod
    def _ending(
        request: GenerationRequest, sample_index: int, reason: FinishReason, error: Exception | None = None
    ) -> TokenEvent:
        return TokenEvent(request.request_id, sample_index, (), finish_reason=reason, error=error)


def _prompt_logprobs(request: GenerationRequest) -> tuple[TokenLogprob | None, ...] | None:
    if request.num_prompt_logprobs is None:
        return None
    begin = request.prompt_logprobs_begin
    known = [TokenLogprob(token_id, 0.0) for token_id in request.prompt_token_ids[begin:]]
    return (*[None] * begin, *known, TokenLogprob(-1, 0.0))
