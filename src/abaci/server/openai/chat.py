"""`POST /v1/chat/completions`, whole and streamed."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from abaci.chat.answer import AnswerDelta, ChatRequest, ReasoningOptions, ToolCallDelta, ToolChoice
from abaci.generation import FinishReason, TokenEvent, TokenLogprob
from abaci.server.generating import ChatGeneration, Generation, Used, generation
from abaci.server.openai.bodies import ChatBody
from abaci.server.openai.frame import Frame
from abaci.server.openai.logprobs import TokenNames
from abaci.server.openai.tool_choice import read_tool_choice
from abaci.server.replies import DONE, EVENT_STREAM, PING, Reply, Sender, server_sent_event
from abaci.server.services import Services
from abaci.server.wire import ParameterError, compact_json, error_document, read_body, warning_headers
from abaci.version import __version__

_INLINE: Final = "inline"
_MAX_TEMPLATE_CHARACTERS: Final = 65_536


async def chat_completions(request: Request, services: Services) -> Response:
    """The handler."""
    body = await read_body(request, ChatBody)
    asked = chat_request(body)
    call = _Call(services, request, body, asked)
    return Reply(
        call.write,
        slow_reader_seconds=services.config.slow_reader_seconds,
        extra_headers=warning_headers(body.unknown_parameters()),
    )


def chat_request(body: ChatBody) -> ChatRequest:
    """The neutral form of what a body asks for. Raises ParameterError, UsageError."""
    body.check_stream_options()
    if body.store:
        raise ParameterError("store", "store is not supported here", hint="Use /v1/responses.")
    if body.continue_final_message:
        raise ParameterError(
            "continue_final_message",
            "continue_final_message is not supported",
            hint="Send the beginning of the answer to /v1/completions, in a prompt that /apply-template makes.",
        )
    if body.max_completion_tokens is not None and body.max_tokens not in (None, body.max_completion_tokens):
        raise ParameterError(
            "max_tokens",
            "max_tokens and max_completion_tokens say different things",
            hint="Send only one of them: max_completion_tokens.",
        )
    max_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    if max_tokens == 0:
        raise ParameterError(
            "max_tokens", "max_tokens is 0", hint="Send at least 1, or leave it out for as many as there is room for."
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise ParameterError(
            "top_logprobs", "top_logprobs is set, and logprobs is not", hint="Send logprobs: true as well."
        )
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    return ChatRequest(
        messages=body.messages,
        params=body.sampling_params(logprobs=logprobs, max_tokens=max_tokens),
        tools=tuple(body.tools or ()),
        tool_choice=_tool_choice(body.tool_choice, has_tools=bool(body.tools)),
        allow_parallel_tool_calls=body.parallel_tool_calls is not False,
        reasoning=_reasoning(body),
        template_variables=body.chat_template_kwargs or {},
        add_generation_prompt=body.add_generation_prompt,
    )


def _tool_choice(given: str | Mapping[str, Any] | None, *, has_tools: bool) -> ToolChoice:
    named: str | None = None
    match given:
        case {"type": "function", "function": {"name": str(name)}}:
            named = name
    example = 'For example {"type": "function", "function": {"name": "f"}}.'
    return read_tool_choice(given, named, example, has_tools=has_tools)


def _reasoning(body: ChatBody) -> ReasoningOptions:
    """OpenAI's `reasoning_effort`, OpenRouter's `reasoning`, vLLM's budget."""
    effort, budget, enabled = body.reasoning_effort, body.thinking_token_budget, None
    given = dict(body.reasoning or {})
    if given:
        other = given.pop("effort", None)
        if other is not None and effort is not None and other != effort:
            raise ParameterError(
                "reasoning", "reasoning.effort and reasoning_effort say different things", hint="Send only one of them."
            )
        effort = effort or other
        enabled = given.pop("enabled", None)
        budget = given.pop("max_tokens", budget)
        given.pop("exclude", None)
        if given:
            raise ParameterError(
                "reasoning",
                f"reasoning has unknown keys: {', '.join(sorted(map(str, given)))}",
                hint="It may have effort, enabled, max_tokens and exclude.",
            )
    if not isinstance(effort, str | None) or not isinstance(enabled, bool | None):
        raise ParameterError(
            "reasoning",
            "reasoning.effort is no word, or reasoning.enabled neither true nor false",
            hint='For example {"effort": "low"} or {"enabled": false}.',
        )
    if budget is not None and (not isinstance(budget, int) or isinstance(budget, bool) or budget < 0):
        raise ParameterError(
            "reasoning", f"reasoning.max_tokens is {str(budget)[:40]!r}", hint="Send a whole number of at least 0."
        )
    if effort == "none":
        enabled = False
    return ReasoningOptions(enabled, effort, budget)


def _reasoning_fields(configured: str, body: ChatBody) -> tuple[str, ...]:
    """Fields that get the thought: as the server is set, unless the request says otherwise."""
    if not body.include_reasoning:
        return ()
    if body.reasoning_format == "none":
        return (_INLINE,)
    return ("reasoning_content", "reasoning") if configured == "both" else (configured,)


