"""Measures every model type against the original's logits and writes the table of docs/models.md.

    python scripts/make_models_table.py            prints the table, and replaces it in docs/models.md

Every tiny folder of tests/golden/folders runs in the reference executor (float32) and through the compiled kernels, as
it is and converted to GGUF. Needs neither torch nor transformers: the logits are committed beside the folders.
"""

import json
import shutil
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "formats")]

from golden_folders import FOLDER_NAMES, folder_sequences, golden_folder  # noqa: E402
from golden_models import CheckpointTensors  # noqa: E402
from step_feeding import StepFeeder, log_softmax  # noqa: E402
from test_converting import small_vocabulary, with_tokenizer  # noqa: E402

from abaci.formats.checkpoint import Checkpoint  # noqa: E402
from abaci.formats.converting import convert_to_gguf  # noqa: E402
from abaci.formats.gguf import GgufCheckpoint  # noqa: E402
from abaci.formats.huggingface import HuggingFaceCheckpoint  # noqa: E402
from abaci.kernels import native  # noqa: E402
from abaci.kernels.batch import Executor  # noqa: E402
from abaci.kernels.reference import ReferenceExecutor  # noqa: E402
from abaci.models.families import spec_from_gguf  # noqa: E402

PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- table: scripts/make_models_table.py -->", "<!-- end of table -->"
REAL_WEIGHTS = {
    "llama": "SmolLM2-135M-Instruct (Q4_1)",
    "qwen2": "Qwen2.5-Coder-0.5B-Instruct (Q4_K_M)",
    "gemma3_text": "Gemma 3 270M (Q4_K_M)",
}
HEADER = ("model type", "GGUF architecture", "reference", "float32", "compiled", "as GGUF", "real weights tried")


def main() -> None:
    rows = [HEADER, ("---",) * len(HEADER), *(measure(name) for name in FOLDER_NAMES)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    print(table)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")


def measure(name: str) -> tuple[str, ...]:
    """One row: the largest differences of a log-probability from the original's."""
    config = json.loads((golden_folder(name) / "config.json").read_text())
    with closing(HuggingFaceCheckpoint.open(golden_folder(name))) as checkpoint:
        architecture = str(checkpoint.metadata["general.architecture"])
        exact, compiled = distance(name, checkpoint, exact=True), distance(name, checkpoint, exact=False)
    is_same = distance_as_gguf(name) == exact
    return (
        name,
        f"`{architecture}`",
        f"transformers {config['transformers_version']}",
        f"{exact:.1e}",
        f"{compiled:.1e}",
        "the same" if is_same else "differs",
        REAL_WEIGHTS.get(name, ""),
    )


def distance_as_gguf(name: str) -> float:
    """Of the folder, given a tokenizer, after it has been converted."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(golden_folder(name), Path(folder) / name))
        path = Path(folder) / "model.gguf"
        with closing(HuggingFaceCheckpoint.open(with_tokenizer(copy, small_vocabulary()))) as checkpoint:
            convert_to_gguf(checkpoint, path)
        with closing(GgufCheckpoint.open(path)) as converted:
            return distance(name, converted, exact=True)


def distance(name: str, checkpoint: Checkpoint, *, exact: bool) -> float:
    """The largest difference over all golden sequences."""
    spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
    source = CheckpointTensors(checkpoint)
    executor: Executor
    if exact:
        executor = ReferenceExecutor(spec, source, cache_type="float32")
    else:
        executor = native.NativeExecutor(spec, source, max_step_tokens=64, pool=native.thread_pool(2))
    feeder = StepFeeder(executor, spec, num_sequences=1, max_tokens=64)
    differences: list[NDArray[np.floating]] = [
        np.abs(feeder.logprobs(sequence.token_ids) - log_softmax(sequence.logits))
        for sequence in folder_sequences(name)
    ]
    executor.close()
    return float(max(difference.max() for difference in differences))


if __name__ == "__main__":
    main()
