"""Constrained samples through the whole engine on a tiny model: valid, and the same whatever else happens."""

import json
import queue
import threading
from contextlib import contextmanager
from dataclasses import replace

import jsonschema
import pytest
from golden_models import golden_path

from abaci.engine.engine import Engine, EngineConfig
from abaci.engine.grammar import GrammarCompiler, Vocabulary
from abaci.engine.loader import LoadOptions, native_backend, reference_backend
from abaci.engine.threads import plan_threads
from abaci.errors import UsageError
from abaci.formats.gguf import GgufCheckpoint
from abaci.generation import Constraint, ConstraintKind, FinishReason, GenerationRequest, Thinking
from abaci.models.families import spec_from_gguf

END = 256
TOKENS = [bytes([byte]) for byte in range(256)] + [b"<end>", b'{"', b'": ', b"true", b"null", b"\n  "]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
PROMPT = tuple((7 * index) % 250 + 1 for index in range(40))
FORM = Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(SCHEMA))
JSON = GenerationRequest("json", PROMPT, 200, constraint=FORM, end_token_ids=frozenset({END}), seed=8, num_logprobs=2)
DIGITS = Constraint(ConstraintKind.REGEX, "([0-9]{3}-){4}[0-9]{2}")
OTHERS = [
    replace(JSON, request_id=f"o{i}", seed=i, prompt_token_ids=PROMPT[i:], constraint=(FORM, DIGITS, None)[i % 3])
    for i in range(9)
]


@contextmanager
def opened(backend=native_backend, *, num_pages=200, max_step_tokens=128, starts=None):
    """An engine; with `starts`, an event, it takes its first step when that is set."""
    with GgufCheckpoint.open(golden_path("llama")) as checkpoint:
        spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
        executor = backend(spec, checkpoint, LoadOptions(max_step_tokens=max_step_tokens), plan_threads(1)).executor
        executor.allocate_cache((num_pages,))
        config = EngineConfig(
            spec.vocab_size, 256, (None,), (num_pages,), max_sequences=12, max_step_tokens=max_step_tokens
        )
        engine = Engine(
            executor,
            config,
            on_thread_start=None if starts is None else starts.wait,
            vocabulary=lambda: Vocabulary(TOKENS, frozenset({END})),
        )
        yield engine
        engine.close()


def answers(engine, *requests, starts=None):
    """For each sample its tokens, log-probabilities and end; all requests run together."""
    heard = queue.SimpleQueue()
    for request in requests:
        engine.submit(request, heard.put)
    if starts is not None:
        starts.set()
    found = {}
    num_open = sum(request.num_samples for request in requests)
    while num_open:
        event = heard.get(timeout=60)
        entry = found.setdefault((event.request_id, event.sample_index), [(), (), None, None])
        entry[0] += event.token_ids
        entry[1] += event.logprobs
        if event.finish_reason is not None:
            entry[2:] = [event.finish_reason, event.error]
            num_open -= 1
    return found


def text_of(answer):
    assert answer[2] is FinishReason.STOP, answer[3]
    assert answer[0][-1] == END
    return b"".join(TOKENS[token] for token in answer[0][:-1]).decode()


@pytest.fixture(scope="module")
def alone():
    with opened() as engine:
        return answers(engine, JSON)["json", 0]


def test_an_answer_has_the_form_asked_for(alone):
    jsonschema.validate(json.loads(text_of(alone)), SCHEMA)


def test_every_sample_has_it_and_no_two_are_the_same():
    with opened() as engine:
        found = answers(engine, replace(JSON, num_samples=8))
    texts = [text_of(answer) for answer in found.values()]
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMA)
    assert len(set(texts)) == 8


def test_among_others(alone):
    with opened() as engine:
        assert answers(engine, *OTHERS[:4], JSON, *OTHERS[4:])["json", 0] == alone
        assert answers(engine, JSON)["json", 0] == alone


def test_in_chunks(alone):
    with opened(max_step_tokens=12) as engine:
        assert answers(engine, JSON)["json", 0] == alone
        assert engine.stats().prompt_chunks > 2


def test_preempted(alone):
    older = replace(JSON, request_id="older", seed=77, constraint=None, end_token_ids=frozenset(), max_tokens=100)
    starts = threading.Event()
    with opened(num_pages=5, starts=starts) as engine:  # room for either, not for both
        assert answers(engine, older, replace(JSON, max_tokens=100), starts=starts)["json", 0] == alone
        assert engine.stats().preemptions > 0


