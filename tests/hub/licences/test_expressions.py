"""Expressions: whatever is written becomes one, and what is written again is the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abaci.hub.licences.expressions import (
    NO_ASSERTION,
    AllOf,
    AnyOf,
    Expression,
    LicenceId,
    all_of,
    ids_of,
    read_expression,
    write_expression,
)
from abaci.hub.licences.reading import load_licences

BOOK = load_licences()
IDS = st.sampled_from(["MIT", "Apache-2.0", "LicenseRef-qwen", "BSD-2-Clause", "LicenseRef-unheard-of"])
EXPRESSIONS: st.SearchStrategy[Expression] = st.recursive(
    IDS.map(LicenceId),
    lambda parts: st.one_of(
        st.lists(parts, min_size=1, max_size=3).map(all_of),
        st.lists(parts, min_size=2, max_size=3, unique=True).map(lambda several: AnyOf(tuple(several))),
    ),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MIT AND llama3.1", "MIT AND LicenseRef-scancode-llama-3.1-license-2024"),
        ("mit or apache-2.0", "MIT OR Apache-2.0"),
        ("(MIT OR Apache-2.0) AND gemma", "(MIT OR Apache-2.0) AND LicenseRef-scancode-gemma-tou-2024-04-01"),
        ("MIT AND MIT", "MIT"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "GPL-2.0-only WITH Classpath-exception-2.0"),
        ("Some Model License v2!", "LicenseRef-Some-Model-License-v2"),
        ("(MIT", "LicenseRef-MIT"),
        ("AND", "LicenseRef-AND"),
        ("NOASSERTION", NO_ASSERTION),
        ("   ", NO_ASSERTION),
    ],
)
def test_what_is_written_becomes_an_spdx_expression(text: str, expected: str) -> None:
    assert write_expression(read_expression(text, BOOK)) == expected


def test_nothing_joined_is_nothing_known() -> None:
    unknown = LicenceId(NO_ASSERTION)
    assert all_of([]) == unknown
    assert all_of([unknown, LicenceId("MIT")]) == LicenceId("MIT")
    assert all_of([AllOf((LicenceId("MIT"), LicenceId("Zlib"))), LicenceId("MIT")]) == AllOf(
        (LicenceId("MIT"), LicenceId("Zlib"))
    )


@given(EXPRESSIONS)
def test_an_expression_survives_being_written(expression: Expression) -> None:
    again = read_expression(write_expression(expression), BOOK)
    assert set(ids_of(again)) == set(ids_of(expression))
    assert read_expression(write_expression(again), BOOK) == again


@given(st.text(max_size=200))
def test_no_text_is_too_strange(text: str) -> None:
    expression = read_expression(text, BOOK)
    assert read_expression(write_expression(expression), BOOK) == expression


def test_a_long_text_is_no_expression() -> None:
    assert len(write_expression(read_expression("MIT AND " * 10_000 + "MIT", BOOK))) < 100
