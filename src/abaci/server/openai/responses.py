"""`/v1/responses`: answers as items, whole and as events, kept so that later requests can go on from them."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from abaci.chat.answer import AnswerDelta, ChatRequest, ReasoningOptions, ToolChoice
from abaci.chat.messages import Message, Role
from abaci.chat.structured import constraint_of
from abaci.errors import NotFoundError
from abaci.generation import Constraint, FinishReason, SamplingParams, TokenEvent
from abaci.server.batch_service import owner_of
from abaci.server.generating import ChatGeneration, Generation, Used, generation
from abaci.server.openai.chat import visible_logprobs
from abaci.server.openai.logprobs import TokenNames
from abaci.server.openai.response_items import input_items, messages_of, new_id
from abaci.server.openai.response_output import Event, ResponseOutput
from abaci.server.openai.tool_choice import read_tool_choice
from abaci.server.replies import EVENT_STREAM, PING, Reply, Sender
from abaci.server.services import Services
from abaci.server.stored import ResponseStore
from abaci.server.wire import ParameterError, WireBody, compact_json, error_document, read_body, warning_headers

_LOGPROBS: Final = "message.output_text.logprobs"
_MAX_CHAIN: Final = 1000
"""Responses that one conversation may go back through."""
_MAX_PAGE: Final = 100

_NOT_SUPPORTED = {
    "background": "Leave it out, and keep the connection open.",
    "conversation": "Use previous_response_id.",
    "prompt": "Send the prompt itself.",
    "max_tool_calls": "Only tools that the client runs are supported.",
    "context_management": "Nothing is removed silently; shorten the input.",
    "moderation": "Leave it out.",
}


class _StreamOptions(WireBody):
    include_obfuscation: bool = False


class ResponsesBody(WireBody):
    """`POST /v1/responses`."""

    model: str | None = None
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    include: list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    truncation: Literal["disabled"] | None = None
    metadata: dict[str, str] | None = Field(default=None, max_length=16)
    service_tier: Literal["auto", "default"] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None

    @classmethod
    def refused_parameters(cls) -> Mapping[str, str]:
        return _NOT_SUPPORTED

    @property
    def is_stored(self) -> bool:
        """Unless the client says no."""
        return self.store is not False

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer's tokens come with their log-probabilities."""
        return _LOGPROBS in (self.include or ()) or bool(self.top_logprobs)

    def without_effect(self) -> list[str]:
        """Names of what was accepted and changes nothing."""
        others = [f"include {name}" for name in self.include or () if name != _LOGPROBS]
        return [*self.unknown_parameters(), *others]

    def chat_request(self, messages: Sequence[Message]) -> ChatRequest:
        """The neutral form. Raises ParameterError, UsageError."""
        tools = tuple(_function(index, tool) for index, tool in enumerate(self.tools or ()))
        return ChatRequest(
            messages=messages,
            params=SamplingParams(
                temperature=self.temperature,
                top_p=self.top_p,
                max_tokens=self.max_output_tokens,
                logprobs=(self.top_logprobs or 0) if self.wants_logprobs else None,
                constraint=self._constraint(),
            ),
            tools=tools,
            tool_choice=_tool_choice(self.tool_choice, has_tools=bool(tools)),
            allow_parallel_tool_calls=self.parallel_tool_calls is not False,
            reasoning=self._reasoning(),
        )

    def _constraint(self) -> Constraint | None:
        text = self.text or {}
        if text.get("verbosity") not in (None, "medium"):
            raise ParameterError(
                "text", f"text.verbosity {text['verbosity']!r} is not supported", hint="Say it in words."
            )
        form = text.get("format")
        match form:
            case None | {"type": "text"}:
                return None
            case {"type": "json_object"}:
                return constraint_of(response_format={"type": "json_object"})
            case {"type": "json_schema", "schema": dict(schema)}:
                described = {"name": form.get("name", "output"), "schema": schema, "strict": form.get("strict")}
                return constraint_of(response_format={"type": "json_schema", "json_schema": described})
        raise ParameterError(
            "text",
            "text.format is of no type that is known, or lacks its schema",
            hint="Send the type text, json_object, or json_schema with a schema.",
        )

    def _reasoning(self) -> ReasoningOptions:
        given = self.reasoning or {}
        effort = given.get("effort")
        if not isinstance(effort, str | None):
            raise ParameterError("reasoning", "reasoning.effort is no word", hint='For example {"effort": "low"}.')
        return ReasoningOptions(False if effort == "none" else None, effort)


