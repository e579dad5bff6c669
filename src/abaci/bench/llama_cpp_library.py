"""llama.cpp, as llama-cpp-python brings it. Imported in the child process alone."""

import ctypes
import importlib.metadata
from typing import Any

import llama_cpp

from abaci.bench.contender import Settings
from abaci.bench.llama_contender import GGML_CACHE_TYPES, LlamaContender
from abaci.tensor import CacheType


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _discard_log(_level: int, _text: bytes, _user_data: ctypes.c_void_p) -> None:
    """llama.cpp reports every detail of a model on standard error."""


class LlamaCppLibrary:
    """See `llama_contender.Library`."""

    name = "llama.cpp"
    functions: Any = llama_cpp
    settings_of_models: frozenset[str] = frozenset()

    def version(self) -> str:
        return f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}"

    def system_info(self) -> bytes:
        return bytes(llama_cpp.llama_print_system_info())

    def options(self, num_streams: int, cache_type: CacheType) -> dict[str, list[Any]]:
        # Quantised values are read by its flash attention only.
        is_quantised = cache_type is CacheType.INT8
        options: dict[str, list[Any]] = {"flash_attention": [True] if is_quantised else [True, False]}
        if num_streams > 1:
            options["unified_cache"] = [False, True]
        return options

    def free_model(self, model: Any) -> None:
        llama_cpp.llama_model_free(model)

    def tokenizer_of(self, model: Any) -> Any:
        return llama_cpp.llama_model_get_vocab(model)

    def set_model_params(self, params: Any, settings: Settings) -> None:
        """Its defaults are its best."""

    def set_context_params(self, params: Any, settings: Settings, cache_type: CacheType) -> None:
        params.flash_attn_type = int(settings.get("flash_attention", True))
        params.kv_unified = settings.get("unified_cache", False)
        params.type_k = params.type_v = GGML_CACHE_TYPES[cache_type]

    def copies_cells(self, settings: Settings) -> bool:
        return not settings.get("unified_cache", False)

    def clear(self, context: Any) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)

    def copy_first_stream(self, context: Any, stream: int) -> None:
        llama_cpp.llama_memory_seq_cp(llama_cpp.llama_get_memory(context), 0, stream, -1, -1)

    def forget_from(self, context: Any, stream: int, position: int) -> bool:
        return bool(llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(context), stream, position, -1))

    def wait(self, context: Any) -> None:
        llama_cpp.llama_synchronize(context)


def contender() -> LlamaContender:
    """llama.cpp under measurement."""
    llama_cpp.llama_log_set(_discard_log, None)
    return LlamaContender(LlamaCppLibrary())
