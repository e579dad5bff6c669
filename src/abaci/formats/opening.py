"""From a path to an open checkpoint, or adapter, whatever its format."""

from pathlib import Path

from abaci.formats.adapter import Adapter, read_gguf_adapter
from abaci.formats.checkpoint import Checkpoint
from abaci.formats.gguf import GgufCheckpoint
from abaci.formats.huggingface import HuggingFaceCheckpoint
from abaci.formats.peft import read_peft_adapter


def open_checkpoint(path: Path) -> Checkpoint:
    """A folder is one of Hugging Face's, a file is GGUF. Raises what their `open` raises."""
    return HuggingFaceCheckpoint.open(path) if path.is_dir() else GgufCheckpoint.open(path)


def open_adapter(path: Path, base: Checkpoint) -> Adapter:
    """An adapter of the model `base`: a folder is one of PEFT's, a file is GGUF. Raises what their readers raise."""
    return read_peft_adapter(path, base) if path.is_dir() else read_gguf_adapter(path, base)