async def create_response(request: Request, services: Services) -> Response:
    """Answer an input, going on from an earlier response if one is named."""
    body = await read_body(request, ResponsesBody)
    if body.stream_options is not None and not body.stream:
        raise ParameterError(
            "stream_options",
            "stream_options is set, and stream is not",
            hint="Send stream: true as well, or leave stream_options out.",
        )
    store, owner = ResponseStore(services.accounts.database), owner_of(request.state.caller)
    items = input_items(body.input)
    earlier: list[Mapping[str, Any]] = []
    if body.previous_response_id is not None:
        earlier = await services.accounts.database.run(_earlier_items, store, owner, body.previous_response_id)
    instructions = [] if body.instructions is None else [Message(Role.SYSTEM, body.instructions)]
    asked = body.chat_request([*instructions, *messages_of([*earlier, *items])])
    call = _Call(services, request, body, asked, items)
    return Reply(
        call.write,
        slow_reader_seconds=services.config.slow_reader_seconds,
        extra_headers=warning_headers(body.without_effect()),
    )


async def retrieve_response(request: Request, services: Services) -> Response:
    """A stored response."""
    return JSONResponse((await _stored(request, services))["response"])


async def delete_response(request: Request, services: Services) -> Response:
    """Forget a stored response; those that go on from it can no longer be gone on from."""
    store, response_id = ResponseStore(services.accounts.database), request.path_params["response_id"]
    await services.accounts.database.run(store.delete, owner_of(request.state.caller), response_id)
    return JSONResponse({"id": response_id, "object": "response", "deleted": True})


async def list_input_items(request: Request, services: Services) -> Response:
    """What a stored response was asked, the newest item first unless `order` is asc."""
    order, limit = request.query_params.get("order", "desc"), request.query_params.get("limit", "20")
    if order not in ("asc", "desc"):
        raise ParameterError("order", f"order is {order[:64]!r}", hint="Choose one of: asc, desc.")
    if not limit.isdecimal() or not 1 <= int(limit[:9]) <= _MAX_PAGE:
        raise ParameterError("limit", f"limit is {limit[:64]!r}", hint=f"Send a whole number from 1 to {_MAX_PAGE}.")
    items = (await _stored(request, services))["input"]
    if order == "desc":
        items = items[::-1]
    after = request.query_params.get("after")
    if after is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise ParameterError(
                "after",
                f"after: there is no item {after[:100]!r}",
                hint="Send the last_id of the page before, or leave it out to begin at the first.",
            )
        items = items[ids.index(after) + 1 :]
    page = items[: int(limit)]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
    return JSONResponse({"object": "list", "data": page, **ends, "has_more": len(items) > len(page)})


