"""The scripted generator keeps the promises of `Generator`."""

import queue

import pytest

from abaci.engine.scripted import ScriptedGenerator
from abaci.errors import EngineClosedError
from abaci.generation import FinishReason, GenerationRequest


def recite(script, request):
    generator = ScriptedGenerator(script)
    events = queue.SimpleQueue()
    generator.submit(request, events.put)
    heard = []
    while sum(event.finish_reason is not None for event in heard) < request.num_samples:
        heard.append(events.get(timeout=30))
    generator.close()
    with pytest.raises(EngineClosedError):
        generator.submit(request, events.put)
    return heard


@pytest.mark.parametrize(
    ("script", "max_tokens", "token_ids", "reason"),
    [
        ((5, 6, 7), 9, (5, 6, 7), FinishReason.STOP),
        ((5, 6, 7), 2, (5, 6), FinishReason.LENGTH),
        ((5, 2, 7), 9, (5, 2), FinishReason.STOP),
        ((5,), 0, (), FinishReason.LENGTH),
    ],
)
def test_a_script_is_recited_within_limits(script, max_tokens, token_ids, reason):
    request = GenerationRequest("a", (1,), max_tokens, end_token_ids=frozenset({2}))
    events = recite(lambda request, index: script, request)
    assert tuple(token for event in events for token in event.token_ids) == token_ids
    assert [event.finish_reason for event in events if event.finish_reason] == [reason]
    assert events[-1].ended_by_token == (2 in token_ids)


def test_samples_and_logprobs():
    request = GenerationRequest("a", (1, 2), 5, num_samples=2, num_logprobs=0, num_prompt_logprobs=0)
    events = recite(lambda request, index: [index], request)
    assert [event.token_ids for event in events if event.sample_index == 1] == [(1,), ()]
    assert [entry and entry.token_id for entry in events[0].prompt_logprobs] == [None, 2, -1]
    assert events[0].logprobs[0].token_id == 0


def test_a_script_that_raises_is_an_error_event():
    (event,) = recite(lambda request, index: 1 // 0, GenerationRequest("a", (1,), 5))
    assert event.finish_reason is FinishReason.ERROR
    assert isinstance(event.error, ZeroDivisionError)
