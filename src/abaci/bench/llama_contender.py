"""llama.cpp and what grew out of it, through their C interface: the decode call with batches, nothing between.

Nothing is sampled and no text is made: only their own work is on the clock. Which one it is, a `Library` says. Imported
in the child process alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from abaci.bench.contender import FIRST_TOKEN_PROMPT, Description, Settings, Timing
from abaci.errors import AbaciError
from abaci.tensor import CacheType

_CACHE_STEP_TOKENS = 256
_BATCH_TOKENS = 2048
_UBATCH_TOKENS = (512, 256, 1024)
_CACHE_NAMES = {CacheType.F16: "f16", CacheType.BF16: "bf16", CacheType.INT8: "q8_0"}
GGML_CACHE_TYPES = {CacheType.F16: 1, CacheType.BF16: 30, CacheType.INT8: 8}
"""As ggml numbers types."""


class Library(Protocol):
    """What differs between them. A context is what `llama_init_from_model` returns."""

    name: str
    functions: Any
    """What all of them have, under its name in C."""
    settings_of_models: frozenset[str]
    """Which of the options are chosen when a model is loaded."""

    def version(self) -> str:
        """Of the package that brings it."""

    def system_info(self) -> bytes:
        """How it was built."""

    def options(self, num_streams: int, cache_type: CacheType) -> dict[str, list[Any]]:
        """What can be chosen besides the size of micro-batches, the likeliest first."""

    def free_model(self, model: Any) -> None:
        """Give back what `llama_model_load_from_file` took."""

    def tokenizer_of(self, model: Any) -> Any:
        """What `llama_tokenize` takes: the vocabulary, once the model."""

    def set_model_params(self, params: Any, settings: Settings) -> None:
        """Put settings into the parameters that a model is loaded with."""

    def set_context_params(self, params: Any, settings: Settings, cache_type: CacheType) -> None:
        """Put settings and the type of the cache into a context's parameters."""

    def copies_cells(self, settings: Settings) -> bool:
        """Whether a stream that is copied from another gets cells of its own in the cache."""

    def clear(self, context: Any) -> None:
        """Forget all streams."""

    def copy_first_stream(self, context: Any, stream: int) -> None:
        """Let a stream hold what the first one holds."""

    def forget_from(self, context: Any, stream: int, position: int) -> bool:
        """Whether that could be done: a sliding window does not always get back what it let go."""

    def wait(self, context: Any) -> None:
        """Until all that was asked for is done."""


