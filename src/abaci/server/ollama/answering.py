"""`POST /api/chat` and `/api/generate`: one call with two shapes, whole and streamed line by line."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from abaci.chat.answer import AnswerDelta, ChatRequest, ToolCallDelta
from abaci.chat.messages import Message, Role
from abaci.chat.reading import AnswerReader
from abaci.chat.requests import check_params, stop_strings
from abaci.chat.text import TextAssembler
from abaci.errors import ForbiddenError
from abaci.formats.tokenizer import Tokenizer
from abaci.generation import FinishReason, GenerationRequest, SamplingParams, TokenEvent
from abaci.server.generating import ChatGeneration, Generation, Used, beside_loop, generation
from abaci.server.ollama.bodies import AnswerBody, ChatBody, GenerateBody, LoadingBody
from abaci.server.ollama.conversation import conversation_of
from abaci.server.ollama.names import duration_seconds, resolved_name
from abaci.server.openai.chat import visible_logprobs
from abaci.server.openai.logprobs import TokenNames
from abaci.server.replies import Reply, Sender
from abaci.server.services import Services
from abaci.server.wire import compact_json, error_document, read_body, warning_headers

NDJSON: Final = "application/x-ndjson"

Shape = Callable[[str, str, Sequence[Mapping[str, Any]]], dict[str, Any]]
"""Content, thought and calls as a field or fields of the answer."""


async def chat(request: Request, services: Services) -> Response:
    """The handler of `/api/chat`."""
    body = await read_body(request, ChatBody)
    body.check()
    if not body.messages:
        return await _loaded(request, services, body, _chat_shape)
    asked = ChatRequest(
        messages=conversation_of(body.messages),
        params=body.params(),
        tools=tuple(body.tools or ()),
        reasoning=body.reasoning(),
    )

    async def start(running: Generation) -> ChatGeneration:
        return await ChatGeneration.start(running, asked)

    return _answered(request, services, body, start, _chat_shape)


async def generate(request: Request, services: Services) -> Response:
    """The handler of `/api/generate`. Without a prompt it loads or unloads the model."""
    body = await read_body(request, GenerateBody)
    body.check()
    prompt = body.prompt
    if not prompt:
        return await _loaded(request, services, body, _text_shape)
    params = body.params()
    system = [Message(Role.SYSTEM, body.system)] if body.system else []
    asked = ChatRequest(messages=[*system, Message(Role.USER, prompt)], params=params, reasoning=body.reasoning())

    async def start(running: Generation) -> ChatGeneration:
        if body.raw:
            return await _start_raw(running, prompt, params)
        return await ChatGeneration.start(running, asked)

    return _answered(request, services, body, start, _text_shape)


def timestamp(seconds: float | None = None) -> str:
    """A moment, or now, as Ollama writes it."""
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat().replace("+00:00", "Z")


def keep_alive(services: Services, request: Request, name: str, body: LoadingBody) -> None:
    """Do as the caller wishes, if it runs the server: how long a model stays is everybody's business."""
    if body.keep_alive is not None and request.state.caller.is_admin:
        services.pool.keep_alive(name, duration_seconds("keep_alive", body.keep_alive))


def ignored_headers(request: Request, body: LoadingBody) -> dict[str, str]:
    """The header that tells of what has no effect."""
    return warning_headers(body.ignored(is_admin=request.state.caller.is_admin))


def nanoseconds(seconds: float) -> int:
    """Ollama's unit of time."""
    return round(seconds * 1e9)


async def _loaded(request: Request, services: Services, body: AnswerBody, shape: Shape) -> Response:
    """The answer to no question: the model is there, or gone."""
    caller = request.state.caller
    name = services.model_name(caller, resolved_name(services, caller, body.asked))
    reason = "unload" if body.unloads else "load"

    async def write(sender: Sender) -> None:
        if body.unloads:
            if not caller.is_admin:
                raise ForbiddenError(
                    f"the key {caller.name!r} may not unload models",
                    hint="Send it with the key that the server was started with, or leave keep_alive out.",
                )
            await services.pool.unload(name)
        else:
            async with services.pool.lease(name) as model:
                body.options.check_context(model.status.context_length)
                keep_alive(services, request, name, body)
        await sender.whole(
            {"model": body.asked, "created_at": timestamp(), **shape("", "", ()), "done": True, "done_reason": reason}
        )

    return Reply(
        write,
        slow_reader_seconds=services.config.slow_reader_seconds,
        extra_headers=ignored_headers(request, body),
    )


def _answered(
    request: Request,
    services: Services,
    body: AnswerBody,
    start: Callable[[Generation], Any],
    shape: Shape,
) -> Response:
    call = _Call(services, request, body, start, shape)
    return Reply(
        call.write,
        slow_reader_seconds=services.config.slow_reader_seconds,
        extra_headers=ignored_headers(request, body),
    )


