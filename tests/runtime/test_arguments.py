"""What programs give to `LLM`: read as they mean it, or refused by name."""

from functools import partial

import numpy as np
import pytest

from abaci import LLM, SamplingParams
from abaci.engine.loader import load, reference_backend
from abaci.errors import UsageError
from abaci.runtime.arguments import params_of_each, plain_params

GREEDY = SamplingParams(temperature=0, max_tokens=3)


@pytest.fixture(scope="module")
def llm(tiny_model):
    with LLM(tiny_model, loader=partial(load, backend=reference_backend), max_step_tokens=64) as llm:
        yield llm


def test_none_stands_for_the_default():
    names = ("stop", "stop_token_ids", "logit_bias", "presence_penalty", "frequency_penalty", "n", "min_tokens")
    assert plain_params(SamplingParams(**dict.fromkeys(names))) == SamplingParams()
    assert plain_params(None) == SamplingParams()


def test_numbers_of_numpy_are_numbers():
    given = SamplingParams(
        temperature=np.float32(0.5),
        top_k=np.int64(5),
        seed=np.uint64(2**64 - 1),
        n=np.int8(2),
        logit_bias={np.int32(7): np.float64(1.5)},
        stop_token_ids=np.array([1, 2]),
        stop=["a", "b"],
    )
    plain = plain_params(given)
    assert plain == SamplingParams(
        temperature=0.5, top_k=5, seed=2**64 - 1, n=2, logit_bias={7: 1.5}, stop_token_ids=(1, 2), stop=("a", "b")
    )
    assert type(plain.top_k) is int
    assert type(plain.temperature) is float
    assert all(type(token_id) is int for token_id in plain.stop_token_ids)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stop", 5),
        ("stop", b"x"),
        ("stop", ("a", 1)),
        ("stop", {"a": 1}),
        ("stop_token_ids", 5),
        ("stop_token_ids", "12"),
        ("stop_token_ids", [1.5]),
        ("logit_bias", [1, 2]),
        ("logit_bias", {"65": 1}),
        ("logit_bias", {65: "1"}),
        ("ignore_eos", "no"),
        ("skip_special_tokens", 1),
        ("include_stop_str_in_output", 0.0),
        ("temperature", "1"),
        ("temperature", 1j),
        ("top_k", np.float32(5)),
        ("n", []),
        ("constraint", {"kind": "regex"}),
    ],
)
def test_what_a_parameter_cannot_be_is_named(name, value):
    with pytest.raises(UsageError, match=name) as caught:
        plain_params(SamplingParams(**{name: value}))
    assert caught.value.hint


@pytest.mark.parametrize("params", [{"temperature": 0}, 0.5, "greedy", [{"temperature": 0}], [0.5]])
def test_parameters_are_sampling_params(params):
    with pytest.raises(UsageError, match="the parameters are a"):
        params_of_each(params, 1)


def test_parameters_for_each_are_checked_each():
    shared = SamplingParams(top_k=np.int64(3))
    assert [one.top_k for one in params_of_each([shared, None, shared], 3)] == [3, None, 3]
    with pytest.raises(UsageError, match="2 sampling parameters for 3 prompts"):
        params_of_each([shared, shared], 3)


@pytest.mark.parametrize("prompt", [np.array([65, 66]), list(np.array([65, 66])), (65, np.int32(66))])
def test_an_array_of_token_ids_is_one_prompt(llm, prompt):
    result = llm.generate(prompt, GREEDY)
    assert result.prompt_token_ids == (65, 66)
    assert all(type(token_id) is int for token_id in result.prompt_token_ids)
    assert llm.embed(prompt) == llm.embed([65, 66])
    assert llm.score(prompt) == llm.score([65, 66])
    assert [event.text for event in llm.stream(prompt, GREEDY)]


def test_arrays_of_several_rows_are_several_prompts(llm):
    ids = [[65, 66], [67, 68]]
    for prompts in (np.array(ids), [np.array(row) for row in ids]):
        assert [result.prompt_token_ids for result in llm.generate(prompts, GREEDY)] == [(65, 66), (67, 68)]
        assert len(llm.score(prompts)) == len(llm.embed(prompts)) == 2


@pytest.mark.parametrize("value", [None, 5, 5.0, b"text", {"role": "user"}, {1, 2}, np.int64(5)])
def test_what_is_no_prompt_is_refused(llm, value):
    for ask in (llm.generate, llm.chat, llm.score, llm.embed, partial(llm.rerank, "query")):
        with pytest.raises(UsageError) as caught:
            ask(value)
        assert caught.value.hint
    with pytest.raises(UsageError):
        list(llm.stream(value))


def test_text_is_no_list_of_documents(llm):
    with pytest.raises(UsageError, match="list of documents"):
        llm.rerank("query", "text")
    with pytest.raises(UsageError, match="top_n"):
        llm.rerank("query", ["text"], top_n="1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("context", "8"),
        ("context", 1.5),
        ("context", 0),
        ("context", True),
        ("threads", 0),
        ("threads", "2"),
        ("max_sequences", 0),
        ("max_sequences", None),
        ("max_step_tokens", 0),
        ("max_step_tokens", 1 << 20),
        ("kv_type", "f8"),
        ("kv_type", None),
        ("chat_template", 5),
        ("quantize", 4),
        ("lora", "adapter.gguf"),
        ("adapter", [5]),
        ("adapter", [("adapter.gguf", "half")]),
        ("adapter", ("adapter.gguf", 0.5)),
    ],
)
def test_what_a_model_cannot_be_loaded_with_is_named(tiny_model, name, value):
    with pytest.raises(UsageError, match=name) as caught:
        LLM(tiny_model, **{"lora" if name == "adapter" else name: value})
    assert caught.value.hint


@pytest.mark.parametrize("model", [None, 5, ["a"]])
def test_a_model_is_a_name_or_a_path(model):
    with pytest.raises(UsageError, match="neither a name nor a path"):
        LLM(model)