class _Call:
    """One call of the endpoint."""

    def __init__(self, services: Services, request: Request, body: ChatBody, asked: ChatRequest) -> None:
        self._services = services
        self._caller = request.state.caller
        self._path = request.url.path
        self._body = body
        self._asked = asked
        self._model_name = body.model or services.pool.default_name
        self._id = f"chatcmpl-{request.state.request_id}"
        self._created = int(time.time())
        self._reasoning_fields = _reasoning_fields(services.config.reasoning_fields, body)

    async def write(self, sender: Sender) -> None:
        async with generation(self._services, self._caller, self._model_name, self._id) as running:
            chat = await ChatGeneration.start(
                running, self._asked, priority=self._body.priority, cache_salt=self._body.cache_salt or ""
            )
            if self._body.stream:
                await self._stream(sender, running, chat)
            else:
                await self._whole(sender, running, chat)

    # Streamed.

    async def _stream(self, sender: Sender, running: Generation, chat: ChatGeneration) -> None:
        num_samples = chat.prepared.request.num_samples
        frame = Frame.make(self._identity(running, "chat.completion.chunk"), has_usage=self._body.includes_usage)
        names = TokenNames(running.model.text.tokenizer, as_ids=self._body.return_tokens_as_token_ids)
        placements = [_ReasoningPlacement(self._reasoning_fields) for _ in range(num_samples)]
        async with sender.stream(EVENT_STREAM, lambda error: error_event(error, self._path)):
            await sender.piece(b"".join(frame.chunk(_role_choice(index)) for index in range(num_samples)))
            pieces: list[bytes] = []
            async for item in chat.deltas():
                if item is None:
                    await sender.piece(PING)
                    continue
                delta, event = item
                texts = placements[delta.sample_index].place(delta)
                pieces += self._chunks(frame, names, texts, delta, visible_logprobs(delta, event))
                if pieces and not running.has_events:
                    await running.deliver(sender, b"".join(pieces))
                    pieces = []
            pieces += self._last_chunks(running)
            await sender.piece(b"".join(pieces))

    def _chunks(
        self,
        frame: Frame,
        names: TokenNames,
        texts: Mapping[str, str],
        delta: AnswerDelta,
        logprobs: Sequence[TokenLogprob],
    ) -> list[bytes]:
        """The chunks of one delta: what is new, and apart from it the end."""
        chunks = []
        fields = [f'"{name}":{encode_basestring(text)}' for name, text in texts.items()]
        if delta.tool_calls:
            calls = compact_json([_call_delta(call) for call in delta.tool_calls])
            fields.append(f'"tool_calls":{calls}')
        wants_logprobs = bool(self._body.logprobs and logprobs)
        if fields or wants_logprobs or (self._body.return_token_ids and delta.token_ids):
            encoded = _logprobs_json(logprobs, names) if wants_logprobs else "null"
            extra = f',"token_ids":{compact_json(delta.token_ids)}' if self._body.return_token_ids else ""
            chunks.append(
                frame.chunk(
                    f'{{"index":{delta.sample_index},"delta":{{{",".join(fields)}}},'
                    f'"logprobs":{encoded},"finish_reason":null{extra}}}'
                )
            )
        if delta.finish_reason is not None:
            reason = compact_json(finish_reason(delta))
            chunks.append(
                frame.chunk(f'{{"index":{delta.sample_index},"delta":{{}},"logprobs":null,"finish_reason":{reason}}}')
            )
        return chunks

    def _last_chunks(self, running: Generation) -> list[bytes]:
        if not self._body.includes_usage:
            return [DONE]
        document = {**self._identity(running, "chat.completion.chunk"), "choices": [], **usage_fields(running.used())}
        return [server_sent_event(document), DONE]

    # Whole.

    async def _whole(self, sender: Sender, running: Generation, chat: ChatGeneration) -> None:
        samples = [
            _Sample(_ReasoningPlacement(self._reasoning_fields)) for _ in range(chat.prepared.request.num_samples)
        ]
        prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
        async for item in chat.deltas():
            if item is None:
                continue
            delta, event = item
            prompt_logprobs = event.prompt_logprobs or prompt_logprobs
            samples[delta.sample_index].add(delta, event)
        names = TokenNames(running.model.text.tokenizer, as_ids=self._body.return_tokens_as_token_ids)
        document = {
            **self._identity(running, "chat.completion"),
            "choices": [self._choice(index, sample, names) for index, sample in enumerate(samples)],
            **usage_fields(running.used()),
        }
        if prompt_logprobs is not None:
            document["prompt_logprobs"] = [names.prompt_entry(entry) for entry in prompt_logprobs[:-1]]
        if self._body.return_token_ids:
            document["prompt_token_ids"] = list(chat.prepared.request.prompt_token_ids)
        await sender.whole(document)

    def _choice(self, index: int, sample: "_Sample", names: TokenNames) -> dict[str, Any]:
        logprobs = None
        if self._body.logprobs:
            logprobs = {"content": [names.chat_entry(entry) for entry in sample.logprobs], "refusal": None}
        choice = {
            "index": index,
            "message": sample.message(),
            "logprobs": logprobs,
            "finish_reason": sample.finish_reason,
        }
        if self._body.return_token_ids:
            choice["token_ids"] = sample.token_ids
        return choice

    def _identity(self, running: Generation, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model_name,
            "system_fingerprint": fingerprint(running),
        }


