"""LLM: a model in this process, from Python. Names, files, text and the engine are put together here."""

import asyncio
import itertools
import queue
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Self, overload

from abaci import hub
from abaci.chat.messages import Conversation
from abaci.chat.prompt import encode_chat
from abaci.chat.requests import stop_strings
from abaci.chat.reranking import Ranked, Reranker, ranked
from abaci.chat.text import TextAssembler
from abaci.engine.loader import load
from abaci.errors import AbaciError, UsageError
from abaci.generation import GenerationRequest, Pooling, SamplingParams
from abaci.runtime.arguments import (
    are_token_ids,
    check_template,
    is_conversation,
    is_one,
    is_prompt,
    listed,
    load_options,
    model_name,
    params_of_each,
    unpacked,
    whole_number,
)
from abaci.runtime.batch import Batch, TextRequest
from abaci.runtime.journal import Journal, UsageCounter
from abaci.runtime.open_model import Loader, open_model
from abaci.runtime.results import (
    GenerationResult,
    Score,
    StreamEvent,
    TimedEvent,
    embedding_of,
    failed,
    relevances,
    score_of,
)
from abaci.runtime.streaming import AnswerStream
from abaci.tensor import CacheType

Prompt = str | Sequence[int]
"""Text, in which names of special tokens stand for them, or token ids."""
_PLAIN = SamplingParams()


