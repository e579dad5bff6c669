"""`abaci serve --lora`: for the one model named beside it."""

import pytest
from typer.testing import CliRunner

from abaci.cli.app import app


@pytest.mark.parametrize("models", [[], ["a", "b"]])
def test_it_must_be_clear_which_model_is_adapted(models: list[str]) -> None:
    answer = CliRunner().invoke(app, ["serve", *models, "--lora", "x.gguf"])
    assert answer.exit_code != 0
    text = answer.stderr + str(answer.exception)
    assert "--lora is for one model" in text
