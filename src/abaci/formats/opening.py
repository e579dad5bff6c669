"""From a path to an open checkpoint, or adapter, whatever its format."""

from pathlib import Path

from abaci.formats.adapter import Adapter, read_gguf_adapter
from abaci.formats.checkpoint import Checkpoint
from abaci.formats.gguf import GgufCheckpoint
from abaci.formats.huggingface import HuggingFaceCheckpoint
from abaci.formats.peft import read_peft_adapter


def open_checkpoint(path: Path, *, sorts_columns: bool = False) -> Checkpoint:
    """A folder is one of Hugging Face's, a file is GGUF. Raises what their `open` raises.

    sorts_columns  for who runs the model: weights whose groups are scattered (GPTQ with act-order) come with their
                   columns sorted, and the order beside them (`models.spec.Linear.order`), instead of as float32.
    """
    if path.is_dir():
        return HuggingFaceCheckpoint.open(path, sorts_columns=sorts_columns)
    return GgufCheckpoint.open(path)


def open_adapter(path: Path, base: Checkpoint) -> Adapter:
    """An adapter of the model `base`: a folder is one of PEFT's, a file is GGUF. Raises what their readers raise."""
    return read_peft_adapter(path, base) if path.is_dir() else read_gguf_adapter(path, base)