class LLM:
    """A model that generates, chats, streams and scores. A context manager; may be used from any thread.

    model            a catalog name (fetched if need be), a `.gguf` file, or a folder that holds one.
    context          tokens of context; None: the model's own, or what memory allows.
    threads          None: the physical cores this process may use.
    max_sequences    that run at a time; more wait.
    max_step_tokens  most tokens computed together; longer prompts are computed in pieces.
    kv_type          what the KV cache keeps keys and values as: "f16", "bf16", or "int8" in about half the memory.
    chat_template    Jinja source to use instead of the model's.
    quantize         a mixture such as "q4_k_m" that float weights are quantised to as they are loaded.
    lora             adapters, all in force: GGUF files or PEFT folders, as paths or as pairs of path and scale.
    loader           how an open file becomes a running engine, for other backends than the compiled one.

    Raises ModelNotFoundError, DownloadError, FileFormatError, UnsupportedModelError, ResourceError, UsageError.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        context: int | None = None,
        threads: int | None = None,
        max_sequences: int = 64,
        max_step_tokens: int = 512,
        kv_type: CacheType | str = CacheType.F16,
        chat_template: str | None = None,
        quantize: str | None = None,
        lora: Sequence[str | Path | tuple[str | Path, float]] = (),
        loader: Loader = load,
    ) -> None:
        options = load_options(
            context=context,
            threads=threads,
            max_sequences=max_sequences,
            max_step_tokens=max_step_tokens,
            kv_type=kv_type,
            quantize=quantize,
            lora=lora,
        )
        check_template(chat_template)
        journal = Journal.of_this_user()
        resolved = hub.resolve(model_name(model), download=True)
        self._model = open_model(resolved, options, template=chat_template, loader=loader)
        for note in self._model.notes:
            warnings.warn(f"{resolved.name}: {note}", stacklevel=2)
        self.info = self._model.info
        self.tokenizer = self._model.text.tokenizer
        """Encodes and decodes as the model was trained to."""
        self._counter = UsageCounter(journal, self.info.name, self.info.architecture)
        weakref.finalize(self, self._counter.flush)
        self._request_numbers = itertools.count()

    @overload
    def generate(  # type: ignore[overload-overlap]  # text is one prompt, though it is a sequence of texts as well
        self, prompts: Prompt, params: SamplingParams | None = None
    ) -> GenerationResult: ...

    @overload
    def generate(
        self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> list[GenerationResult]: ...

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> GenerationResult | list[GenerationResult]:
        """Continue one prompt, or several together in one batch; results in the prompts' order.

        A prompt that cannot run fails alone, as a result with `error`. Raises UsageError for parameters out of range.
        """
        prompts = unpacked(prompts)
        if is_prompt(prompts):
            return self._run(self._batch([prompts], params, self._encode_prompt))[0]
        return self._run(self._batch(prompts, params, self._encode_prompt))

    @overload
    def chat(self, conversations: Conversation, params: SamplingParams | None = None) -> GenerationResult: ...

    @overload
    def chat(
        self, conversations: Sequence[Conversation], params: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> list[GenerationResult]: ...

    def chat(
        self,
        conversations: Conversation | Sequence[Conversation],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> GenerationResult | list[GenerationResult]:
        """Answer one conversation, or several together, through the model's chat template; else as `generate`."""
        if is_one(conversations):
            return self._run(self._batch([conversations], params, self._encode_conversation))[0]
        return self._run(self._batch(conversations, params, self._encode_conversation))

    def stream(self, prompt: Prompt | Conversation, params: SamplingParams | None = None) -> AnswerStream:
        """Answer one prompt or conversation, event by event. Closing the iterator, or Ctrl-C, cancels the request.

        Raises UsageError before the first event for what cannot run, and at the end the error that stopped a request.
        """
        return AnswerStream(self._stream_batch(prompt, params), self._end)

    @overload
    def score(self, token_ids: Sequence[int], top_k: int = 0) -> Score: ...

    @overload
    def score(self, token_ids: Sequence[Sequence[int]], top_k: int = 0) -> list[Score]: ...

    def score(self, token_ids: Sequence[int] | Sequence[Sequence[int]], top_k: int = 0) -> Score | list[Score]:
        """Log-probability of every given token, and at each position the `top_k` likeliest to come next.

        Takes one text's tokens or several texts'. Raises UsageError for what cannot run.
        """
        token_ids = unpacked(token_ids)
        scores = [score_of(result) for result in self._run(self._score_batch(token_ids, top_k))]
        return scores[0] if is_prompt(token_ids) else scores

    @overload
    def embed(  # type: ignore[overload-overlap]
        self, prompts: Prompt, pooling: Pooling | str | None = None
    ) -> tuple[float, ...]: ...

    @overload
    def embed(self, prompts: Sequence[Prompt], pooling: Pooling | str | None = None) -> list[tuple[float, ...]]: ...

    def embed(
        self, prompts: Prompt | Sequence[Prompt], pooling: Pooling | str | None = None
    ) -> tuple[float, ...] | list[tuple[float, ...]]:
        """The final hidden states of a prompt, or of several, pooled to one vector each; not normalised.

        `pooling` is "mean", over all tokens, or "last", of the last token; None is what the model was made for. Raises
        UsageError for what cannot run.
        """
        prompts = unpacked(prompts)
        vectors = [embedding_of(result) for result in self._run(self._embedding_batch(prompts, pooling))]
        return vectors[0] if is_prompt(prompts) else vectors

    def rerank(
        self, query: str, documents: Sequence[str], *, instruction: str | None = None, top_n: int | None = None
    ) -> list[Ranked]:
        """The documents most relevant to a query, the best first, as a Qwen3-Reranker judges them.

        `instruction` says what counts as relevant. Raises UsageError for what cannot run, and for a model whose chat
        format is another.
        """
        top_n = None if top_n is None else whole_number("top_n", top_n, 0)
        reranker, batch = self._rerank_batch(query, documents, instruction)
        return ranked(relevances(reranker, self._run(batch)), top_n)

    @overload
    async def agenerate(  # type: ignore[overload-overlap]
        self, prompts: Prompt, params: SamplingParams | None = None
    ) -> GenerationResult: ...

    @overload
    async def agenerate(
        self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> list[GenerationResult]: ...

    async def agenerate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> GenerationResult | list[GenerationResult]:
        """`generate` for an event loop; cancelling the task cancels the requests."""
        prompts = unpacked(prompts)
        if is_prompt(prompts):
            return (await self._arun(self._batch([prompts], params, self._encode_prompt)))[0]
        return await self._arun(self._batch(prompts, params, self._encode_prompt))

    @overload
    async def achat(self, conversations: Conversation, params: SamplingParams | None = None) -> GenerationResult: ...

    @overload
    async def achat(
        self, conversations: Sequence[Conversation], params: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> list[GenerationResult]: ...

    async def achat(
        self,
        conversations: Conversation | Sequence[Conversation],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> GenerationResult | list[GenerationResult]:
        """`chat` for an event loop."""
        if is_one(conversations):
            return (await self._arun(self._batch([conversations], params, self._encode_conversation)))[0]
        return await self._arun(self._batch(conversations, params, self._encode_conversation))

    def astream(
        self, prompt: Prompt | Conversation, params: SamplingParams | None = None
    ) -> AsyncIterator[StreamEvent]:
        """`stream` for an event loop."""
        return self._astream(self._stream_batch(prompt, params))

    @overload
    async def ascore(self, token_ids: Sequence[int], top_k: int = 0) -> Score: ...

    @overload
    async def ascore(self, token_ids: Sequence[Sequence[int]], top_k: int = 0) -> list[Score]: ...

    async def ascore(self, token_ids: Sequence[int] | Sequence[Sequence[int]], top_k: int = 0) -> Score | list[Score]:
        """`score` for an event loop."""
        token_ids = unpacked(token_ids)
        scores = [score_of(result) for result in await self._arun(self._score_batch(token_ids, top_k))]
        return scores[0] if is_prompt(token_ids) else scores

    @overload
    async def aembed(  # type: ignore[overload-overlap]
        self, prompts: Prompt, pooling: Pooling | str | None = None
    ) -> tuple[float, ...]: ...

    @overload
    async def aembed(
        self, prompts: Sequence[Prompt], pooling: Pooling | str | None = None
    ) -> list[tuple[float, ...]]: ...

    async def aembed(
        self, prompts: Prompt | Sequence[Prompt], pooling: Pooling | str | None = None
    ) -> tuple[float, ...] | list[tuple[float, ...]]:
        """`embed` for an event loop."""
        prompts = unpacked(prompts)
        vectors = [embedding_of(result) for result in await self._arun(self._embedding_batch(prompts, pooling))]
        return vectors[0] if is_prompt(prompts) else vectors

    async def arerank(
        self, query: str, documents: Sequence[str], *, instruction: str | None = None, top_n: int | None = None
    ) -> list[Ranked]:
        """`rerank` for an event loop."""
        top_n = None if top_n is None else whole_number("top_n", top_n, 0)
        reranker, batch = self._rerank_batch(query, documents, instruction)
        return ranked(relevances(reranker, await self._arun(batch)), top_n)

    def close(self) -> None:
        """Stop and release everything; requests under way end with EngineClosedError. Idempotent."""
        self._model.close()
        self._counter.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _encode_prompt(self, prompt: Any) -> Sequence[int]:
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt, allow_special=True)
        prompt = unpacked(prompt)
        if not are_token_ids(prompt):
            raise UsageError(
                "the prompt is neither text nor a list of token ids",
                hint='Give a text, for example "Hello"; conversations go to chat.',
            )
        return tuple(map(int, prompt))

    def _encode_conversation(self, conversation: Any) -> Sequence[int]:
        if not is_conversation(conversation):
            raise UsageError(
                "the conversation is not a list of messages", hint='For example [{"role": "user", "content": "Hello"}].'
            )
        return encode_chat(self._model.text.template, self.tokenizer, conversation)

    def _batch(
        self,
        prompts: Sequence[Any],
        params: SamplingParams | Sequence[SamplingParams] | None,
        encode: Callable[[Any], Sequence[int]],
    ) -> Batch:
        prompts = listed(prompts, "a prompt, a conversation or a list of them is wanted")
        each = params_of_each(params, len(prompts))
        pairs = zip(prompts, each, strict=True)
        return Batch(self._model.generator, [self._text_request(prompt, one, encode) for prompt, one in pairs])

    def _stream_batch(self, prompt: Prompt | Conversation, params: SamplingParams | None) -> Batch:
        prompt = unpacked(prompt)
        encode = self._encode_conversation if is_conversation(prompt) else self._encode_prompt
        batch = self._batch([prompt], params, encode)
        batch.raise_error()
        return batch

    def _score_batch(self, token_ids: Sequence[int] | Sequence[Sequence[int]], top_k: int) -> Batch:
        top_k = whole_number("top_k", top_k, 0)
        texts = [token_ids] if is_prompt(token_ids) else listed(token_ids, "token ids are wanted")
        requests = []
        for text in map(unpacked, texts):
            if not are_token_ids(text):
                raise UsageError("score takes token ids", hint="Encode the text: llm.score(llm.tokenizer.encode(text))")
            request = GenerationRequest(self._new_id(), tuple(map(int, text)), 0, num_prompt_logprobs=top_k)
            requests.append(TextRequest(request, self._new_assembler))
        return Batch(self._model.generator, requests)

    def _embedding_batch(self, prompts: Prompt | Sequence[Prompt], pooling: Pooling | str | None) -> Batch:
        if pooling is None:
            pooling = self._model.text.pooling
        if pooling not in list(Pooling):
            raise UsageError(f"pooling {pooling!r} is not possible", hint=f"Choose one of: {', '.join(Pooling)}.")
        requests = []
        for prompt in [prompts] if is_prompt(prompts) else listed(prompts, "prompts are wanted"):
            token_ids = tuple(self._encode_prompt(prompt))
            request = GenerationRequest(self._new_id(), token_ids, 0, pooling=Pooling(pooling))
            requests.append(TextRequest(request, self._new_assembler))
        return Batch(self._model.generator, requests)

    def _rerank_batch(self, query: str, documents: Sequence[str], instruction: str | None) -> tuple[Reranker, Batch]:
        documents = listed(documents, "a list of documents is wanted")
        texts = [query, *documents, *(() if instruction is None else (instruction,))]
        if not all(isinstance(text, str) for text in texts):
            raise UsageError(
                "the query, the instruction or a document is not text", hint="Give rerank a text and a list of texts."
            )
        reranker = Reranker(self.tokenizer, query, instruction, self._model.text.classifier)
        requests = (
            request
            for document in documents
            for request in reranker.requests(document, [self._new_id() for _ in range(reranker.num_requests)])
        )
        text_requests = [TextRequest(request, self._new_assembler) for request in requests]
        return reranker, Batch(self._model.generator, text_requests)

    def _text_request(
        self, prompt: Any, params: SamplingParams, encode: Callable[[Any], Sequence[int]]
    ) -> TextRequest | GenerationResult:
        token_ids: Sequence[int] = ()
        try:
            token_ids = encode(prompt)
            request = self._model.text.rules.resolve(params, token_ids, self._new_id())
        except AbaciError as error:
            return failed(error, token_ids)
        # What follows a prompt goes on with its last word; an answer in a conversation is a text of its own.
        continuation = encode == self._encode_prompt
        return TextRequest(request, lambda: self._new_assembler(params, continuation))

    def _new_assembler(self, params: SamplingParams = _PLAIN, continuation: bool = False) -> TextAssembler:
        return TextAssembler(
            self.tokenizer,
            stop=stop_strings(params),
            include_stop=params.include_stop_str_in_output,
            skip_special=params.skip_special_tokens,
            continuation=continuation,
            min_tokens=params.min_tokens,
        )

    def _new_id(self) -> str:
        return f"llm-{next(self._request_numbers)}"

    def _end(self, batch: Batch) -> None:
        batch.cancel()
        self._counter.add(batch.usages())

    def _run(self, batch: Batch) -> list[GenerationResult]:
        events: queue.SimpleQueue[TimedEvent] = queue.SimpleQueue()
        try:
            batch.submit(events.put)
            while not batch.is_done:
                batch.push(events.get())
            return batch.results()
        finally:
            self._end(batch)

    async def _arun(self, batch: Batch) -> list[GenerationResult]:
        events: asyncio.Queue[TimedEvent] = asyncio.Queue()
        try:
            batch.submit(_put_on_loop(events))
            while not batch.is_done:
                batch.push(await events.get())
            return batch.results()
        finally:
            self._end(batch)

    async def _astream(self, batch: Batch) -> AsyncIterator[StreamEvent]:
        events: asyncio.Queue[TimedEvent] = asyncio.Queue()
        try:
            batch.submit(_put_on_loop(events))
            while not batch.is_done:
                event = batch.push(await events.get())
                if event is not None:
                    yield event
            batch.raise_error()
        finally:
            self._end(batch)


def _put_on_loop(events: asyncio.Queue[TimedEvent]) -> Callable[[TimedEvent], None]:
    loop = asyncio.get_running_loop()

    def put(timed: TimedEvent) -> None:
        loop.call_soon_threadsafe(events.put_nowait, timed)

    return put
