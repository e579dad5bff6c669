"""From a path to an open checkpoint, whatever its format."""

from pathlib import Path

from abaci.formats.checkpoint import Checkpoint
from abaci.formats.gguf import GgufCheckpoint
from abaci.formats.huggingface import HuggingFaceCheckpoint


def open_checkpoint(path: Path) -> Checkpoint:
    """A folder is one of Hugging Face's, a file is GGUF. Raises what their `open` raises."""
    return HuggingFaceCheckpoint.open(path) if path.is_dir() else GgufCheckpoint.open(path)
