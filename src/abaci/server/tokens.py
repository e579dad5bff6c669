"""`/tokenize`, `/detokenize` and `/apply-template`: what the model sees, in the forms of vLLM and of llama.cpp."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from abaci.chat.answer import ChatRequest
from abaci.chat.preparing import PreparedChat, prepare
from abaci.chat.served import TextModel
from abaci.generation import SamplingParams
from abaci.server.generating import beside_loop
from abaci.server.openai.bodies import ApplyTemplateBody, DetokenizeBody, TokenizeBody
from abaci.server.services import Services
from abaci.server.wire import ParameterError, read_body, warning_headers


async def tokenize(request: Request, services: Services) -> Response:
    """Token ids of a text or of a chat."""
    body = await read_body(request, TokenizeBody)
    text = body.prompt if body.content is None else body.content
    if (text is None) == (body.messages is None):
        raise ParameterError(
            "prompt",
            "there is neither prompt nor messages, or both",
            hint="Send one of them: prompt for a text, messages for a chat.",
        )
    name = services.model_name(request.state.caller, body.model)
    async with services.pool.lease(name) as model:
        if text is not None:
            add_bos = None if (body.add_special_tokens if body.add_special is None else body.add_special) else False
            encode, special = model.text.tokenizer.encode, body.parse_special
            token_ids = await beside_loop(len(text), lambda: encode(text, add_bos=add_bos, allow_special=special))
        else:
            token_ids = list((await _prepared(model.text, body)).request.prompt_token_ids)
        document: dict[str, Any] = {"tokens": token_ids, "count": len(token_ids)}
        tokenizer = model.text.tokenizer
        if body.return_token_strs:
            document["token_strs"] = [_piece(tokenizer.token_bytes(token_id)) for token_id in token_ids]
        if body.with_pieces:
            pieces = [tokenizer.token_bytes(token_id) for token_id in token_ids]
            document["tokens"] = [
                {"id": token_id, "piece": _exact(piece)} for token_id, piece in zip(token_ids, pieces, strict=True)
            ]
        document["max_model_len"] = model.status.context_length
    return JSONResponse(document, headers=warning_headers(body.unknown_parameters()))


async def detokenize(request: Request, services: Services) -> Response:
    """The text of token ids, under both names it goes by."""
    body = await read_body(request, DetokenizeBody)
    name = services.model_name(request.state.caller, body.model)
    async with services.pool.lease(name) as model:
        text = model.text.tokenizer.decode(body.tokens, skip_special=False, continuation=True)
    document = {"prompt": text, "content": text}
    return JSONResponse(document, headers=warning_headers(body.unknown_parameters()))


async def apply_template(request: Request, services: Services) -> Response:
    """The prompt of a chat, as text."""
    body = await read_body(request, ApplyTemplateBody)
    name = services.model_name(request.state.caller, body.model)
    async with services.pool.lease(name) as model:
        prepared = await _prepared(model.text, body)
        prompt = model.text.tokenizer.decode(prepared.request.prompt_token_ids, skip_special=False)
    return JSONResponse({"prompt": prompt}, headers=warning_headers(body.unknown_parameters()))


async def _prepared(text: TextModel, body: TokenizeBody | ApplyTemplateBody) -> PreparedChat:
    chat = ChatRequest(
        messages=body.messages or [],
        params=SamplingParams(max_tokens=1),
        tools=tuple(body.tools or ()),
        template_variables=body.chat_template_kwargs or {},
        add_generation_prompt=body.add_generation_prompt,
    )
    length = sum(len(str(message)) for message in chat.messages)
    return await beside_loop(length, lambda: prepare(text, chat, "template"))


def _piece(spelled: bytes) -> str:
    return spelled.decode("utf-8", "replace")


def _exact(spelled: bytes) -> str | list[int]:
    """Text, or its bytes where they are none: llama.cpp's form."""
    try:
        return spelled.decode("utf-8")
    except UnicodeDecodeError:
        return list(spelled)
