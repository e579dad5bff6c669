"""LICENSE files: known by their titles, and heard beside the tags."""

import json
from pathlib import Path

import pytest

from abaci.hub import ResolvedModel
from abaci.hub.licences.licence_file import licence_of_folder, licence_of_text
from abaci.hub.licences.model_facts import facts_of_file
from abaci.hub.licences.reading import load_licences
from abaci.hub.licences.report import examine
from abaci.hub.licences.verdict import Decision

BOOK = load_licences()


@pytest.mark.parametrize(
    ("text", "licence_id"),
    [
        ("                 Apache License\n           Version 2.0, January 2004\n", "Apache-2.0"),
        ("MIT License\n\nCopyright (c) 2025 Somebody\n", "MIT"),
        ("Qwen RESEARCH LICENSE AGREEMENT\n\nRelease Date: September 19, 2024\n", "LicenseRef-qwen-research"),
        ("Qwen LICENSE AGREEMENT\n", "LicenseRef-qwen"),
        ("Tongyi Qianwen LICENSE AGREEMENT\n", "LicenseRef-scancode-tongyi-qianwen-2023"),
        ("LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\n Llama 3.1 Version", "LicenseRef-scancode-llama-3.1-license-2024"),
        ("**LLAMA 3.3 COMMUNITY LICENSE AGREEMENT**\r\n", "LicenseRef-scancode-llama-3.3-license-2024"),
        ("META LLAMA 3 COMMUNITY LICENSE AGREEMENT\n", "LicenseRef-llama-3"),
        ("Gemma Terms of Use\n\nLast modified", "LicenseRef-scancode-gemma-tou-2024-04-01"),
        ("DEEPSEEK LICENSE AGREEMENT\n\nVersion 1.0", "LicenseRef-scancode-deepseek-la-1.0"),
        ("# Mistral AI Research License\n", "LicenseRef-MRL-0.1"),
        ("Apache License\nVersion 1.1\n", None),
        ("Somebody's licence\n", None),
        ("", None),
        ("\n\n###\n", None),
    ],
)
def test_a_text_is_known_by_its_title(text: str, licence_id: str | None) -> None:
    assert licence_of_text(text, BOOK) == licence_id


def test_a_folder_without_one(tmp_path: Path) -> None:
    assert licence_of_folder(tmp_path, BOOK) is None
    (tmp_path / "LICENSE").mkdir()
    assert licence_of_folder(tmp_path, BOOK) is None


def test_a_text_that_contradicts_the_tag_is_a_doubt(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nobody-runs-this"}))
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (tmp_path / "LICENSE").write_text("Qwen RESEARCH LICENSE AGREEMENT\n")
    facts = facts_of_file(ResolvedModel(tmp_path, "tuned", None, None, str(tmp_path), None))
    report = examine(facts, None)
    assert report.expression == "LicenseRef-qwen-research AND Apache-2.0"
    assert report.verdict.decision is Decision.ASK
    assert "its repository says Apache-2.0, its LICENSE file says LicenseRef-qwen-research" in report.licences.doubts
