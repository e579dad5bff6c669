"""What a made file says that other programs do not follow: told of the models that have it, and of no others."""

import json
import shutil
from pathlib import Path

import pytest
from golden_folders import golden_folder

from abaci.formats.opening import open_checkpoint
from abaci.formats.other_programs import what_others_lack


@pytest.mark.parametrize(
    ("name", "changes", "parts"),
    [
        ("qwen3_moe", {}, ["knows no layer without experts"]),
        ("qwen3_moe", {"norm_topk_prob": False}, ["it always makes the weights", "knows no layer without experts"]),
        ("qwen3_next", {"norm_topk_prob": False}, ["it always makes the weights"]),
        ("qwen2_moe", {}, []),
        ("qwen2_moe", {"norm_topk_prob": True}, ["it never makes the weights"]),
        ("glm4_moe", {"norm_topk_prob": False}, []),
        ("deepseek_v2", {}, ["two best experts of each group"]),
        ("deepseek_v2", {"topk_method": "greedy"}, []),
        ("deepseek_v3", {}, []),
    ],
)
def test_mixtures_that_llama_cpp_computes_otherwise_are_told(
    name: str, changes: dict[str, object], parts: list[str], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(golden_folder(name), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with open_checkpoint(folder) as checkpoint:
        told = what_others_lack(checkpoint)
    assert len(told) == len(parts)
    assert all(part in sentence for part, sentence in zip(parts, told, strict=True))