def test_the_reference_draws_the_same_tokens():
    request = replace(JSON, constraint=DIGITS, temperature=0.0, num_logprobs=None, prompt_token_ids=PROMPT[2:])
    with opened() as native, opened(reference_backend) as reference:
        assert answers(native, request) == answers(reference, request)


def test_a_thought_is_cut_at_its_budget_and_the_answer_has_its_form():
    closing = (ord("."), ord("<"), ord(">"))
    request = replace(JSON, thinking=Thinking((ord("<"), ord(">")), 15, closing))
    with opened() as engine:
        token_ids, _, reason, _ = answers(engine, request)["json", 0]
    assert token_ids[15:18] == closing
    assert reason is FinishReason.STOP
    jsonschema.validate(json.loads(b"".join(TOKENS[token] for token in token_ids[18:-1])), SCHEMA)


def test_a_budget_needs_no_constraint():
    closing = (ord("<"), ord(">"))
    thinking = Thinking(closing, 7, closing)
    request = replace(JSON, constraint=None, thinking=thinking, max_tokens=20, end_token_ids=frozenset(), min_tokens=20)
    with opened() as engine:
        token_ids = answers(engine, request)["json", 0][0]
    assert token_ids[7:9] == closing
    assert len(token_ids) == 20


def test_a_dead_end_ends_its_request_with_an_error_and_no_other(alone):
    """The form goes on after a token that ends the answer."""
    form = Constraint(ConstraintKind.LARK, f'start: "ab" <[{END}]> "c"')
    request = replace(JSON, request_id="dead", constraint=form)
    with opened() as engine:
        found = answers(engine, request, JSON)
        assert found["json", 0] == alone
    token_ids, _, reason, error = found["dead", 0]
    assert token_ids == (ord("a"), ord("b"))
    assert reason is FinishReason.ERROR
    assert isinstance(error, UsageError)
    assert "no token after 2 tokens" in error.message


def test_a_form_that_costs_too_much_ends_its_request_with_an_error_and_no_other(alone):
    costly = Constraint(ConstraintKind.REGEX, "((((a{0,9}){0,9}){0,9}){0,9}){0,9}b{400}")
    request = replace(JSON, request_id="costly", constraint=costly, logit_bias=((ord("a"), 100.0),))
    with opened() as engine:
        found = answers(engine, request, JSON)
        assert found["json", 0] == alone
    _, _, reason, error = found["costly", 0]
    assert reason is FinishReason.ERROR
    assert isinstance(error, UsageError)
    assert "too much work" in error.message


def test_a_grammar_that_cannot_be_made_anew_ends_its_request_only(alone, monkeypatch):
    def take(self, constraint):
        if constraint == DIGITS:
            raise UsageError("took too long")
        return original(self, constraint)

    original = GrammarCompiler.take
    monkeypatch.setattr(GrammarCompiler, "take", take)
    with opened() as engine:
        found = answers(engine, replace(JSON, request_id="other", constraint=DIGITS), JSON)
    assert found["json", 0] == alone
    assert str(found["other", 0][3]) == "took too long"


def test_min_tokens_and_biases_apply_within_the_form():
    form = Constraint(ConstraintKind.REGEX, "(a|b)*")
    request = replace(JSON, constraint=form, min_tokens=30, max_tokens=40, logit_bias=((END, 90.0), (ord("b"), -90.0)))
    with opened() as engine:
        answer = answers(engine, request)["json", 0]
    assert text_of(answer) == "a" * 30


def test_what_cannot_be_followed_is_refused_before_it_is_queued():
    with opened() as engine:
        for request in (
            replace(JSON, constraint=Constraint(ConstraintKind.REGEX, "a(")),
            replace(JSON, end_token_ids=frozenset()),
            replace(JSON, thinking=Thinking(())),
        ):
            with pytest.raises(UsageError):
                engine.submit(request, print)
        with pytest.raises(UsageError, match="unclosed"):
            engine.check_constraint(Constraint(ConstraintKind.REGEX, "a("))
        engine.check_constraint(FORM)
        assert engine.stats().waiting == engine.stats().running == 0
