"""The real application in a real HTTP server on a free port, over models that answer from a script.

The vocabulary is bytes, so a token is a byte and answers are written as text.
"""

import asyncio
import contextlib
import math
import socket
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import uvicorn

from abaci.chat.requests import GenerationDefaults, RequestRules
from abaci.chat.served import EngineFigures, ModelState, ModelStatus, TextModel
from abaci.engine.scripted import ScriptedGenerator
from abaci.errors import ContextLengthError, ModelNotFoundError, UsageError
from abaci.formats.chat_template import ChatTemplate
from abaci.formats.tokenizer import Tokenizer
from abaci.generation import FinishReason, GenerationRequest, TokenEvent, TokenLogprob, TokenSink
from abaci.server.accounts import Accounts
from abaci.server.app import create_app
from abaci.server.bridge import EventBridge
from abaci.server.config import ServerConfig
from abaci.server.keys import KeyLimits, KeyStore
from abaci.server.metrics import Metrics
from abaci.server.services import RequestQueue, Services

MODEL = "scripted:1b"
OTHER_MODEL = "folder/other:2b"
CONTEXT_LENGTH = 4096
SPECIAL_TOKENS = ("<|im_start|>", "<|im_end|>")
MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
"""Tokens of their own that are part of the text."""
IM_END = 257
EMBEDDING = (3.0, 0.0, 4.0)
DEADLINE_SECONDS = 60.0

TEMPLATE = """\
{%- if tools -%}
<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}Call them as <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>
{% endif -%}
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif -%}
{{ message.content or '' }}
{%- for call in message.tool_calls or [] -%}
<tool_call>{{ {"name": call.function.name, "arguments": call.function.arguments} | tojson }}</tool_call>
{%- endfor -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif -%}
{%- endif -%}
"""
"""Teaches Hermes' tool calls and Qwen's thoughts."""


