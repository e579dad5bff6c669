"""llama.cpp as a contender, through the C interface of llama-cpp-python: its decode call with batches, nothing between.

Nothing is sampled and no text is made: only its own work is on the clock. Imported in the child process alone.
"""

import ctypes
import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from time import perf_counter
from typing import Any

import llama_cpp
import numpy as np

from abaci.bench.contender import FIRST_TOKEN_PROMPT, Description, Timing
from abaci.bench.protocol import Handlers
from abaci.errors import AbaciError
from abaci.tensor import CacheType

_CACHE_STEP_TOKENS = 256
_BATCH_TOKENS = 2048
_UBATCH_TOKENS = (512, 256, 1024)


_CACHE_NAMES = {CacheType.F16: "f16", CacheType.INT8: "q8_0"}


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _discard_log(_level: int, _text: bytes, _user_data: ctypes.c_void_p) -> None:
    """llama.cpp reports every detail of a model on standard error."""


class LlamaCppContender:
    """Lives in a child process; answers in plain values (see `contender.Contender` for what the calls mean)."""

    def __init__(self) -> None:
        self._model: Any = None
        self._num_threads = 1
        self._settings: dict[str, Any] = {}
        self._cache_type = CacheType.F16
        self._context: _Context | None = None
        llama_cpp.llama_log_set(_discard_log, None)
        llama_cpp.llama_backend_init()

    def handlers(self) -> Handlers:
        return {
            "open": self.open,
            "options": self.options,
            "configure": self.configure,
            "prefill": self.prefill,
            "decode": self.decode,
            "first_token": self.first_token,
        }

    def open(self, path: str, num_threads: int, kv_type: str) -> dict[str, Any]:
        self._load(path, num_threads)
        self._cache_type = CacheType(kv_type)
        version = f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}"
        facts = {
            "threads": str(num_threads),
            "cache": _CACHE_NAMES[self._cache_type],
            "build": llama_cpp.llama_print_system_info().decode().strip(" |"),
        }
        return asdict(Description(version, facts, llama_cpp.llama_vocab_n_tokens(self._vocabulary())))

    def options(self, num_streams: int, num_new_tokens: int) -> dict[str, list[Any]]:
        # Quantised values are read by its flash attention only.
        options: dict[str, list[Any]] = {
            "flash_attention": [True, False] if self._cache_type is CacheType.F16 else [True]
        }
        if num_streams > 1:
            options["unified_cache"] = [False, True]
        ubatches = [size for size in _UBATCH_TOKENS if size < 2 * num_new_tokens]
        if len(ubatches) > 1:
            options["ubatch_tokens"] = ubatches
        return options

    def configure(self, settings: dict[str, Any]) -> None:
        if settings != self._settings:
            self._drop_context()
            self._settings = settings

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
        context.greedy_token(llama_cpp.llama_vocab_n_tokens(self._vocabulary()))
        return perf_counter() - begin

    def _load(self, path: str, num_threads: int) -> None:
        self._num_threads = num_threads
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self._model:
            raise AbaciError(
                f"llama.cpp cannot load {path}",
                hint="Choose a file that llama.cpp knows, or leave it out of the comparison.",
            )

    def _vocabulary(self) -> Any:
        return llama_cpp.llama_model_get_vocab(self._model)

    def _tokenise(self, text: bytes) -> list[int]:
        room = (llama_cpp.llama_token * (len(text) + 8))()
        count = llama_cpp.llama_tokenize(self._vocabulary(), text, len(text), room, len(room), True, True)
        return list(room[:count])

    def _context_for(self, num_streams: int, stream_tokens: int) -> "_Context":
        if self._context is None or not self._context.fits(num_streams, stream_tokens):
            self._drop_context()
            settings = {**self._settings, "cache_type": self._cache_type}
            self._context = _Context(self._model, num_streams, stream_tokens, self._num_threads, settings)
        return self._context

    def _drop_context(self) -> None:
        if self._context is not None:
            self._context.free()
        self._context = None


class _Context:
    """A context of llama.cpp and the batch it is given, for a number of streams and their longest length."""

    def __init__(
        self, model: Any, num_streams: int, stream_tokens: int, num_threads: int, settings: dict[str, Any]
    ) -> None:
        self._num_streams = num_streams
        self._stream_tokens = -(-stream_tokens // _CACHE_STEP_TOKENS) * _CACHE_STEP_TOKENS
        self._is_unified = settings.get("unified_cache", False)
        self._prompts: Sequence[Sequence[int]] = ()
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = self._num_streams * self._stream_tokens
        params.n_batch = max(_BATCH_TOKENS, self._stream_tokens)
        params.n_ubatch = settings.get("ubatch_tokens", 512)
        params.n_seq_max = num_streams
        params.n_threads = params.n_threads_batch = num_threads
        params.flash_attn_type = int(settings.get("flash_attention", True))
        params.kv_unified = self._is_unified
        if settings["cache_type"] is CacheType.INT8:
            params.type_k = params.type_v = llama_cpp.GGML_TYPE_Q8_0
        self._context = llama_cpp.llama_init_from_model(model, params)
        if not self._context:
            raise AbaciError(
                f"llama.cpp cannot run with {settings}",
                hint="Ask for fewer streams or a shorter context: its memory may not be there.",
            )
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(params.n_batch, 0, 1)

    def fits(self, num_streams: int, stream_tokens: int) -> bool:
        return num_streams == self._num_streams and stream_tokens <= self._stream_tokens

    def free(self) -> None:
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(self._memory, True)
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
        code = llama_cpp.llama_decode(self._context, self._batch)
        if code != 0:
            raise AbaciError(
                f"llama.cpp: its decode call ended with {code}",
                hint="Ask for fewer streams or a shorter context; 1 means that its cache is full.",
            )
        llama_cpp.llama_synchronize(self._context)

    def greedy_token(self, vocab_size: int) -> int:
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self._context, -1), (vocab_size,))
        return int(logits.argmax())

    def hold_prompts(self, prompts: Sequence[Sequence[int]]) -> None:
        """Leave exactly the prompts in the cache.

        With a cache per stream the first prompt's values are copied to the others: what they are does not matter to
        the clock. In a unified cache a copy would share cells, which is another workload: there each is computed.
        """
        if prompts != self._prompts or not self._forget_continuations(prompts):
            self.clear()
            computed = prompts if self._is_unified else prompts[:1]
            for stream, prompt in enumerate(computed):
                self.fill((token_id, position, stream) for position, token_id in enumerate(prompt))
                self.decode()
            for stream in range(len(computed), len(prompts)):
                llama_cpp.llama_memory_seq_cp(self._memory, 0, stream, -1, -1)
            self._prompts = prompts

    def _forget_continuations(self, prompts: Sequence[Sequence[int]]) -> bool:
        """Whether that could be done: a sliding window does not always get back what it let go."""
        lengths = [len(prompt) for prompt in prompts]
        return all(
            llama_cpp.llama_memory_seq_rm(self._memory, stream, length, -1) for stream, length in enumerate(lengths)
        )

    def step(self, prompts: Sequence[Sequence[int]], position: int) -> None:
        """One token of every stream; which ones does not matter to the clock, so the prompts come again."""
        self.fill((prompt[position % len(prompt)], position, stream) for stream, prompt in enumerate(prompts))
        self.decode()
