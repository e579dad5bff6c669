"""OpenVINO GenAI's continuous batching, with its prefix cache. Reads its own format, or some kinds of GGUF."""

from typing import Any

import openvino_genai

from abaci.bench.http.adapter import Ask, Piece, Settings

_CACHE_GIBIBYTES = 2


class OpenVinoEngine:
    """See `adapter.BatchEngine`."""

    def __init__(self, settings: Settings) -> None:
        scheduling = openvino_genai.SchedulerConfig()
        scheduling.cache_size = _CACHE_GIBIBYTES
        scheduling.max_num_seqs = settings.num_streams
        scheduling.enable_prefix_caching = True
        properties = {"INFERENCE_NUM_THREADS": settings.num_threads}
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(settings.model_path, scheduling, "CPU", properties)
        self._tokenizer = self._pipeline.get_tokenizer()
        self._running: dict[int, _Request] = {}

    def add(self, ask: Ask) -> None:
        prompt = self._tokenizer.apply_chat_template(ask.messages, add_generation_prompt=True)
        token_ids = self._tokenizer.encode(prompt, add_special_tokens=False).input_ids
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = ask.num_tokens
        config.ignore_eos = True
        config.do_sample = False
        handle = self._pipeline.add_request(ask.key, token_ids, config)
        self._running[ask.key] = _Request(ask, handle, int(token_ids.shape[1]))

    @property
    def has_work(self) -> bool:
        return bool(self._running)

    def step(self) -> list[Piece]:
        self._pipeline.step()
        pieces = [self._read(request) for request in self._running.values() if request.handle.can_read()]
        for piece in pieces:
            if piece.is_last:
                del self._running[piece.key]
        return pieces

    def _read(self, request: "_Request") -> Piece:
        (output,) = request.handle.read().values()
        request.num_output += len(output.generated_ids)
        is_last = request.num_output >= request.ask.num_tokens
        text: str = self._tokenizer.decode(list(output.generated_ids))
        # it does not say how much of a prompt its cache knew
        return Piece(request.ask.key, text, is_last, request.prompt_tokens, 0, request.num_output)


class _Request:
    def __init__(self, ask: Ask, handle: Any, prompt_tokens: int) -> None:
        self.ask = ask
        self.handle = handle
        self.prompt_tokens = prompt_tokens
        self.num_output = 0
