"""GGUF, read strictly and written atomically. Every file is taken for hostile: nothing in it is believed unchecked.

Layout (little-endian, versions 2 and 3; https://github.com/ggml-org/ggml/blob/master/docs/gguf.md):

    magic, version, tensor count, metadata count | metadata | tensor infos | padding | tensor data

Knows nothing of architectures: keys and tensors are handed on by name.
"""

from abaci.formats.gguf.checkpoint import GgufCheckpoint
from abaci.formats.gguf.cursor import PrefixTooShortError
from abaci.formats.gguf.header import GgufHeader, read_header
from abaci.formats.gguf.shards import join_headers
from abaci.formats.gguf.types import DEFAULT_ALIGNMENT, GGUF_FORMATS, MAGIC
from abaci.formats.gguf.writing import TensorPieces, TensorSource, write_gguf

__all__ = [
    "DEFAULT_ALIGNMENT",
    "GGUF_FORMATS",
    "MAGIC",
    "GgufCheckpoint",
    "GgufHeader",
    "PrefixTooShortError",
    "TensorPieces",
    "TensorSource",
    "join_headers",
    "read_header",
    "write_gguf",
]
