"""Verdicts: clause by clause, and an order that nothing added can turn milder."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abaci.hub.licences.closure import ModelLicences
from abaci.hub.licences.expressions import AnyOf, Expression, LicenceId, all_of, read_expression
from abaci.hub.licences.licence import Activity, ClauseKind
from abaci.hub.licences.policy import Policy, Use
from abaci.hub.licences.reading import load_licences
from abaci.hub.licences.verdict import Decision, Verdict, judge

BOOK = load_licences()
ALLOW, ASK, DENY = Decision.ALLOW, Decision.ASK, Decision.DENY


def verdict(licences: str | Expression, policy: Policy, *, multimodal: bool | None = False) -> Verdict:
    expression = read_expression(licences, BOOK) if isinstance(licences, str) else licences
    return judge(ModelLicences(expression), policy, BOOK, multimodal=multimodal)


@pytest.mark.parametrize(
    ("licences", "use", "decision"),
    [
        ("apache-2.0", Use(), ALLOW),
        ("apache-2.0", Use(commercial=True, users_per_month=10**9, territories=frozenset({"worldwide"})), ALLOW),
        ("qwen-research", Use(), ASK),
        ("qwen-research", Use(commercial=True), DENY),
        ("qwen-research", Use(commercial=False), ALLOW),
        ("cc-by-nc-4.0", Use(commercial=True), DENY),
        ("mrl", Use(commercial=True), DENY),
        ("mnpl", Use(commercial=True), DENY),
        ("qwen", Use(commercial=True, users_per_month=100_000_000), ALLOW),
        ("qwen", Use(commercial=True, users_per_month=100_000_001), DENY),
        ("qwen", Use(commercial=False, users_per_month=100_000_001), ALLOW),
        ("qwen", Use(users_per_month=100_000_001), ASK),
        ("llama3.1", Use(commercial=True, users_per_month=700_000_000), ALLOW),
        ("llama3.1", Use(commercial=True, users_per_month=700_000_001), DENY),
        ("llama3.1", Use(trains_on_outputs=True), ALLOW),
        ("llama3", Use(trains_on_outputs=True), DENY),
        ("llama2", Use(trains_on_outputs=True), DENY),
        ("gemma", Use(trains_on_outputs=True, serves_others=True, commercial=True), ALLOW),
        ("tencent-hunyuan-community", Use(commercial=True), ASK),
        ("tencent-hunyuan-community", Use(territories=frozenset({"FR"})), DENY),
        ("tencent-hunyuan-community", Use(territories=frozenset({"US"})), ALLOW),
        ("cogvideox", Use(commercial=True), ASK),
        ("cogvideox", Use(commercial=False), ALLOW),
        ("MIT AND qwen-research", Use(commercial=True), DENY),
        ("MIT OR qwen-research", Use(commercial=True), ALLOW),
        ("never-heard-of", Use(commercial=False), ASK),
        ("NOASSERTION", Use(), ASK),
        ("GPL-3.0-only", Use(), ASK),
    ],
)
def test_a_use_under_a_licence(licences: str, use: Use, decision: Decision) -> None:
    assert verdict(licences, Policy(use=use)).decision is decision


def test_europe_and_multimodal_models() -> None:
    europe, elsewhere = (Policy(use=Use(territories=frozenset({code}))) for code in ("DE", "US"))
    assert verdict("llama4", europe, multimodal=True).decision is DENY
    assert verdict("llama4", elsewhere, multimodal=True).decision is ALLOW
    assert verdict("llama3.2", europe, multimodal=False).decision is ALLOW
    assert verdict("llama3.2", europe, multimodal=None).decision is ASK
    assert verdict("llama3.2", elsewhere, multimodal=None).decision is ALLOW


def test_lists() -> None:
    listed = Policy(allow=frozenset({"MIT"}), ask=frozenset({"Zlib"}), deny=frozenset({"Apache-2.0", "LicenseRef-*"}))
    assert verdict("MIT", listed).decision is ALLOW
    assert verdict("Zlib", listed).decision is ASK
    assert verdict("Apache-2.0", listed).decision is DENY
    assert verdict("gemma", listed).decision is DENY
    assert verdict("BSD-3-Clause", listed).decision is ASK
    assert verdict("GPL-3.0-only", Policy(allow=frozenset({"GPL-3.0-only"}))).decision is ALLOW
    forbidden = Policy(use=Use(commercial=True), allow=frozenset({"LicenseRef-qwen-research"}))
    assert verdict("qwen-research", forbidden).decision is DENY


def test_obligations_can_be_asked_about_and_denied() -> None:
    def decision(**changes: frozenset[ClauseKind]) -> Decision:
        return verdict("llama3.1", replace(Policy(use=Use(redistributes=True)), **changes)).decision  # type: ignore[arg-type]

    assert decision() is ALLOW
    assert decision(ask_obligations=frozenset({ClauseKind.NAMING})) is ASK
    assert decision(deny_obligations=frozenset({ClauseKind.NAMING})) is DENY
    private = Policy(deny_obligations=frozenset({ClauseKind.NAMING}))
    assert verdict("llama3.1", private).decision is ALLOW  # the clause does not hold for what is not passed on
    assert verdict("gemma", Policy(deny_obligations=frozenset({ClauseKind.REMOTE_RESTRICTION}))).decision is DENY


def test_reasons_hold_the_clause_and_what_is_missing() -> None:
    [reason] = verdict("qwen-research", Policy(use=Use(commercial=True))).reasons
    assert reason.decision is DENY
    assert "sections 1(i), 2(a) and 2(b)" in reason.text
    assert "non-commercial" in reason.text
    [reason] = verdict("qwen-research", Policy()).reasons
    assert reason.text.endswith("(not declared: commercial)")
    [reason] = verdict("never-heard-of", Policy()).reasons
    assert "LicenseRef-never-heard-of" in reason.text


def test_obligations_know_whether_they_apply() -> None:
    def applying(use: Use) -> set[ClauseKind]:
        found = verdict("llama3.1", Policy(use=use)).obligations
        return {obligation.clause.kind for obligation in found if obligation.applies}

    assert applying(Use()) == {ClauseKind.ACCEPTABLE_USE}
    assert applying(Use(serves_others=True)) >= {ClauseKind.ATTRIBUTION, ClauseKind.LICENCE_COPY}
    assert applying(Use(trains_on_outputs=True)) >= {ClauseKind.NAMING}
    assert len(verdict("llama3.1", Policy()).obligations) == 5


def test_a_doubt_asks() -> None:
    licences = ModelLicences(LicenceId("MIT"), doubts=("the file says otherwise",))
    assert judge(licences, Policy(), BOOK).decision is ASK


IDS = st.sampled_from([*BOOK.by_id, "GPL-3.0-only", "LicenseRef-unheard-of"])
EXPRESSIONS: st.SearchStrategy[Expression] = st.recursive(
    IDS.map(LicenceId),
    lambda parts: st.one_of(
        st.lists(parts, min_size=1, max_size=3).map(all_of),
        st.lists(parts, min_size=2, max_size=3, unique=True).map(lambda several: AnyOf(tuple(several))),
    ),
    max_leaves=5,
)
KINDS = st.frozensets(st.sampled_from(ClauseKind), max_size=3)
USES = st.builds(
    Use,
    commercial=st.sampled_from([None, False, True]),
    users_per_month=st.sampled_from([0, 10**6, 10**8, 10**8 + 1, 7 * 10**8, 10**9]),
    revenue_per_year=st.sampled_from([0, 10**9]),
    territories=st.sampled_from([None, frozenset({"DE"}), frozenset({"US"}), frozenset({"worldwide"})]),
    serves_others=st.booleans(),
    redistributes=st.booleans(),
    trains_on_outputs=st.booleans(),
)
POLICIES = st.builds(
    Policy,
    use=USES,
    allow=st.one_of(st.none(), st.frozensets(IDS, max_size=4)),
    ask=st.frozensets(IDS, max_size=2),
    deny=st.frozensets(IDS, max_size=2),
    ask_obligations=KINDS,
    deny_obligations=KINDS,
)
MULTIMODAL = st.sampled_from([None, False, True])


@given(EXPRESSIONS, POLICIES, MULTIMODAL, IDS, st.sampled_from(ClauseKind))
def test_one_more_denial_never_makes_a_verdict_milder(
    expression: Expression, policy: Policy, multimodal: bool | None, licence_id: str, kind: ClauseKind
) -> None:
    before = verdict(expression, policy, multimodal=multimodal).decision
    for stricter in (
        replace(policy, deny=policy.deny | {licence_id}),
        replace(policy, deny_obligations=policy.deny_obligations | {kind}),
        replace(policy, ask_obligations=policy.ask_obligations | {kind}),
        replace(policy, allow=(policy.allow or frozenset(BOOK.by_id)) - {licence_id}) if policy.allow else policy,
    ):
        assert verdict(expression, stricter, multimodal=multimodal).decision >= before


@given(EXPRESSIONS, EXPRESSIONS, POLICIES, MULTIMODAL)
def test_licences_joined_are_as_strict_as_the_strictest(
    first: Expression, second: Expression, policy: Policy, multimodal: bool | None
) -> None:
    parts = [verdict(part, policy, multimodal=multimodal).decision for part in (first, second)]
    assert verdict(all_of([first, second]), policy, multimodal=multimodal).decision is max(parts)
    if first != second:
        assert verdict(AnyOf((first, second)), policy, multimodal=multimodal).decision is min(parts)


@given(EXPRESSIONS, POLICIES, MULTIMODAL, st.sampled_from(Activity))
def test_doing_more_never_makes_a_verdict_milder(
    expression: Expression, policy: Policy, multimodal: bool | None, activity: Activity
) -> None:
    before = verdict(expression, policy, multimodal=multimodal).decision
    busier = replace(policy, use=replace(policy.use, **{activity.value: True}))  # type: ignore[arg-type]
    assert verdict(expression, busier, multimodal=multimodal).decision >= before
    larger = replace(policy, use=replace(policy.use, users_per_month=policy.use.users_per_month + 10**9))
    assert verdict(expression, larger, multimodal=multimodal).decision >= before


@given(EXPRESSIONS, POLICIES, MULTIMODAL)
def test_a_verdict_is_that_of_its_reasons(expression: Expression, policy: Policy, multimodal: bool | None) -> None:
    outcome = verdict(expression, policy, multimodal=multimodal)
    assert outcome.decision is max((reason.decision for reason in outcome.reasons), default=ALLOW)
    assert list(outcome.reasons) == sorted(outcome.reasons, key=lambda reason: -reason.decision)
