"""ik_llama.cpp, as ik-llama-cpp-python brings it. Imported in the child process alone.

The package binds what a chat needs; the few functions more that a benchmark needs are bound here.
"""

import ctypes
import importlib.metadata
from typing import Any

from ik_llama_cpp import _ctypes_api

from abaci.bench.contender import Settings
from abaci.bench.llama_contender import GGML_CACHE_TYPES, LlamaContender
from abaci.tensor import CacheType

_LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


@_LogCallback  # type: ignore[untyped-decorator]
def _discard_log(_level: int, _text: bytes, _user_data: ctypes.c_void_p) -> None:
    """It reports every detail of a model on standard error."""


class IkLlamaLibrary:
    """See `llama_contender.Library`."""

    name = "ik_llama.cpp"
    functions: Any = _ctypes_api
    settings_of_models = frozenset({"repacked_weights"})

    def __init__(self) -> None:
        stream, position, context = ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p
        self._copy = _bind("llama_kv_cache_seq_cp", None, context, stream, stream, position, position)
        self._remove = _bind("llama_kv_cache_seq_rm", ctypes.c_bool, context, stream, position, position)
        self._synchronize = _bind("llama_synchronize", None, context)
        self._system_info = _bind("llama_print_system_info", ctypes.c_char_p)

    def version(self) -> str:
        return f"ik-llama-cpp-python {importlib.metadata.version('ik-llama-cpp-python')}"

    def system_info(self) -> bytes:
        return bytes(self._system_info())

    def options(self, num_streams: int, cache_type: CacheType) -> dict[str, list[Any]]:
        return {
            "flash_attention": [True] if cache_type is CacheType.INT8 else [True, False],
            "repacked_weights": [False, True],
        }

    def free_model(self, model: Any) -> None:
        _ctypes_api.llama_free_model(model)

    def tokenizer_of(self, model: Any) -> Any:
        return model

    def set_model_params(self, params: Any, settings: Settings) -> None:
        params.repack_tensors = settings.get("repacked_weights", False)

    def set_context_params(self, params: Any, settings: Settings, cache_type: CacheType) -> None:
        params.flash_attn = settings.get("flash_attention", True)
        params.type_k = params.type_v = GGML_CACHE_TYPES[cache_type]

    def copies_cells(self, settings: Settings) -> bool:
        return False  # one cache for all streams

    def clear(self, context: Any) -> None:
        _ctypes_api.llama_kv_cache_clear(context)

    def copy_first_stream(self, context: Any, stream: int) -> None:
        self._copy(context, 0, stream, -1, -1)

    def forget_from(self, context: Any, stream: int, position: int) -> bool:
        return bool(self._remove(context, stream, position, -1))

    def wait(self, context: Any) -> None:
        self._synchronize(context)


def _bind(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(_ctypes_api._lib, name)
    function.restype, function.argtypes = result, arguments
    return function


def contender() -> LlamaContender:
    """ik_llama.cpp under measurement."""
    _bind("llama_log_set", None, _LogCallback, ctypes.c_void_p)(_discard_log, None)
    return LlamaContender(IkLlamaLibrary())