class _Call:
    """One call of the endpoint."""

    def __init__(
        self,
        services: Services,
        request: Request,
        body: ResponsesBody,
        asked: ChatRequest,
        items: list[dict[str, Any]],
    ) -> None:
        self._services = services
        self._caller = request.state.caller
        self._path = request.url.path
        self._body = body
        self._asked = asked
        self._items = items
        self._model_name = body.model or services.pool.default_name
        self._id = new_id("resp")
        self._created = int(time.time())
        self._output = ResponseOutput()
        self._effective: dict[str, Any] = {}
        self._num_events = 0

    async def write(self, sender: Sender) -> None:
        async with generation(self._services, self._caller, self._model_name, self._id) as running:
            chat = await ChatGeneration.start(running, self._asked)
            effective = chat.prepared.request
            self._effective = {"temperature": effective.temperature, "top_p": effective.top_p}
            if self._body.stream:
                await self._stream(sender, running, chat)
            else:
                await self._whole(sender, running, chat)

    async def _stream(self, sender: Sender, running: Generation, chat: ChatGeneration) -> None:
        names = TokenNames(running.model.text.tokenizer)
        async with sender.stream(EVENT_STREAM, self._failure):
            begun = self._document("in_progress")
            created = {"type": "response.created", "response": begun}
            await sender.piece(self._encoded([created, {"type": "response.in_progress", "response": begun}]))
            events: list[Event] = []
            async for item in chat.deltas():
                if item is None:
                    await sender.piece(PING)
                    continue
                delta, event = item
                events += self._output.push(delta, self._logprobs(names, delta, event))
                if delta.finish_reason is not None:
                    document = await self._finished(delta, running.used())
                    events.append({"type": f"response.{document['status']}", "response": document})
                if events and not running.has_events:
                    await running.deliver(sender, self._encoded(events))
                    events = []

    async def _whole(self, sender: Sender, running: Generation, chat: ChatGeneration) -> None:
        names = TokenNames(running.model.text.tokenizer)
        async for item in chat.deltas():
            if item is None:
                continue
            delta, event = item
            self._output.push(delta, self._logprobs(names, delta, event))
            if delta.finish_reason is not None:
                await sender.whole(await self._finished(delta, running.used()))

    async def _finished(self, last: AnswerDelta, used: Used) -> dict[str, Any]:
        """The whole response, kept before anyone hears of it, so that the next request can name it."""
        is_cut = last.finish_reason is FinishReason.LENGTH
        document = self._document("incomplete" if is_cut else "completed", used)
        if is_cut:
            document["incomplete_details"] = {"reason": "max_output_tokens"}
        if self._body.is_stored:
            database = self._services.accounts.database
            kept = {"response": document, "input": self._items}
            await database.run(ResponseStore(database).put, owner_of(self._caller), self._id, kept)
        return document

    def _document(self, status: str, used: Used | None = None) -> dict[str, Any]:
        body = self._body
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": self._model_name,
            "output": [] if used is None else self._output.items,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "prompt_cache_key": body.prompt_cache_key,
            "reasoning": {"effort": (body.reasoning or {}).get("effort"), "summary": None},
            "safety_identifier": body.safety_identifier,
            "service_tier": "default",
            "store": body.is_stored,
            **self._effective,
            "text": {"format": (body.text or {}).get("format") or {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "top_logprobs": body.top_logprobs or 0,
            "truncation": "disabled",
            "usage": None if used is None else _usage(used),
            "user": body.user,
        }

    def _logprobs(self, names: TokenNames, delta: AnswerDelta, event: TokenEvent) -> list[dict[str, Any]]:
        if not self._body.wants_logprobs:
            return []
        return [names.chat_entry(entry) for entry in visible_logprobs(delta, event)]

    def _failure(self, error: Exception) -> bytes:
        message = error_document(error, self._path)["error"]["message"]
        document = {**self._document("failed"), "error": {"code": "server_error", "message": message}}
        return self._encoded([{"type": "response.failed", "response": document}])

    def _encoded(self, events: Sequence[Event]) -> bytes:
        lines = []
        for event in events:
            numbered = {**event, "sequence_number": self._num_events}
            lines.append(f"event: {event['type']}\ndata: {compact_json(numbered)}\n\n")
            self._num_events += 1
        return "".join(lines).encode()


def _earlier_items(store: ResponseStore, owner: str, response_id: str) -> list[Mapping[str, Any]]:
    """Inputs and outputs of a response and all it went on from, in order. Blocks. Raises ParameterError."""
    turns: list[list[Mapping[str, Any]]] = []
    following: str | None = response_id
    while following is not None:
        if len(turns) == _MAX_CHAIN:
            raise ParameterError(
                "previous_response_id",
                f"the conversation is longer than {_MAX_CHAIN} responses",
                hint="Begin anew: leave it out, and send what still matters as input.",
            )
        try:
            kept = store.get(owner, following)
        except NotFoundError as error:
            raise ParameterError("previous_response_id", error.message, hint=error.hint) from error
        turns.append([*kept["input"], *filter(_is_whole, kept["response"]["output"])])
        following = kept["response"]["previous_response_id"]
    return [item for turn in reversed(turns) for item in turn]


def _is_whole(item: Mapping[str, Any]) -> bool:
    """A call that the end of an answer cut off is no call; text cut off is text."""
    return bool(item["type"] != "function_call" or item["status"] == "completed")


async def _stored(request: Request, services: Services) -> dict[str, Any]:
    store = ResponseStore(services.accounts.database)
    owner, response_id = owner_of(request.state.caller), request.path_params["response_id"]
    return await services.accounts.database.run(store.get, owner, response_id)


def _function(index: int, tool: Mapping[str, Any]) -> dict[str, Any]:
    """The function as `/v1/chat/completions` has it, one level deeper."""
    if tool.get("type") != "function" or not isinstance(tool.get("name"), str):
        kind = str(tool.get("type"))[:60]
        raise ParameterError(
            "tools", f"tools[{index}] is of type {kind!r}", hint="Only functions with a name are supported."
        )
    kept = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {key: tool[key] for key in kept if tool.get(key) is not None}}


def _tool_choice(given: str | Mapping[str, Any] | None, *, has_tools: bool) -> ToolChoice:
    named: str | None = None
    match given:
        case {"type": "function", "name": str(name)}:
            named = name
    return read_tool_choice(given, named, 'For example {"type": "function", "name": "f"}.', has_tools=has_tools)


def _usage(used: Used) -> dict[str, Any]:
    return {
        "input_tokens": used.prompt_tokens,
        "input_tokens_details": {"cached_tokens": used.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": used.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
        "total_tokens": used.prompt_tokens + used.completion_tokens,
    }
