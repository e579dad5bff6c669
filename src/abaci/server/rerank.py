"""`POST /v1/rerank`, `/v2/rerank`, `/rerank`: documents by their relevance to a query, as Cohere, Jina and vLLM do."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from abaci.chat.reranking import Reranker, ranked
from abaci.generation import TokenEvent
from abaci.server.generating import Generation, beside_loop, generation
from abaci.server.replies import Reply, Sender
from abaci.server.services import Services
from abaci.server.wire import ParameterError, WireBody, read_body, warning_headers

_DOCUMENTS_AT_A_TIME: Final = 32
"""Of one call: more would only wait, and take the queue's places from others."""


class DocumentBody(WireBody):
    """A document that is given as an object."""

    text: str


class RerankBody(WireBody):
    """`/v1/rerank`. The instruction, which Qwen's rerankers take, says what counts as relevant."""

    model: str | None = None
    query: str
    documents: list[str | DocumentBody]
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool = True
    instruction: str | None = None
    user: str | None = None
    cache_salt: str | None = Field(default=None, min_length=1, max_length=256)
    priority: int = Field(default=0, ge=-(2**31), lt=2**31)

    @classmethod
    def refused_parameters(cls) -> Mapping[str, str]:
        """Ways to cut documents short."""
        advice = "Nothing is truncated silently; shorten the documents."
        return dict.fromkeys(("max_tokens_per_doc", "max_chunks_per_doc", "truncate_prompt_tokens"), advice)


async def rerank(request: Request, services: Services) -> Response:
    """The most relevant documents first, each with a score of 0 to 1."""
    body = await read_body(request, RerankBody)
    texts = [document if isinstance(document, str) else document.text for document in body.documents]
    if not texts:
        raise ParameterError("documents", "documents is empty", hint="Send at least one text.")
    if len(texts) > services.config.max_prompts:
        raise ParameterError(
            "documents",
            f"documents has {len(texts)} texts",
            hint=f"Send at most {services.config.max_prompts}, the server's max_prompts, in one request.",
        )
    model_name = body.model or services.pool.default_name

    async def write(sender: Sender) -> None:
        call_id = f"rerank-{request.state.request_id}"
        async with generation(services, request.state.caller, model_name, call_id) as running:
            scores = await _Call(running, body, texts).scores()
            results: list[dict[str, Any]] = [
                {"index": document.index, "relevance_score": document.score} for document in ranked(scores, body.top_n)
            ]
            if body.return_documents:
                for result in results:
                    result["document"] = {"text": texts[result["index"]]}
            used = running.used()
            usage = {
                "prompt_tokens": used.prompt_tokens,
                "total_tokens": used.prompt_tokens,
                "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
            }
            await sender.whole({"id": call_id, "model": model_name, "results": results, "usage": usage})

    return Reply(
        write,
        slow_reader_seconds=services.config.slow_reader_seconds,
        extra_headers=warning_headers(body.unknown_parameters()),
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Which document a request belongs to, and which of its requests it is."""

    document: int
    number: int


class _Call:
    """The requests of one call of the endpoint, some documents at a time."""

    def __init__(self, running: Generation, body: RerankBody, texts: list[str]) -> None:
        self._running = running
        self._body = body
        self._texts = texts
        model = running.model.text
        self._reranker = Reranker(model.tokenizer, body.query, body.instruction, model.classifier)
        self._num_submitted = 0
        self._places: dict[str, _Place] = {}
        self._events: list[dict[int, TokenEvent]] = [{} for _ in texts]

    async def scores(self) -> list[float]:
        """Of each document, in the order given. Raises what submitting or a failed step raises."""
        scores = [0.0] * len(self._texts)
        for _ in self._texts[:_DOCUMENTS_AT_A_TIME]:
            await self._submit_next()
        async for event in self._running.events():
            if event is None:
                continue
            if event.error is not None:
                raise event.error
            place = self._places[event.request_id]
            answered = self._events[place.document]
            answered[place.number] = event
            if len(answered) == self._reranker.num_requests:
                scores[place.document] = self._reranker.relevance([event for _, event in sorted(answered.items())])
                await self._submit_next()
        return scores

    async def _submit_next(self) -> None:
        document = self._num_submitted
        if document == len(self._texts):
            return
        self._num_submitted += 1
        text = self._texts[document]
        first = self._running.new_id()
        ids = [first, *(f"{first}-{number}" for number in range(1, self._reranker.num_requests))]
        requests = await beside_loop(len(text), lambda: self._reranker.requests(text, ids))
        for number, request in enumerate(requests):
            self._places[request.request_id] = _Place(document, number)
            asked = replace(request, priority=self._body.priority, cache_salt=self._body.cache_salt or "")
            await self._running.submit(asked)
