"""Structured output on real weights, through what a caller of LLM sees."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from abaci import LLM, SamplingParams
from abaci.chat.structured import constraint_of
from abaci.runtime.results import GenerationResult

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "hobbies": {"type": "array", "items": {"enum": ["chess", "running", "music"]}, "maxItems": 3},
    },
    "required": ["name", "age", "hobbies"],
    "additionalProperties": False,
}
PROMPT = "A person as JSON: "
FREE = SamplingParams(temperature=1.0, max_tokens=90, seed=3, logprobs=1)
JSON = replace(
    FREE, constraint=constraint_of(response_format={"type": "json_schema", "json_schema": {"schema": SCHEMA}})
)
REGEX = replace(FREE, constraint=constraint_of(structured_outputs={"regex": r"[A-Z][a-z]{2,9}, \d{1,3}"}))
CHOICE = replace(FREE, constraint=constraint_of(guided_choice=["yes", "no", "perhaps"]))
GRAMMAR = replace(FREE, constraint=constraint_of(grammar='root ::= "I like " fruit "."\nfruit ::= "apples" | "pears"'))


@pytest.fixture(scope="module")
def llm(smollm2_path: Path) -> Iterator[LLM]:
    with LLM(smollm2_path, context=512, threads=1) as llm:
        yield llm


def facts(result: GenerationResult) -> object:
    assert result.error is None
    return result.token_ids, result.logprobs, result.text


def test_answers_have_their_forms_and_are_the_same_in_company(llm: LLM) -> None:
    each = [JSON, REGEX, CHOICE, GRAMMAR]
    alone = [llm.generate(PROMPT, params) for params in each]
    person, line, choice, sentence = [result.text for result in alone]
    jsonschema.validate(json.loads(person), SCHEMA)
    assert re.fullmatch(r"[A-Z][a-z]{2,9}, \d{1,3}", line)
    assert choice in {"yes", "no", "perhaps"}
    assert sentence in {"I like apples.", "I like pears."}
    others = [replace(params, seed=seed, max_tokens=30) for seed in range(4) for params in (FREE, JSON, REGEX)]
    together = llm.generate([PROMPT] * 16, [*others[:6], *each, *others[6:]])
    assert [facts(result) for result in together[6:10]] == [facts(result) for result in alone]


def test_what_cannot_be_enforced_fails_alone(llm: LLM) -> None:
    wrong = replace(FREE, constraint=constraint_of(json_schema={"not": {}}))
    refused, answered = llm.generate([PROMPT, PROMPT], [wrong, CHOICE])
    assert refused.error is not None
    assert "'not'" in str(refused.error)
    assert facts(answered) == facts(llm.generate(PROMPT, CHOICE))
