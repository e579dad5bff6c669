"""From sampling parameters to requests."""

import pytest

from abaci.chat.requests import GenerationDefaults, check_params
from abaci.errors import FileFormatError, UsageError
from abaci.generation import SamplingParams


def test_defaults_of_a_file():
    metadata = {"general.sampling.temp": 0.7, "general.sampling.top_k": 20, "general.sampling.top_p": 0.8}
    assert GenerationDefaults.from_metadata(metadata) == GenerationDefaults(temperature=0.7, top_k=20, top_p=0.8)
    assert GenerationDefaults.from_metadata({"general.sampling.top_k": -1}) == GenerationDefaults()


@pytest.mark.parametrize(("key", "value"), [("temp", "hot"), ("temp", -1.0), ("top_p", 0.0), ("top_k", True)])
def test_defaults_that_make_no_sense(key, value):
    with pytest.raises(FileFormatError, match=r"general\.sampling"):
        GenerationDefaults.from_metadata({f"general.sampling.{key}": value})


def test_advice_that_cannot_be_followed_is_said():
    with pytest.warns(UserWarning, match=r"general\.sampling\.mirostat"):
        GenerationDefaults.from_metadata({"general.sampling.mirostat": 2})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "1"),
        ("top_k", 0),
        ("top_k", 1.5),
        ("top_p", 0),
        ("top_p", 1.01),
        ("min_p", 1),
        ("min_p", -0.1),
        ("repetition_penalty", 0),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("seed", -1),
        ("seed", 2**64),
        ("n", 0),
        ("n", True),
        ("n", 16_385),
        ("n", 10**9),
        ("temperature", 1e31),
        ("repetition_penalty", 1e-31),
        ("repetition_penalty", 1e31),
        ("max_tokens", 0),
        ("min_tokens", -1),
        ("logprobs", -1),
        ("prompt_logprobs", -1),
        ("logit_bias", {-1: 0.0}),
        ("logit_bias", {1: 100.5}),
        ("stop_token_ids", (-1,)),
        ("stop", ""),
        ("stop", ("a", "")),
    ],
)
def test_values_out_of_range_are_named(name, value):
    with pytest.raises(UsageError, match=name):
        check_params(SamplingParams(**{name: value}))


def test_the_edges_of_the_ranges_are_allowed():
    check_params(
        SamplingParams(
            temperature=0,
            top_k=1,
            top_p=1,
            min_p=0,
            repetition_penalty=0.01,
            presence_penalty=-2,
            frequency_penalty=2,
            logit_bias={0: -100},
            seed=2**64 - 1,
            max_tokens=1,
            min_tokens=1,
            logprobs=0,
        )
    )


def test_min_tokens_beyond_max_tokens():
    with pytest.raises(UsageError, match="min_tokens is 4") as raised:
        check_params(SamplingParams(min_tokens=4, max_tokens=3))
    assert raised.value.hint == "It must be between 0 and 3."
