"""`POST /api/embed` and the older `/api/embeddings`."""

from time import perf_counter
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from abaci.server.generating import Generation, beside_loop, generation
from abaci.server.ollama.answering import keep_alive, nanoseconds
from abaci.server.ollama.bodies import EmbedBody, EmbeddingsBody, LoadingBody
from abaci.server.ollama.names import resolved_name
from abaci.server.openai.completions import prompts_of
from abaci.server.openai.embeddings import embed as embedded
from abaci.server.replies import Reply, Sender
from abaci.server.services import Services
from abaci.server.wire import read_body, warning_headers


async def embed(request: Request, services: Services) -> Response:
    """Vectors of length 1 for one text or several."""
    body = await read_body(request, EmbedBody)
    body.check()
    texts = prompts_of("input", body.input, services.config.max_prompts)

    async def answer(running: Generation) -> dict[str, Any]:
        prompts = texts
        if body.truncate:
            prompts = [await _cut(running, text) for text in texts]
        vectors = await embedded(running, prompts, running.model.text.pooling, dimensions=body.dimensions)
        return {"model": body.asked, "embeddings": vectors, "prompt_eval_count": running.used().prompt_tokens}

    return _reply(request, services, body, answer)


async def embeddings(request: Request, services: Services) -> Response:
    """The vector of one text, as the model gives it."""
    body = await read_body(request, EmbeddingsBody)
    body.check()

    async def answer(running: Generation) -> dict[str, Any]:
        (vector,) = await embedded(running, [body.prompt], running.model.text.pooling, normalise=False)
        return {"embedding": vector}

    return _reply(request, services, body, answer)


def _reply(request: Request, services: Services, body: LoadingBody, answer: Any) -> Response:
    caller = request.state.caller
    name = resolved_name(services, caller, body.asked)
    begin = perf_counter()

    async def write(sender: Sender) -> None:
        async with generation(services, caller, name, f"ollama-{request.state.request_id}") as running:
            load_seconds = perf_counter() - begin
            body.options.check_context(running.model.status.context_length)
            keep_alive(services, request, name, body)
            document = await answer(running)
            document["total_duration"] = nanoseconds(perf_counter() - begin)
            document["load_duration"] = nanoseconds(load_seconds)
            await sender.whole(document)

    without_effect = [option for option in body.options.known() if option != "options.num_ctx"]
    return Reply(
        write,
        slow_reader_seconds=services.config.slow_reader_seconds,
        extra_headers=warning_headers([*body.ignored(is_admin=caller.is_admin), *without_effect]),
    )


async def _cut(running: Generation, text: str | list[int]) -> list[int]:
    """The beginning that fits the context; its caller asked for that."""
    rules, tokenizer = running.model.text.rules, running.model.text.tokenizer
    assert isinstance(text, str)
    token_ids = await beside_loop(len(text), lambda: tokenizer.encode(text))
    return token_ids[: rules.context_length]
