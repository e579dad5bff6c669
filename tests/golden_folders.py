"""The committed tiny Hugging Face folders (scripts/make_golden_folders.py makes them) and the original's logits."""

from pathlib import Path

import numpy as np
from golden_models import GOLDEN, GoldenSequence

FOLDERS = GOLDEN / "folders"
FOLDER_NAMES = tuple(sorted(path.name for path in FOLDERS.iterdir()))


def golden_folder(name: str) -> Path:
    return FOLDERS / name


def folder_sequences(name: str) -> list[GoldenSequence]:
    with np.load(FOLDERS / name / "golden.npz") as arrays:
        return [GoldenSequence(arrays[f"tokens_{i}"], arrays[f"logits_{i}"]) for i in range(len(arrays.files) // 2)]
