"""What a publisher advises on sampling: followed as the original does, or named."""

from pathlib import Path
from typing import Any

import pytest

from abaci.errors import FileFormatError
from abaci.formats.generation_config import published_sampling, sampling_metadata, unfollowed_advice

FOLDER = Path("model")
CONTEXT = 4096


def test_advice_goes_under_other_names() -> None:
    advice = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0, "repetition_penalty": 1.05}
    assert sampling_metadata(FOLDER, advice) == {
        "general.sampling.temp": 0.6,
        "general.sampling.top_k": 20,
        "general.sampling.top_p": 0.95,
        "general.sampling.min_p": 0.0,
        "general.sampling.penalty_repeat": 1.05,
    }
    assert published_sampling(sampling_metadata(FOLDER, advice)) == advice


@pytest.mark.parametrize("advice", [{"temperature": 0.9}, {"top_k": 5, "top_p": 0.1}, {}])
def test_without_sampling_the_likeliest_token_is_taken(advice: dict[str, float]) -> None:
    found = sampling_metadata(FOLDER, {"do_sample": False, "repetition_penalty": 1.1, **advice})
    assert found == {"general.sampling.temp": 0.0, "general.sampling.penalty_repeat": 1.1}
    assert published_sampling(found) == {"do_sample": False, "repetition_penalty": 1.1}


def test_no_advice_is_none() -> None:
    assert sampling_metadata(FOLDER, {"eos_token_id": 2}) == published_sampling({}) == {}


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": "hot"},
        {"temperature": True},
        {"top_p": float("nan")},
        {"top_k": [1]},
        {"do_sample": "no"},
        {"do_sample": 0},
    ],
)
def test_what_is_no_number_is_refused_by_name(values: dict[str, Any]) -> None:
    with pytest.raises(FileFormatError, match=next(iter(values))):
        sampling_metadata(FOLDER, values)


@pytest.mark.parametrize(
    "values",
    [
        {"max_new_tokens": 40},
        {"no_repeat_ngram_size": 3},
        {"suppress_tokens": [5]},
        {"bad_words_ids": [[5]]},
        {"typical_p": 0.5},
        {"num_beams": 4},
        {"max_length": CONTEXT // 2},
        {"a_setting_of_tomorrow": "x"},
    ],
)
def test_what_is_not_followed_is_named(values: dict[str, Any]) -> None:
    (name,) = values
    (note,) = unfollowed_advice(FOLDER, {"temperature": 0.6, **values}, CONTEXT)
    assert note == f"generation_config.json has settings that are not followed: {name}"


@pytest.mark.parametrize(
    "values",
    [
        {"max_length": CONTEXT},
        {"max_length": 20},
        {"typical_p": 1.0, "num_beams": 1, "no_repeat_ngram_size": 0, "suppress_tokens": [], "bad_words_ids": None},
        {"do_sample": False, "typical_p": 0.5},
        {
            "bos_token_id": 1,
            "eos_token_id": [2, 3],
            "pad_token_id": 0,
            "transformers_version": "5.0",
            "use_cache": True,
        },
        {"cache_implementation": "hybrid", "_from_model_config": True},
    ],
)
def test_what_changes_nothing_is_not_mentioned(values: dict[str, Any]) -> None:
    assert unfollowed_advice(FOLDER, values, CONTEXT) == []


def test_all_that_is_not_followed_is_one_sentence() -> None:
    (note,) = unfollowed_advice(FOLDER, {"typical_p": 0.5, "max_new_tokens": 3}, None)
    assert note.endswith(": max_new_tokens, typical_p")
