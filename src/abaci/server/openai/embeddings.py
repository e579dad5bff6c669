"""`POST /v1/embeddings`: pooled hidden states, as numbers or base64 of little-endian float32."""

import base64
import struct
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from abaci.generation import GenerationRequest, Pooling
from abaci.server.generating import Generation, beside_loop, generation
from abaci.server.openai.bodies import EmbeddingBody
from abaci.server.openai.completions import prompts_of
from abaci.server.replies import Reply, Sender
from abaci.server.services import Services
from abaci.server.wire import ParameterError, read_body, warning_headers


async def embeddings(request: Request, services: Services) -> Response:
    """The handler."""
    body = await read_body(request, EmbeddingBody)
    texts = prompts_of("input", body.input, services.config.max_prompts)
    model_name = body.model or services.pool.default_name

    async def write(sender: Sender) -> None:
        call_id = f"embd-{request.state.request_id}"
        async with generation(services, request.state.caller, model_name, call_id) as running:
            vectors = await embed(
                running,
                texts,
                running.model.text.pooling if body.pooling is None else Pooling(body.pooling),
                normalise=body.normalize,
                dimensions=body.dimensions,
                priority=body.priority,
                cache_salt=body.cache_salt or "",
            )
            data = [
                {"object": "embedding", "index": index, "embedding": _encoded(vector, body.encoding_format)}
                for index, vector in enumerate(vectors)
            ]
            num_tokens = running.used().prompt_tokens
            usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
            await sender.whole({"object": "list", "data": data, "model": model_name, "usage": usage})

    return Reply(
        write,
        slow_reader_seconds=services.config.slow_reader_seconds,
        extra_headers=warning_headers(body.unknown_parameters()),
    )


async def embed(
    running: Generation,
    texts: list[str | list[int]],
    pooling: Pooling,
    *,
    normalise: bool = True,
    dimensions: int | None = None,
    priority: int = 0,
    cache_salt: str = "",
) -> list[list[float]]:
    """A vector for each text. Raises ParameterError for more dimensions than the model has."""
    tokenizer = running.model.text.tokenizer
    for text in texts:
        if isinstance(text, str):
            token_ids = await beside_loop(len(text), lambda text=text: tokenizer.encode(text))  # type: ignore[misc]
        else:
            token_ids = text
        request = GenerationRequest(running.new_id(), tuple(token_ids), 0, pooling=pooling)
        await running.submit(replace(request, priority=priority, cache_salt=cache_salt))
    found: dict[str, tuple[float, ...]] = {}
    async for event in running.events():
        if event is None:
            continue
        if event.error is not None:
            raise event.error
        if event.embedding is not None:
            found[event.request_id] = event.embedding
    return [_shaped(found[record.request.request_id], normalise, dimensions) for record in running.records]


def _shaped(vector: tuple[float, ...], normalise: bool, dimensions: int | None) -> list[float]:
    if dimensions is not None and dimensions > len(vector):
        raise ParameterError(
            "dimensions",
            f"dimensions is {dimensions}, and the model's vectors have {len(vector)}",
            hint=f"Ask for at most {len(vector)}, or leave it out.",
        )
    kept = vector[:dimensions]
    length = sum(value * value for value in kept) ** 0.5 if normalise else 1.0
    return [value / length for value in kept] if length else list(kept)


def _encoded(vector: list[float], encoding: str) -> Any:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if encoding == "base64" else vector
