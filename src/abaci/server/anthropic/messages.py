"""`POST /v1/messages`, whole and streamed, and `POST /v1/messages/count_tokens`."""

from collections.abc import Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from abaci.chat.answer import AnswerDelta
from abaci.chat.preparing import prepare
from abaci.generation import FinishReason, SamplingParams
from abaci.server.anthropic.blocks import ContentBlocks, Event
from abaci.server.anthropic.bodies import MessagesBody, PromptBody
from abaci.server.generating import ChatGeneration, Generation, Used, beside_loop, generation
from abaci.server.replies import EVENT_STREAM, Reply, Sender
from abaci.server.services import Services
from abaci.server.wire import compact_json, error_document, read_body, warning_headers

_PING: Final = b'event: ping\ndata: {"type":"ping"}\n\n'


async def messages(request: Request, services: Services) -> Response:
    """The handler."""
    body = await read_body(request, MessagesBody)
    call = _Call(services, request, body)
    return Reply(
        call.write,
        slow_reader_seconds=services.config.slow_reader_seconds,
        extra_headers=warning_headers(body.unknown_parameters()),
    )


async def count_tokens(request: Request, services: Services) -> Response:
    """How many tokens the prompt of the same request would have."""
    body = await read_body(request, PromptBody)
    asked = body.chat_request(SamplingParams(max_tokens=1))
    name = services.model_name(request.state.caller, body.model)
    async with services.pool.lease(name) as model:
        length = sum(len(str(message)) for message in asked.messages)
        prepared = await beside_loop(length, lambda: prepare(model.text, asked, "count"))
    document = {"input_tokens": len(prepared.request.prompt_token_ids)}
    return JSONResponse(document, headers=warning_headers(body.unknown_parameters()))


class _Call:
    """One call of the endpoint."""

    def __init__(self, services: Services, request: Request, body: MessagesBody) -> None:
        self._services = services
        self._caller = request.state.caller
        self._path = request.url.path
        self._body = body
        self._asked = body.asked()
        self._id = f"msg_{request.state.request_id}"

    async def write(self, sender: Sender) -> None:
        async with generation(self._services, self._caller, self._body.model, self._id) as running:
            chat = await ChatGeneration.start(running, self._asked)
            if self._body.stream:
                await self._stream(sender, running, chat)
            else:
                await self._whole(sender, running, chat)

    async def _stream(self, sender: Sender, running: Generation, chat: ChatGeneration) -> None:
        blocks = ContentBlocks(shows_thinking=self._body.shows_thinking)
        async with sender.stream(EVENT_STREAM, self._error_event):
            start = {"type": "message_start", "message": self._message([], None, running.used())}
            await sender.piece(_encoded([start]) + _PING)
            pieces: list[Event] = []
            async for item in chat.deltas():
                if item is None:
                    await sender.piece(_PING)
                    continue
                delta, _ = item
                pieces += blocks.push(delta)
                if delta.finish_reason is not None:
                    pieces.append(self._ending(delta, running.used()))
                    pieces.append({"type": "message_stop"})
                if pieces and not running.has_events:
                    await running.deliver(sender, _encoded(pieces))
                    pieces = []

    async def _whole(self, sender: Sender, running: Generation, chat: ChatGeneration) -> None:
        blocks = ContentBlocks(shows_thinking=self._body.shows_thinking)
        last: AnswerDelta | None = None
        async for item in chat.deltas():
            if item is not None:
                last, _ = item
                blocks.push(last)
        await sender.whole(self._message(blocks.content(), last, running.used()))

    def _message(self, content: list[Event], last: AnswerDelta | None, used: Used) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._body.model,
            "content": content,
            **_stop_fields(last),
            "usage": _usage(used),
        }

    def _ending(self, last: AnswerDelta, used: Used) -> Event:
        return {"type": "message_delta", "delta": _stop_fields(last), "usage": _usage(used)}

    def _error_event(self, error: Exception) -> bytes:
        return _encoded([error_document(error, self._path)])


def _stop_fields(last: AnswerDelta | None) -> dict[str, str | None]:
    """Why the answer ended; nothing while it has not."""
    if last is None:
        return {"stop_reason": None, "stop_sequence": None}
    if last.finish_reason is FinishReason.LENGTH:
        reason = "max_tokens"
    elif last.has_tool_calls:
        reason = "tool_use"
    else:
        reason = "end_turn" if last.stop_string is None else "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": last.stop_string}


def _usage(used: Used) -> dict[str, int]:
    """Anthropic counts what came from the cache beside the input, not in it."""
    return {
        "input_tokens": used.prompt_tokens - used.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": used.cached_tokens,
        "output_tokens": used.completion_tokens,
    }


def _encoded(events: Sequence[Event]) -> bytes:
    return "".join(f"event: {event['type']}\ndata: {compact_json(event)}\n\n" for event in events).encode()
