"""Model cards: the head of a README, written by anybody."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abaci.hub.licences.model_card import ModelCard, parse_model_card, read_model_card


def test_a_head(tmp_path: Path) -> None:
    text = "---\nlicense: other\nlicense_name: mrl\nbase_model:\n- a/b\n- c/d\nlanguage: [en]\n---\n# A title\n"
    card = ModelCard("other", "mrl", ("a/b", "c/d"))
    assert parse_model_card(text) == card
    assert parse_model_card(text.replace("\n", "\r\n")) == card
    (tmp_path / "README.md").write_text(text)
    assert read_model_card(tmp_path / "README.md") == card
    assert read_model_card(tmp_path / "none.md") == ModelCard()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# Title\n---\nlicense: mit\n---\n",
        "---\nlicense: mit\n",
        "---\nlicense: [\n---\n",
        "---\n- license\n---\n",
        "---\nlicense: 7\nbase_model: {a: b}\n---\n",
        "---\nlicense: !!python/object/apply:os.system [true]\n---\n",
        "---\nwhen: 2024-99-99\nlicense: mit\n---\n",
        "---\na: " + "[" * 30_000 + "\n---\n",
        "---\na: " + "x" * (1 << 17) + "\n---\n",
    ],
)
def test_what_is_not_understood_says_nothing(text: str) -> None:
    assert parse_model_card(text) == ModelCard()


@given(st.text(alphabet=st.sampled_from("-\n: []{}&*!|>'\"#abclicense_model"), max_size=80))
def test_no_head_is_too_strange(head: str) -> None:
    parse_model_card(f"---\n{head}\n---\n")
