"""The line of figures below an answer: whole ones with all that was measured, stopped ones with what was seen."""

from abaci.cli.answer import Answer
from abaci.cli.figures import measure
from abaci.generation import FinishReason, Usage


def test_a_whole_answer() -> None:
    usage = Usage(prompt_tokens=30, completion_tokens=11, cached_tokens=10, prefill_seconds=0.5, decode_seconds=2.0)
    answer = Answer("Once", FinishReason.STOP, usage, seed=1, num_tokens=11, seconds=4.0)
    line = str(measure(answer, 0.25))
    assert line.startswith("load 0.25 s | prompt: 30 tokens (10 cached), 40.0/s | answer: 11 tokens, 5.0/s | memory ")


def test_a_stopped_answer_counts_what_was_seen_of_it() -> None:
    answer = Answer("Once", FinishReason.CANCELLED, None, seed=1, num_tokens=11, seconds=4.0)
    assert str(measure(answer, 0.25)).startswith("load 0.25 s | answer: 11 tokens, 2.5/s | memory ")


def test_an_answer_stopped_at_its_first_token_has_no_rate() -> None:
    answer = Answer("O", FinishReason.CANCELLED, None, seed=1, num_tokens=1, seconds=0.0)
    assert str(measure(answer, 0.25)).startswith("load 0.25 s | answer: 1 token | memory ")
