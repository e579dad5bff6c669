"""What one sample may draw next, seen through its row of bits."""

import numpy as np
import pytest

from abaci.engine.grammar import GrammarCompiler, GrammarError, Vocabulary
from abaci.engine.guide import Guide, check_guidance, needs_guide
from abaci.errors import UsageError
from abaci.generation import Constraint, ConstraintKind, GenerationRequest, Thinking

END, STOP = 256, ord("!")
VOCAB_SIZE = 260
PROMPT = (1, 2, 3)
THOUGHT_END = (ord("<"), ord(">"))


@pytest.fixture(scope="module")
def compiler():
    tokens = [bytes([byte]) for byte in range(256)] + [b"<end>", b"", b"<a>", b"<b>"]
    return GrammarCompiler(lambda: Vocabulary(tokens, frozenset({256, 258, 259})), VOCAB_SIZE)


def a_request(**others):
    return GenerationRequest("a", PROMPT, 100, **({"end_token_ids": frozenset({END})} | others))


def a_guide(compiler, regex=None, **others):
    constraint = None if regex is None else Constraint(ConstraintKind.REGEX, regex)
    request = a_request(constraint=constraint, **others)
    return Guide(request, None if constraint is None else compiler.compile(constraint))


def allowed(guide, text=b"", output=None):
    """The tokens that may follow an output; None where all may."""
    row = np.zeros(-(-VOCAB_SIZE // 32), np.uint32)
    token_ids = [*PROMPT, *(text if output is None else output)]
    if not guide.allow(token_ids, len(PROMPT), row):
        return None
    return set(np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist())


def test_an_end_is_allowed_where_the_form_is_complete_and_only_there(compiler):
    guide = a_guide(compiler, "ab?")
    assert allowed(guide) == {ord("a")}
    assert allowed(guide, b"a") == {ord("b"), END}
    assert allowed(guide, b"ab") == {END}


def test_a_text_token_that_ends_the_answer_follows_the_same_rule(compiler):
    guide = a_guide(compiler, "[a!]{2}", end_token_ids=frozenset({END, STOP}))
    assert allowed(guide) == {ord("a")}
    assert allowed(guide, b"aa") == {END, STOP}


def test_min_tokens_keeps_the_end_away_for_as_long_as_the_form_can_go_on(compiler):
    guide = a_guide(compiler, "a{1,3}", min_tokens=5)
    assert [allowed(guide, b"a" * count) for count in range(4)] == [{ord("a")}] * 3 + [{END}]


def test_a_guide_made_later_stands_where_an_older_one_does(compiler):
    older = a_guide(compiler, "[ab]c?[0-9]{3}")
    for count in range(5):
        text = b"ac123"[:count]
        assert allowed(older, text) == allowed(a_guide(compiler, "[ab]c?[0-9]{3}"), text)


def test_samples_of_one_grammar_go_their_own_ways(compiler):
    constraint = Constraint(ConstraintKind.REGEX, "a1|b2")
    grammar = compiler.compile(constraint)
    one, other = (Guide(a_request(constraint=constraint), grammar) for _ in range(2))
    assert allowed(one) == allowed(other) == {ord("a"), ord("b")}
    assert (allowed(one, b"a"), allowed(other, b"b")) == ({ord("1")}, {ord("2")})


def test_a_token_that_was_not_allowed_is_an_error(compiler):
    guide = a_guide(compiler, "ab")
    with pytest.raises(GrammarError, match="no way on"):
        allowed(guide, b"x")


def test_a_thought_ends_by_itself_or_at_its_budget(compiler):
    def guide():
        return a_guide(compiler, thinking=Thinking(THOUGHT_END, 4, (ord("."), *THOUGHT_END)))

    assert [allowed(guide(), text) for text in (b"", b"abc", b"a<>", b"a<>bcdefghi")] == [None] * 4
    by_force = guide()
    assert allowed(by_force, b"abcd") == {ord(".")}
    assert allowed(by_force, b"abcd.") == {ord("<")}
    assert allowed(by_force, b"abcd.<") == {ord(">")}
    assert allowed(by_force, b"abcd.<>") is None
    assert allowed(guide(), b"abc<") == {ord(".")}, "half an end is none"
    assert allowed(guide(), b"abcd.<>hello") is None


def test_no_thought_at_all_is_a_budget_of_nothing(compiler):
    guide = a_guide(compiler, "yes|no", thinking=Thinking(THOUGHT_END, 0, THOUGHT_END))
    assert allowed(guide) == {ord("<")}
    assert allowed(guide, b"<>") == {ord("y"), ord("n")}


def test_the_form_begins_after_the_thought_which_no_end_token_ends(compiler):
    guide = a_guide(compiler, "yes|no", thinking=Thinking(THOUGHT_END))
    assert allowed(guide, b"hm") == set(range(288)) - {END}  # what is beyond the vocabulary is nobody's concern
    assert allowed(guide, b"hm<>") == {ord("y"), ord("n")}
    assert allowed(guide, b"hm<>n") == {ord("o")}
    assert allowed(guide, b"hm<>no") == {END}


def test_the_end_of_a_thought_in_the_prompt_is_not_that_of_this_one(compiler):
    prompt = (1, 2, ord("<"))
    request = GenerationRequest("a", prompt, 9, thinking=Thinking(THOUGHT_END, 5, THOUGHT_END))
    row = np.zeros(9, np.uint32)
    guide = Guide(request, None)
    assert guide.allow([*prompt, *b">abcd"], len(prompt), row)
    assert np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist() == [ord("<")]


def test_who_needs_a_guide():
    constraint = Constraint(ConstraintKind.REGEX, "a")
    assert not needs_guide(a_request())
    assert not needs_guide(a_request(thinking=Thinking(THOUGHT_END)))
    assert needs_guide(a_request(thinking=Thinking(THOUGHT_END, 3, THOUGHT_END)))
    assert needs_guide(a_request(constraint=constraint))


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"thinking": Thinking(())}, "missing"),
        ({"thinking": Thinking((VOCAB_SIZE,))}, "not in the vocabulary"),
        ({"thinking": Thinking((1,), 3, (VOCAB_SIZE, 1))}, "not in the vocabulary"),
        ({"thinking": Thinking((1,), -1, (1,))}, "the budget is -1 tokens"),
        ({"thinking": Thinking((1, 2), 3, (1,))}, "do not end with"),
        ({"thinking": Thinking((1,), 3)}, "do not end with"),
        ({"constraint": Constraint(ConstraintKind.REGEX, "a"), "end_token_ids": frozenset()}, "needs an end token"),
    ],
)
def test_what_contradicts_itself_is_refused(others, message):
    with pytest.raises(UsageError, match=message):
        check_guidance(a_request(**others), VOCAB_SIZE)


def test_what_makes_sense_is_not():
    constraint = Constraint(ConstraintKind.REGEX, "a")
    check_guidance(a_request(constraint=constraint, thinking=Thinking(THOUGHT_END, 0, THOUGHT_END)), VOCAB_SIZE)
    check_guidance(a_request(end_token_ids=frozenset()), VOCAB_SIZE)
