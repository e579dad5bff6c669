"""`POST /v1/completions`: text continued as it is, several prompts in one call, the prompt's own log-probabilities."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from json.encoder import encode_basestring
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from abaci.chat.requests import check_params, stop_strings
from abaci.chat.text import TextAssembler, TextDelta
from abaci.generation import FinishReason, GenerationRequest, SamplingParams, TokenEvent, TokenLogprob
from abaci.server.generating import Generation, beside_loop, generation
from abaci.server.openai.bodies import CompletionBody
from abaci.server.openai.chat import error_event, fingerprint, usage_fields
from abaci.server.openai.frame import Frame
from abaci.server.openai.logprobs import CompletionLogprobs, TokenNames
from abaci.server.replies import DONE, EVENT_STREAM, PING, Reply, Sender, server_sent_event
from abaci.server.services import Services
from abaci.server.wire import ParameterError, compact_json, read_body, warning_headers

_FINISH: Final = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length"}


async def completions(request: Request, services: Services) -> Response:
    """The handler."""
    body = await read_body(request, CompletionBody)
    body.check_stream_options()
    prompts = prompts_of("prompt", body.prompt, services.config.max_prompts)
    if body.max_tokens == 0 and not body.echo:
        raise ParameterError("max_tokens", "max_tokens 0 asks for nothing", hint="With echo it scores the prompt.")
    if body.stream and body.echo and body.logprobs is not None:
        raise ParameterError(
            "echo", "echo with logprobs cannot be streamed", hint="Leave out stream, echo or logprobs."
        )
    call = _Call(services, request, body, prompts)
    return Reply(
        call.write,
        slow_reader_seconds=services.config.slow_reader_seconds,
        extra_headers=warning_headers(body.unknown_parameters()),
    )


def prompts_of(
    parameter: str, given: str | list[str] | list[int] | list[list[int]], max_prompts: int
) -> list[str | list[int]]:
    """One prompt or several, text or token ids, as several. Raises ParameterError for none and for too many."""
    prompts: list[str | list[int]]
    if isinstance(given, str):
        prompts = [given]
    elif given and all(isinstance(item, int) for item in given):
        prompts = [given]  # type: ignore[list-item]  # all of them are numbers, so it is one prompt
    else:
        prompts = list(given)  # type: ignore[arg-type]
    if not prompts:
        raise ParameterError(parameter, f"{parameter} is empty", hint="Send at least one text, or a list of token ids.")
    if len(prompts) > max_prompts:
        raise ParameterError(
            parameter,
            f"{parameter} has {len(prompts)} texts",
            hint=f"Send at most {max_prompts}, the server's max_prompts, in one request.",
        )
    return prompts


@dataclass(slots=True)
class _Sample:
    """One choice of the answer."""

    index: int
    prompt_text: str
    prompt_ids: tuple[int, ...]
    assembler: TextAssembler
    logprobs: CompletionLogprobs | None
    text: str = ""
    finish_reason: str | None = None


class _Call:
    """One call of the endpoint."""

    def __init__(
        self, services: Services, request: Request, body: CompletionBody, prompts: Sequence[str | list[int]]
    ) -> None:
        self._services = services
        self._caller = request.state.caller
        self._path = request.url.path
        self._body = body
        self._prompts = prompts
        self._params = self._sampling_params()
        self._model_name = body.model or services.pool.default_name
        self._id = f"cmpl-{request.state.request_id}"
        self._created = int(time.time())
        self._samples: dict[tuple[str, int], _Sample] = {}

    async def write(self, sender: Sender) -> None:
        async with generation(self._services, self._caller, self._model_name, self._id) as running:
            for prompt in self._prompts:
                await self._submit(running, prompt)
            if self._body.stream:
                await self._stream(sender, running)
            else:
                await self._whole(sender, running)

    def _sampling_params(self) -> SamplingParams:
        body = self._body
        max_tokens = 16 if body.max_tokens is None else body.max_tokens
        params = body.sampling_params(logprobs=body.logprobs, max_tokens=max(1, max_tokens))
        check_params(params)
        if body.echo and body.logprobs is not None and params.prompt_logprobs is None:
            params = replace(params, prompt_logprobs=body.logprobs)
        return params

    async def _submit(self, running: Generation, prompt: str | list[int]) -> None:
        text = running.model.text
        if isinstance(prompt, str):
            add_bos = None if self._body.add_special_tokens else False
            encode = text.tokenizer.encode
            token_ids = await beside_loop(len(prompt), lambda: encode(prompt, add_bos=add_bos, allow_special=True))
        else:
            token_ids = prompt
        request = text.rules.resolve(self._params, token_ids, running.new_id())
        if self._body.max_tokens == 0:
            request = replace(request, max_tokens=0, min_tokens=0, num_samples=1)
        request = replace(request, priority=self._body.priority, cache_salt=self._body.cache_salt or "")
        await running.submit(request)
        self._add_samples(running, request, prompt)

    def _add_samples(self, running: Generation, request: GenerationRequest, prompt: str | list[int]) -> None:
        tokenizer = running.model.text.tokenizer
        names = TokenNames(tokenizer, as_ids=self._body.return_tokens_as_token_ids)
        prompt_text = ""
        if self._body.echo:
            prompt_text = prompt if isinstance(prompt, str) else tokenizer.decode(prompt, skip_special=False)
        for index in range(request.num_samples):
            num_top = self._body.logprobs
            self._samples[request.request_id, index] = _Sample(
                index=len(self._samples),
                prompt_text=prompt_text,
                prompt_ids=request.prompt_token_ids,
                assembler=TextAssembler(
                    tokenizer,
                    stop=stop_strings(self._params),
                    include_stop=self._params.include_stop_str_in_output,
                    skip_special=self._params.skip_special_tokens,
                    continuation=True,
                    min_tokens=self._params.min_tokens,
                ),
                logprobs=None if num_top is None else CompletionLogprobs(names, num_top),
            )

    async def _whole(self, sender: Sender, running: Generation) -> None:
        prompt_logprobs: dict[str, tuple[TokenLogprob | None, ...]] = {}
        async for event in running.events():
            if event is None:
                continue
            if event.prompt_logprobs is not None:
                prompt_logprobs[event.request_id] = event.prompt_logprobs
                self._echo_logprobs(event)
            sample, delta = self._push(running, event)
            sample.text += delta.text
        document = {
            **self._identity(running),
            "choices": [
                self._choice(sample, prompt_logprobs.get(request_id), running)
                for (request_id, _), sample in self._samples.items()
            ],
            **usage_fields(running.used()),
        }
        await sender.whole(document)

    async def _stream(self, sender: Sender, running: Generation) -> None:
        identity = self._identity(running)
        frame = Frame.make(identity, has_usage=self._body.includes_usage)
        async with sender.stream(EVENT_STREAM, lambda error: error_event(error, self._path)):
            if self._body.echo:
                first = [_chunk(frame, s, s.prompt_text, None) for s in self._samples.values() if s.prompt_text]
                await sender.piece(b"".join(first))
            pieces: list[bytes] = []
            async for event in running.events():
                if event is None:
                    await sender.piece(PING)
                    continue
                sample, delta = self._push(running, event)
                logprobs = None if sample.logprobs is None else sample.logprobs.take()
                if delta.text or (logprobs and logprobs["tokens"]) or delta.finish_reason is not None:
                    pieces.append(_chunk(frame, sample, delta.text, logprobs))
                if pieces and not running.has_events:
                    await running.deliver(sender, b"".join(pieces))
                    pieces = []
            if self._body.includes_usage:
                pieces.append(server_sent_event({**identity, "choices": [], **usage_fields(running.used())}))
            await sender.piece(b"".join([*pieces, DONE]))

    def _push(self, running: Generation, event: TokenEvent) -> tuple[_Sample, TextDelta]:
        """What an event adds to its sample. Raises what a failed step raised."""
        if event.error is not None:
            raise event.error
        sample = self._samples[event.request_id, event.sample_index]
        delta = sample.assembler.push(event)
        if sample.logprobs is not None and event.logprobs:
            shown = len(event.token_ids) - event.ended_by_token
            sample.logprobs.add(event.logprobs[:shown], event.token_ids[:shown])
        if delta.finish_reason is not None:
            sample.finish_reason = _FINISH.get(delta.finish_reason, str(delta.finish_reason))
            if event.finish_reason is None:
                running.end_sample(event.request_id, event.sample_index)
        return sample, delta

    def _echo_logprobs(self, event: TokenEvent) -> None:
        """The prompt's tokens before the answer's, in every sample of the request. `event` is the request's first."""
        if not self._body.echo or event.prompt_logprobs is None:
            return
        for (request_id, _), sample in self._samples.items():
            if request_id == event.request_id and sample.logprobs is not None:
                sample.logprobs.add(event.prompt_logprobs[: len(sample.prompt_ids)], sample.prompt_ids)

    def _choice(
        self, sample: _Sample, prompt_logprobs: tuple[TokenLogprob | None, ...] | None, running: Generation
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {
            "index": sample.index,
            "text": sample.prompt_text + sample.text,
            "logprobs": None if sample.logprobs is None else sample.logprobs.take(),
            "finish_reason": sample.finish_reason,
        }
        if self._body.prompt_logprobs is not None and prompt_logprobs is not None:
            names = TokenNames(running.model.text.tokenizer)
            choice["prompt_logprobs"] = [names.prompt_entry(entry) for entry in prompt_logprobs[:-1]]
        return choice

    def _identity(self, running: Generation) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._model_name,
            "system_fingerprint": fingerprint(running),
        }


def _chunk(frame: Frame, sample: _Sample, text: str, logprobs: Mapping[str, list[Any]] | None) -> bytes:
    encoded = "null" if logprobs is None else compact_json(logprobs)
    reason = "null" if sample.finish_reason is None else compact_json(sample.finish_reason)
    return frame.chunk(
        f'{{"index":{sample.index},"text":{encode_basestring(text)},"logprobs":{encoded},"finish_reason":{reason}}}'
    )