class _Call:
    """One call of either endpoint."""

    def __init__(
        self,
        services: Services,
        request: Request,
        body: AnswerBody,
        start: Callable[[Generation], Any],
        shape: Shape,
    ) -> None:
        self._services = services
        self._request = request
        self._body = body
        self._start = start
        self._shape = shape
        self._name = resolved_name(services, request.state.caller, body.asked)
        self._id = f"ollama-{request.state.request_id}"
        self._begin_seconds = perf_counter()
        self._load_seconds = 0.0

    async def write(self, sender: Sender) -> None:
        async with generation(self._services, self._request.state.caller, self._name, self._id) as running:
            self._load_seconds = perf_counter() - self._begin_seconds
            self._body.options.check_context(running.model.status.context_length)
            keep_alive(self._services, self._request, self._name, self._body)
            chat = await self._start(running)
            if self._body.stream is False:
                await self._whole(sender, running, chat)
            else:
                await self._stream(sender, running, chat)

    async def _stream(self, sender: Sender, running: Generation, chat: ChatGeneration) -> None:
        names, calls = TokenNames(running.model.text.tokenizer), _Calls()
        async with sender.stream(NDJSON, self._error_line):
            lines: list[bytes] = []
            async for item in chat.deltas():
                if item is None:  # a silent stream says that it lives
                    await sender.piece(self._line(self._shape("", "", ())))
                    continue
                delta, event = item
                complete = calls.push(delta)
                logprobs = self._logprobs(names, delta, event)
                if delta.content or delta.reasoning or complete or logprobs:
                    lines.append(self._line(self._shape(delta.content, delta.reasoning, complete), logprobs))
                if delta.finish_reason is not None:
                    lines.append(self._line(self._shape(calls.broken, "", ()), {}, self._ending(delta, running.used())))
                if lines and not running.has_events:
                    await running.deliver(sender, b"".join(lines))
                    lines = []

    async def _whole(self, sender: Sender, running: Generation, chat: ChatGeneration) -> None:
        names, calls = TokenNames(running.model.text.tokenizer), _Calls()
        content, reasoning = "", ""
        complete: list[Mapping[str, Any]] = []
        logprobs: dict[str, list[Any]] = {"logprobs": []} if self._body.logprobs else {}
        ending: dict[str, Any] = {}
        async for item in chat.deltas():
            if item is None:
                continue
            delta, event = item
            content, reasoning = content + delta.content, reasoning + delta.reasoning
            complete += calls.push(delta)
            for name, entries in self._logprobs(names, delta, event).items():
                logprobs[name] += entries
            if delta.finish_reason is not None:
                ending = self._ending(delta, running.used())
        await sender.whole(self._document(self._shape(content + calls.broken, reasoning, complete), logprobs, ending))

    def _line(self, *fields: Mapping[str, Any]) -> bytes:
        return (compact_json(self._document(*fields)) + "\n").encode()

    def _document(
        self,
        answer: Mapping[str, Any],
        logprobs: Mapping[str, Any] | None = None,
        ending: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        state = ending or {"done": False}
        return {"model": self._body.asked, "created_at": timestamp(), **answer, **(logprobs or {}), **state}

    def _logprobs(self, names: TokenNames, delta: AnswerDelta, event: TokenEvent) -> dict[str, list[Any]]:
        if not self._body.logprobs:
            return {}
        entries = [names.chat_entry(logprob) for logprob in visible_logprobs(delta, event)]
        return {"logprobs": entries} if entries else {}

    def _ending(self, last: AnswerDelta, used: Used) -> dict[str, Any]:
        return {
            "done": True,
            "done_reason": "length" if last.finish_reason is FinishReason.LENGTH else "stop",
            "total_duration": nanoseconds(perf_counter() - self._begin_seconds),
            "load_duration": nanoseconds(self._load_seconds),
            "prompt_eval_count": used.prompt_tokens,
            "prompt_eval_duration": nanoseconds(used.prefill_seconds),
            "eval_count": used.completion_tokens,
            "eval_duration": nanoseconds(used.decode_seconds),
        }

    def _error_line(self, error: Exception) -> bytes:
        return (compact_json(error_document(error, self._request.url.path)) + "\n").encode()


class _Calls:
    """Tool calls, which Ollama hands out whole."""

    def __init__(self) -> None:
        self.broken = ""
        """Text of a call that the end of the answer cut off: it is no call."""
        self._name: str | None = None
        self._arguments = ""

    def push(self, delta: AnswerDelta) -> list[Mapping[str, Any]]:
        """The calls that are complete with this delta."""
        complete = []
        for piece in delta.tool_calls:
            if piece.name is not None:
                complete += self._finish()
            self._add(piece)
        if delta.finish_reason is not None:
            complete += self._finish()
        return complete

    def _add(self, piece: ToolCallDelta) -> None:
        if piece.name is not None:
            self._name, self._arguments = piece.name, ""
        self._arguments += piece.arguments

    def _finish(self) -> list[Mapping[str, Any]]:
        name, self._name = self._name, None
        if name is None:
            return []
        try:
            return [{"function": {"name": name, "arguments": json.loads(self._arguments or "{}")}}]
        except ValueError:
            self.broken = self._arguments
            return []


@dataclass(frozen=True, slots=True)
class _Continuation:
    """A prompt without a template (`generating.Prepared`)."""

    request: GenerationRequest
    tokenizer: Tokenizer
    params: SamplingParams

    def new_reader(self, sample_index: int) -> AnswerReader:
        """Of plain text."""
        return AnswerReader(
            sample_index, TextAssembler(self.tokenizer, stop=stop_strings(self.params), continuation=True)
        )


async def _start_raw(running: Generation, prompt: str, params: SamplingParams) -> ChatGeneration:
    text = running.model.text
    check_params(params)
    token_ids = await beside_loop(len(prompt), lambda: text.tokenizer.encode(prompt, allow_special=True))
    request = text.rules.resolve(params, token_ids, running.new_id())
    await running.submit(request)
    return ChatGeneration(running, _Continuation(request, text.tokenizer, params))


def _chat_shape(content: str, reasoning: str, calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if reasoning:
        message["thinking"] = reasoning
    if calls:
        message["tool_calls"] = list(calls)
    return {"message": message}


def _text_shape(content: str, reasoning: str, calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"response": content, "thinking": reasoning} if reasoning else {"response": content}