def call_text(name: str, arguments: str) -> str:
    """A tool call as the model writes it."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


class Reciter:
    """The generator: a ScriptedGenerator that also embeds, and waits between tokens if told to."""

    def __init__(self) -> None:
        self.answers: Sequence[str | Exception] = ("Hello!",)
        """Of the samples; an exception fails the sample in its place."""
        self.pause_seconds = 0.0
        """Before each token."""
        self.chances_of_yes: dict[str, float] = {}
        """Where the prompt of a request for log-probabilities has the word, its answer is yes with that probability."""
        self.cancelled: list[tuple[str, int | None]] = []
        self._inner = ScriptedGenerator(self._script)

    def reset(self) -> None:
        """Forget what was asked and what was to be said."""
        self.answers, self.pause_seconds, self.chances_of_yes = ("Hello!",), 0.0, {}
        self.cancelled.clear()
        self.requests.clear()

    @property
    def requests(self) -> list[GenerationRequest]:
        """Everything submitted so far."""
        return self._inner.requests

    def submit(self, request: GenerationRequest, sink: TokenSink) -> None:
        if request.pooling is not None:
            self._inner.requests.append(request)
            sink(TokenEvent(request.request_id, 0, (), finish_reason=FinishReason.STOP, embedding=EMBEDDING))
            return
        num_tokens = len(request.prompt_token_ids) + request.max_tokens
        if num_tokens > CONTEXT_LENGTH:
            raise ContextLengthError(f"the request has {num_tokens} tokens, but the context holds {CONTEXT_LENGTH}")
        for word, chance in self.chances_of_yes.items():
            if word.encode() in bytes(i for i in request.prompt_token_ids if i < 256):
                self._inner.requests.append(request)
                sink(_answer(request, chance))
                return
        self._inner.submit(request, self._paced(sink))

    def cancel(self, request_id: str, sample_index: int | None = None) -> None:
        self.cancelled.append((request_id, sample_index))
        self._inner.cancel(request_id, sample_index)

    def close(self) -> None:
        self._inner.close()

    def _paced(self, sink: TokenSink) -> TokenSink:
        def put(event: TokenEvent) -> None:
            if self.pause_seconds:
                time.sleep(self.pause_seconds)
            sink(event)

        return put

    def _script(self, request: GenerationRequest, sample_index: int) -> Sequence[int]:
        answer = self.answers[sample_index % len(self.answers)]
        if isinstance(answer, Exception):
            raise answer
        return (*text_model().tokenizer.encode(answer, allow_special=True), IM_END)


def _answer(request: GenerationRequest, chance_of_yes: float) -> TokenEvent:
    """The log-probabilities of a prompt that ends with yes or no, as far as they are asked for."""
    begin = request.prompt_logprobs_begin
    is_yes = request.prompt_token_ids[-1] == ord("s")
    rest = [TokenLogprob(token_id, 0.0) for token_id in request.prompt_token_ids[begin + 1 :]]
    first = TokenLogprob(request.prompt_token_ids[begin], math.log(chance_of_yes if is_yes else 1 - chance_of_yes))
    entries = (*[None] * begin, first, *rest, TokenLogprob(-1, 0.0))
    return TokenEvent(
        request.request_id, 0, (), finish_reason=FinishReason.LENGTH, prompt_logprobs=entries, num_cached_tokens=1
    )


class ScriptedModel:
    """A `ServedModel`."""

    def __init__(self, name: str, generator: Reciter) -> None:
        self.generator = generator
        self.text = text_model()
        self.status = ModelStatus(
            name=name,
            path=Path("/models/scripted.gguf"),
            state=ModelState.UNLOADED,
            created_seconds=1_700_000_000,
            file_bytes=123_456,
            architecture="qwen2",
            context_length=CONTEXT_LENGTH,
            num_parameters=1_000_000_000,
            quantisation="Q4_K_M",
            licence="Apache-2.0",
            sha256="ab" * 32,
        )

    def figures(self) -> EngineFigures:
        nothing: dict[str, Any] = {field.name: 0 for field in fields(EngineFigures)}
        return EngineFigures(**(nothing | {"kernels": {}}))


class ScriptedPool:
    """A `ModelPool` of two models that share one generator."""

    def __init__(self, generator: Reciter) -> None:
        self._generator = generator
        self.reset()

    def reset(self) -> None:
        """Nothing is loaded, and the models have the names they began with."""
        self._models = {name: ScriptedModel(name, self._generator) for name in (MODEL, OTHER_MODEL)}
        self._loaded: list[str] = []
        self.kept_alive: list[tuple[str, float | None]] = []
        self.only_stored: set[str] = set()
        """Names of models that are here without being served."""

    @property
    def default_name(self) -> str:
        return MODEL

    def models(self) -> list[ModelStatus]:
        return [replace(model.status, name=name) for name, model in self._models.items()]

    def loaded(self) -> list[ScriptedModel]:
        return [self._models[name] for name in self._loaded]

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[ScriptedModel]:
        model = self._model(name)
        if name not in self._loaded:
            self._loaded.append(name)
            model.status = replace(model.status, state=ModelState.LOADED, memory_bytes=234_567)
        model.status = replace(model.status, num_active=model.status.num_active + 1)
        try:
            yield model
        finally:
            model.status = replace(model.status, num_active=model.status.num_active - 1)

    async def unload(self, name: str) -> bool:
        model = self._model(name)
        if name not in self._loaded:
            return False
        self._loaded.remove(name)
        model.status = replace(model.status, state=ModelState.UNLOADED, memory_bytes=None)
        return True

    def keep_alive(self, name: str, seconds: float | None) -> None:
        self._model(name)
        self.kept_alive.append((name, seconds))

    async def alias(self, name: str, existing: str) -> None:
        if self._models.setdefault(name, self._model(existing)) is not self._models[existing]:
            raise UsageError(f"there is a model called {name!r} already")

    async def forget(self, name: str) -> bool:
        if name in self.only_stored:
            return True
        self._model(name)
        if name in (MODEL, OTHER_MODEL):
            raise UsageError(f"the server was started with {name!r}")
        del self._models[name]
        return False

    async def close(self) -> None:
        await asyncio.to_thread(self._generator.close)

    def _model(self, name: str) -> ScriptedModel:
        if name not in self._models:
            raise ModelNotFoundError(f"no model is called {name!r}")
        return self._models[name]


class ScriptedServer:
    """A running server. `settings` are fields of its ServerConfig, `parts` of its Services."""

    def __init__(self, settings: dict[str, Any], parts: dict[str, Any]) -> None:
        self.generator = Reciter()
        self.config = ServerConfig(**settings)
        self.services: Services
        self._parts = parts
        self._is_ready = threading.Event()
        self._failure: BaseException | None = None
        self._listener = socket.create_server((self.config.host, 0))
        self._thread = threading.Thread(target=self._run, name="scripted-server")

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.config.host}:{self._listener.getsockname()[1]}"

    @property
    def requests(self) -> list[GenerationRequest]:
        """What reached the generator."""
        return self.generator.requests

    def reset(self) -> None:
        """As if it had just started, but for its database."""
        self.generator.reset()
        self.services.pool.reset()

    def say(self, *answers: str | Exception) -> None:
        """Answers of the samples from now on."""
        self.generator.answers = answers

    def prompt(self, index: int = -1) -> str:
        """The prompt of a request, special tokens and all."""
        return text_model().tokenizer.decode(self.requests[index].prompt_token_ids, skip_special=False)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """What a coroutine gives on the server's event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(DEADLINE_SECONDS)

    def create_key(self, name: str, limits: KeyLimits | None = None) -> str:
        """A new key of the database, in force at once. From then on every request needs one."""
        _, secret = KeyStore(self.services.accounts.database).create(name, limits)
        self.run(self.services.accounts.keys.refresh())
        return secret

    def wait_until(self, condition: Any) -> None:
        """Until `condition()` is true. Fails after DEADLINE_SECONDS."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, "it never happened"
            time.sleep(0.005)

    def start(self) -> None:
        self._thread.start()
        assert self._is_ready.wait(DEADLINE_SECONDS)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(DEADLINE_SECONDS)
        assert not self._thread.is_alive(), "the server did not stop"
        self._listener.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error
        finally:
            self._is_ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.services = self._make_services(self._loop)
        app = create_app(self.services)
        self._server = uvicorn.Server(
            uvicorn.Config(
                app, http="httptools", ws="none", log_config=None, access_log=False, timeout_graceful_shutdown=1
            )
        )
        serving = asyncio.ensure_future(self._server.serve(sockets=[self._listener]))
        while not self._server.started and not serving.done():
            await asyncio.sleep(0.001)
        self._is_ready.set()
        await serving

    def _make_services(self, loop: asyncio.AbstractEventLoop) -> Services:
        pool = ScriptedPool(self.generator)
        parts = {
            "config": self.config,
            "pool": pool,
            "bridge": EventBridge(loop),
            "accounts": Accounts.open(self.config, pool.loaded),
            "metrics": Metrics(pool.loaded),
            "queue": RequestQueue(self.config.max_sequences, self.config.max_queued_requests),
        }
        return Services(**(parts | self._parts))


@contextlib.contextmanager
def scripted_server(parts: dict[str, Any] | None = None, **settings: Any) -> Iterator[ScriptedServer]:
    """A server for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="abaci-state-") as folder:
        server = ScriptedServer({"state_dir": Path(folder), **settings}, parts or {})
        server.start()
        try:
            yield server
        finally:
            server.stop()


def text_model() -> TextModel:
    """The text side: bytes, ChatML."""
    rules = RequestRules(GenerationDefaults(), frozenset({IM_END}), CONTEXT_LENGTH, 256 + len(SPECIAL_TOKENS + MARKERS))
    return TextModel(_tokenizer(), ChatTemplate(TEMPLATE), rules)


def _tokenizer() -> Tokenizer:
    kept = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    characters = [chr(byte) if byte in kept else chr(next(others)) for byte in range(256)]
    return Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.tokens": [*characters, *SPECIAL_TOKENS, *MARKERS],
            "tokenizer.ggml.token_type": [1] * 256 + [3] * len(SPECIAL_TOKENS) + [4] * len(MARKERS),
            "tokenizer.ggml.merges": [],
            "tokenizer.ggml.eos_token_id": IM_END,
        }
    )
