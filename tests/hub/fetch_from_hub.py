"""Fetches one file through HuggingFaceSource in a process of its own: the library reads its environment on import.

Arguments: path of the partial file, size of the whole. Prints the reason and exits 1 if the hub gives way.
"""

import sys
from pathlib import Path

from abaci.hub.huggingface import HuggingFaceSource
from abaci.hub.partial import PartialFile
from abaci.hub.sources import SourceUnavailableError, Transfer

with PartialFile(Path(sys.argv[1])) as partial:
    try:
        HuggingFaceSource("maker/model", "main").fetch(
            Transfer("tiny.gguf", int(sys.argv[2]), partial, lambda num_bytes: None)
        )
    except SourceUnavailableError as error:
        sys.exit(str(error))