class LlamaContender:
    """Lives in a child process; answers in plain values (see `contender.Contender` for what the calls mean)."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._functions = library.functions
        self._path = ""
        self._model: Any = None
        self._num_threads = 1
        self._settings: Settings = {}
        self._cache_type = CacheType.F16
        self._context: _Context | None = None
        self._functions.llama_backend_init()

    def open(self, path: str, num_threads: int, kv_type: str) -> dict[str, Any]:
        self._load(path, num_threads)
        self._cache_type = CacheType(kv_type)
        facts = {
            "threads": str(num_threads),
            "cache": _CACHE_NAMES[self._cache_type],
            "build": self._library.system_info().decode().strip(" |"),
        }
        return asdict(Description(self._library.version(), facts, self._vocab_size()))

    def options(self, num_streams: int, num_new_tokens: int) -> dict[str, list[Any]]:
        options = self._library.options(num_streams, self._cache_type)
        ubatches = [size for size in _UBATCH_TOKENS if size < 2 * num_new_tokens]
        return {**options, "ubatch_tokens": ubatches} if len(ubatches) > 1 else options

    def configure(self, settings: dict[str, Any]) -> None:
        if settings == self._settings:
            return
        self._drop_context()
        before, self._settings = self._settings, settings
        if any(before.get(name) != settings.get(name) for name in self._library.settings_of_models):
            self._load(self._path, self._num_threads)

    def prefill(self, token_ids: list[int]) -> dict[str, Any]:
        context = self._context_for(1, len(token_ids))
        context.clear()
        context.fill((token_id, position, 0) for position, token_id in enumerate(token_ids))
        begin = perf_counter()
        context.decode()
        return asdict(Timing(len(token_ids), perf_counter() - begin))

    def decode(self, prompts: list[list[int]], num_tokens: int, limit_seconds: float) -> dict[str, Any]:
        length = len(prompts[0])
        context = self._context_for(len(prompts), length + num_tokens + 1)
        context.hold_prompts(prompts)
        context.step(prompts, length)  # carries out pending copies and plans the graph, off the clock
        num_steps = 0
        begin = now = perf_counter()
        while num_steps < num_tokens and now - begin < limit_seconds:
            num_steps += 1
            context.step(prompts, length + num_steps)
            now = perf_counter()
        return asdict(Timing(num_steps * len(prompts), now - begin))

    def first_token(self, path: str, num_threads: int) -> float:
        begin = perf_counter()
        self._load(path, num_threads)
        token_ids = self._tokenise(FIRST_TOKEN_PROMPT.encode())
        context = self._context_for(1, len(token_ids))
        context.fill((token_id, position, 0) for position, token_id in enumerate(token_ids))
        context.decode()
        context.greedy_token(self._vocab_size())
        return perf_counter() - begin

    def _load(self, path: str, num_threads: int) -> None:
        if self._model:
            self._library.free_model(self._model)
        self._path, self._num_threads = path, num_threads
        params = self._functions.llama_model_default_params()
        self._library.set_model_params(params, self._settings)
        self._model = self._functions.llama_model_load_from_file(path.encode(), params)
        if not self._model:
            raise AbaciError(
                f"{self._library.name} cannot load {path}",
                hint=f"Choose a file that {self._library.name} knows, or leave it out of the comparison.",
            )

    def _vocab_size(self) -> int:
        return int(self._functions.llama_vocab_n_tokens(self._functions.llama_model_get_vocab(self._model)))

    def _tokenise(self, text: bytes) -> list[int]:
        room = (self._functions.llama_token * (len(text) + 8))()
        owner = self._library.tokenizer_of(self._model)
        count = self._functions.llama_tokenize(owner, text, len(text), room, len(room), True, True)
        return list(room[:count])

    def _context_for(self, num_streams: int, stream_tokens: int) -> "_Context":
        if self._context is None or not self._context.fits(num_streams, stream_tokens):
            self._drop_context()
            room = _Room(num_streams, stream_tokens, self._num_threads, self._cache_type)
            self._context = _Context(self._library, self._model, room, self._settings)
        return self._context

    def _drop_context(self) -> None:
        if self._context is not None:
            self._context.free()
        self._context = None


@dataclass(frozen=True, slots=True)
class _Room:
    """What a context is made for: so many streams of at most so many tokens."""

    num_streams: int
    stream_tokens: int
    num_threads: int
    cache_type: CacheType


class _Context:
    """A context and the batch it is given."""

    def __init__(self, library: Library, model: Any, room: _Room, settings: Settings) -> None:
        self._library = library
        self._functions = library.functions
        self._num_streams = room.num_streams
        self._stream_tokens = -(-room.stream_tokens // _CACHE_STEP_TOKENS) * _CACHE_STEP_TOKENS
        self._copies_cells = library.copies_cells(settings)
        self._prompts: Sequence[Sequence[int]] = ()
        params = self._functions.llama_context_default_params()
        params.n_ctx = self._num_streams * self._stream_tokens
        params.n_batch = max(_BATCH_TOKENS, self._stream_tokens)
        params.n_ubatch = settings.get("ubatch_tokens", 512)
        params.n_seq_max = room.num_streams
        params.n_threads = params.n_threads_batch = room.num_threads
        library.set_context_params(params, settings, room.cache_type)
        self._context = self._functions.llama_init_from_model(model, params)
        if not self._context:
            raise AbaciError(
                f"{library.name} cannot run with {dict(settings)}",
                hint="Ask for fewer streams or a shorter context: its memory may not be there.",
            )
        self._batch = self._functions.llama_batch_init(params.n_batch, 0, 1)

    def fits(self, num_streams: int, stream_tokens: int) -> bool:
        return num_streams == self._num_streams and stream_tokens <= self._stream_tokens

    def free(self) -> None:
        self._functions.llama_batch_free(self._batch)
        self._functions.llama_free(self._context)

    def clear(self) -> None:
        self._library.clear(self._context)
        self._prompts = ()

    def fill(self, entries: Iterator[tuple[int, int, int]]) -> None:
        """Put (token, position, stream) into the batch; logits are wanted of each stream's last entry."""
        batch = self._batch
        last_of_stream: dict[int, int] = {}
        count = 0
        for index, (token_id, position, stream) in enumerate(entries):
            batch.token[index] = token_id
            batch.pos[index] = position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = stream
            batch.logits[index] = 0
            last_of_stream[stream] = index
            count = index + 1
        batch.n_tokens = count
        for index in last_of_stream.values():
            batch.logits[index] = 1

    def decode(self) -> None:
        """Run the batch to its end."""
        code = self._functions.llama_decode(self._context, self._batch)
        if code != 0:
            raise AbaciError(
                f"{self._library.name}: its decode call ended with {code}",
                hint="Ask for fewer streams or a shorter context; 1 means that its cache is full.",
            )
        self._library.wait(self._context)

    def greedy_token(self, vocab_size: int) -> int:
        logits = np.ctypeslib.as_array(self._functions.llama_get_logits_ith(self._context, -1), (vocab_size,))
        return int(logits.argmax())

    def hold_prompts(self, prompts: Sequence[Sequence[int]]) -> None:
        """Leave exactly the prompts in the cache.

        Where a copy gets cells of its own the first prompt's values are copied to the others: what they are does not
        matter to the clock. Elsewhere a copy would share cells, which is another workload: there each is computed.
        """
        if prompts != self._prompts or not self._forget_continuations(prompts):
            self.clear()
            computed = prompts[:1] if self._copies_cells else prompts
            for stream, prompt in enumerate(computed):
                self.fill((token_id, position, stream) for position, token_id in enumerate(prompt))
                self.decode()
            for stream in range(len(computed), len(prompts)):
                self._library.copy_first_stream(self._context, stream)
            self._prompts = prompts

    def _forget_continuations(self, prompts: Sequence[Sequence[int]]) -> bool:
        return all(
            self._library.forget_from(self._context, stream, len(prompt)) for stream, prompt in enumerate(prompts)
        )

    def step(self, prompts: Sequence[Sequence[int]], position: int) -> None:
        """One token of every stream; which ones does not matter to the clock, so the prompts come again."""
        self.fill((prompt[position % len(prompt)], position, stream) for stream, prompt in enumerate(prompts))
        self.decode()
