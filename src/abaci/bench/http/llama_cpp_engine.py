"""llama.cpp as its own server drives it: a slot per stream, decoded tokens first in a batch, prompts in what is left.

A slot keeps what it has computed, and a request goes to the slot that knows most of its prompt. Each token is the
likeliest one. Through the C interface of llama-cpp-python, whose own server does not batch.
"""

import codecs
import ctypes
from collections import deque
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import llama_cpp
import numpy as np

from abaci.bench.http.adapter import Ask, Piece, Settings

_BATCH_TOKENS = 2048
_UBATCH_TOKENS = 512
_PIECE_BYTES = 256


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _discard_log(_level: int, _text: bytes, _user_data: ctypes.c_void_p) -> None:
    """llama.cpp reports every detail of a model on standard error."""


@dataclass(slots=True)
class _Slot:
    """A sequence of the context, and the request in it."""

    index: int
    token_ids: list[int] = field(default_factory=list)
    """Prompt, then answer."""
    num_computed: int = 0
    ask: Ask | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    decoder: Any = None

    def known_tokens(self, prompt: list[int]) -> int:
        """How many of a prompt's first tokens are computed here; the last one always has to be."""
        computed = self.token_ids[: self.num_computed]
        same = takewhile(lambda pair: pair[0] == pair[1], zip(computed, prompt[:-1], strict=False))
        return sum(1 for _ in same)


class LlamaCppEngine:
    """See `adapter.BatchEngine`."""

    def __init__(self, settings: Settings) -> None:
        llama_cpp.llama_log_set(_discard_log, None)
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(settings.model_path.encode(), model_params)
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {settings.model_path}")
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(self._vocabulary)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = settings.num_streams * settings.context_tokens
        params.n_batch, params.n_ubatch = _BATCH_TOKENS, _UBATCH_TOKENS
        params.n_seq_max = settings.num_streams
        params.n_threads = params.n_threads_batch = settings.num_threads
        params.flash_attn_type = 1
        params.kv_unified = False
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(_BATCH_TOKENS, 0, 1)
        self._slots = [_Slot(index) for index in range(settings.num_streams)]
        self._waiting: deque[tuple[Ask, list[int]]] = deque()

    def add(self, ask: Ask) -> None:
        self._waiting.append((ask, self._tokenise(self._render(ask.messages))))

    @property
    def has_work(self) -> bool:
        return bool(self._waiting) or any(slot.ask is not None for slot in self._slots)

    def step(self) -> list[Piece]:
        self._admit()
        rows = self._fill_batch()
        code = llama_cpp.llama_decode(self._context, self._batch)
        if code != 0:
            raise SystemExit(f"llama.cpp: its decode call ended with {code}")
        return [self._take_token(slot, row) for slot, row in rows]

    def _admit(self) -> None:
        free = [slot for slot in self._slots if slot.ask is None]
        while free and self._waiting:
            ask, prompt = self._waiting.popleft()
            slot = max(free, key=lambda slot: slot.known_tokens(prompt))
            free.remove(slot)
            num_known = slot.known_tokens(prompt)
            if not llama_cpp.llama_memory_seq_rm(self._memory, slot.index, num_known, -1):
                llama_cpp.llama_memory_seq_rm(self._memory, slot.index, -1, -1)
                num_known = 0
            slot.ask, slot.token_ids, slot.num_computed = ask, prompt, num_known
            slot.prompt_tokens, slot.cached_tokens = len(prompt), num_known
            slot.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def _fill_batch(self) -> list[tuple[_Slot, int]]:
        """Rows of the batch in which a slot's newest token is computed."""
        running = [slot for slot in self._slots if slot.ask is not None]
        running.sort(key=lambda slot: len(slot.token_ids) - slot.num_computed)  # decoding ones have a single token left
        rows, count = [], 0
        for slot in running:
            end = min(len(slot.token_ids), slot.num_computed + _BATCH_TOKENS - count)
            for position in range(slot.num_computed, end):
                self._set_row(count, slot, position, is_last=position == len(slot.token_ids) - 1)
                count += 1
            slot.num_computed = end
            if end == len(slot.token_ids):
                rows.append((slot, count - 1))
        self._batch.n_tokens = count
        return rows

    def _set_row(self, row: int, slot: _Slot, position: int, *, is_last: bool) -> None:
        batch = self._batch
        batch.token[row] = slot.token_ids[position]
        batch.pos[row] = position
        batch.n_seq_id[row] = 1
        batch.seq_id[row][0] = slot.index
        batch.logits[row] = is_last

    def _take_token(self, slot: _Slot, row: int) -> Piece:
        assert slot.ask is not None
        logits = llama_cpp.llama_get_logits_ith(self._context, row)
        token_id = int(np.ctypeslib.as_array(logits, (self._vocab_size,)).argmax())
        slot.token_ids.append(token_id)
        num_output = len(slot.token_ids) - slot.prompt_tokens
        is_last = num_output == slot.ask.num_tokens
        text = slot.decoder.decode(self._bytes_of(token_id), final=is_last)
        piece = Piece(slot.ask.key, text, is_last, slot.prompt_tokens, slot.cached_tokens, num_output)
        if is_last:
            slot.ask = None
        return piece

    def _render(self, messages: list[dict[str, str]]) -> bytes:
        chat = (llama_cpp.llama_chat_message * len(messages))(
            *(llama_cpp.llama_chat_message(one["role"].encode(), one["content"].encode()) for one in messages)
        )
        template = llama_cpp.llama_model_chat_template(self._model, None)
        room = ctypes.create_string_buffer(2 * sum(len(one["content"].encode()) + 64 for one in messages) + 1024)
        size = llama_cpp.llama_chat_apply_template(template, chat, len(messages), True, room, len(room))
        if not 0 <= size <= len(room):
            raise SystemExit("llama.cpp does not know the model's chat template")
        return room.raw[:size]

    def _tokenise(self, text: bytes) -> list[int]:
        room = (llama_cpp.llama_token * (len(text) + 8))()
        count = llama_cpp.llama_tokenize(self._vocabulary, text, len(text), room, len(room), True, True)
        return list(room[:count])

    def _bytes_of(self, token_id: int) -> bytes:
        room = ctypes.create_string_buffer(_PIECE_BYTES)
        size = llama_cpp.llama_token_to_piece(self._vocabulary, token_id, room, len(room), 0, False)
        return room.raw[: max(0, size)]