@dataclass(slots=True)
class _ToolCall:
    """A call, growing."""

    id: str
    name: str
    arguments: str = ""

    def document(self) -> dict[str, Any]:
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


class _Sample:
    """One sample of a whole answer, growing."""

    def __init__(self, placement: "_ReasoningPlacement") -> None:
        self.texts: dict[str, str] = {}
        self.calls: dict[int, _ToolCall] = {}
        self.logprobs: list[TokenLogprob] = []
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None
        self._placement = placement

    def add(self, delta: AnswerDelta, event: TokenEvent) -> None:
        for name, text in self._placement.place(delta).items():
            self.texts[name] = self.texts.get(name, "") + text
        for call in delta.tool_calls:
            if call.name is not None:
                self.calls[call.index] = _ToolCall(call.id or "", call.name)
            self.calls[call.index].arguments += call.arguments
        self.logprobs += visible_logprobs(delta, event)
        self.token_ids += delta.token_ids
        if delta.finish_reason is not None:
            self.finish_reason = finish_reason(delta)

    def message(self) -> dict[str, Any]:
        content = self.texts.get("content", "")
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if self.calls and not content else content,
            "refusal": None,
            **{name: text for name, text in self.texts.items() if name != "content"},
        }
        if self.calls:
            message["tool_calls"] = [call.document() for call in self.calls.values()]
        return message


class _ReasoningPlacement:
    """Where the thought of one sample goes: fields of its own, nowhere, or into the content between tags."""

    def __init__(self, fields: tuple[str, ...]) -> None:
        self._fields = fields
        self._is_open = False

    def place(self, delta: AnswerDelta) -> dict[str, str]:
        """Texts of the delta by the field they belong to; empty ones are left out."""
        texts = {"content": delta.content} if delta.content else {}
        if _INLINE not in self._fields:
            return texts | dict.fromkeys(self._fields, delta.reasoning) if delta.reasoning else texts
        inline = ""
        if delta.reasoning:
            inline = delta.reasoning if self._is_open else f"<think>\n{delta.reasoning}"
            self._is_open = True
        if self._is_open and (delta.content or delta.finish_reason is not None):
            inline += "\n</think>\n\n"
            self._is_open = False
        return {"content": inline + delta.content} if inline or delta.content else {}


def finish_reason(delta: AnswerDelta) -> str:
    """OpenAI's word for the end of a sample."""
    if delta.has_tool_calls and delta.finish_reason is FinishReason.STOP:
        return "tool_calls"
    return str(delta.finish_reason)


def visible_logprobs(delta: AnswerDelta, event: TokenEvent) -> Sequence[TokenLogprob]:
    """Those of the answer's own tokens: the one that ended it is no part of it."""
    return delta.logprobs[:-1] if event.ended_by_token else delta.logprobs


def usage_fields(used: Used) -> dict[str, Any]:
    """`usage` as OpenAI has it, and llama.cpp's `timings`."""
    computed = used.prompt_tokens - used.cached_tokens
    return {
        "usage": {
            "prompt_tokens": used.prompt_tokens,
            "completion_tokens": used.completion_tokens,
            "total_tokens": used.prompt_tokens + used.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
        },
        "timings": {
            "cache_n": used.cached_tokens,
            "prompt_n": computed,
            "prompt_ms": round(used.prefill_seconds * 1e3, 3),
            "prompt_per_second": _rate(computed, used.prefill_seconds),
            "predicted_n": used.completion_tokens,
            "predicted_ms": round(used.decode_seconds * 1e3, 3),
            "predicted_per_second": _rate(max(0, used.completion_tokens - 1), used.decode_seconds),
        },
    }


def fingerprint(running: Generation) -> str:
    """Names what the bytes of an answer depend on: this version and the model file."""
    status = running.model.status
    return f"abaci-{__version__}-{(status.sha256 or status.quantisation or status.name)[:12]}"


def _rate(count: int, seconds: float) -> float | None:
    return round(count / seconds, 3) if seconds > 0 else None


def _role_choice(index: int) -> str:
    return f'{{"index":{index},"delta":{{"role":"assistant","content":""}},"logprobs":null,"finish_reason":null}}'


def _call_delta(call: ToolCallDelta) -> dict[str, Any]:
    if call.name is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}


def _logprobs_json(logprobs: Sequence[TokenLogprob], names: TokenNames) -> str:
    content = [names.chat_entry(entry) for entry in logprobs]
    return compact_json({"content": content, "refusal": None})


def error_event(error: Exception, path: str) -> bytes:
    """The event that tells of an error inside a stream."""
    return server_sent_event(error_document(error, path))
