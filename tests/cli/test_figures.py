"""The line of figures below an answer: whole ones with all that was measured, stopped ones with what was seen."""

from abaci.cli.answer import Answer
from abaci.cli.figures import measure
from abaci.generation import FinishReason, Usage


def test_a_whole_answer() -> None:
    usage = Usage(prompt_tokens=30, completion_tokens=11, cached_tokens=10, prefill_seconds=0.5, decode_seconds=2.0)
    answer = Answer("Once", FinishReason.STOP, usage, seed=1)
    line = str(measure(answer, 0.25))
    assert line.startswith("load 0.25 s | prompt: 30 tokens (10 cached), 40.0/s | answer: 11 tokens, 5.0/s | memory ")


def test_an_answer_stopped_at_its_first_token_has_no_rate() -> None:
    usage = Usage(prompt_tokens=30, completion_tokens=1, prefill_seconds=0.5)
    line = str(measure(Answer("O", FinishReason.CANCELLED, usage, seed=1), 0.25))
    assert line.startswith("load 0.25 s | prompt: 30 tokens, 60.0/s | answer: 1 token | memory ")


def test_an_answer_stopped_before_its_prompt_was_read() -> None:
    line = str(measure(Answer("", FinishReason.CANCELLED, None, seed=1), 0.25))
    assert line.startswith("load 0.25 s | answer: 0 tokens | memory ")
