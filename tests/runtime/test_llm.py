"""LLM, as a program uses it: on a tiny model through the real engine, and on a script where the tokens matter."""

import asyncio
import gc
import itertools
import os
import signal
import threading
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from abaci import LLM, SamplingParams
from abaci.chat.reranking import Reranker
from abaci.engine.loader import LoadedModel, load, reference_backend
from abaci.engine.memory import CacheSize
from abaci.engine.scripted import ScriptedGenerator
from abaci.engine.threads import ThreadPlan
from abaci.errors import AbaciError, ContextLengthError, EngineClosedError, FileFormatError, UsageError
from abaci.formats.gguf import GgufCheckpoint, write_gguf
from abaci.generation import FinishReason
from abaci.models.families import spec_from_gguf
from abaci.tensor import WeightFormat

CONTEXT = 256
IM_START, IM_END = 256, 257
GREEDY = SamplingParams(temperature=0, max_tokens=8)


@pytest.fixture(scope="module")
def llm(tiny_model):
    with LLM(tiny_model, loader=partial(load, backend=reference_backend), max_step_tokens=64) as llm:
        yield llm


@pytest.fixture
def reciting(tiny_model):
    """Makes LLMs that recite bytes instead of computing."""
    made = []

    def make(script):
        def recite(request, sample_index):
            return script(request, sample_index) if callable(script) else script

        def loader(checkpoint, options):
            generator = ScriptedGenerator(recite)
            spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
            plan = ThreadPlan((0,), False, "request")
            return LoadedModel(generator, spec, checkpoint, {}, plan, CacheSize(CONTEXT, (8,), 0))

        made.append(LLM(tiny_model, loader=loader))
        return made[-1]

    yield make
    for llm in made:
        llm.close()


def endless(byte):
    return lambda request, sample_index: itertools.islice(itertools.repeat(byte), 10_000)


def test_what_there_is_to_know_of_how_a_model_is_run_is_told(tiny_model):
    def loader(checkpoint, options):
        loaded = load(checkpoint, options, reference_backend)
        return replace(loaded, spec=replace(loaded.spec, notes=("it turns slowly",)))

    with pytest.warns(match="it turns slowly"), LLM(tiny_model, loader=loader, max_step_tokens=64):
        pass


def test_one_prompt_gives_one_result_and_a_list_gives_a_list(llm):
    one = llm.generate("hello", GREEDY)
    many = llm.generate(["hello", "world"], GREEDY)
    ids = llm.generate(llm.tokenizer.encode("hello"), GREEDY)
    assert one.text == many[0].text == ids.text == llm.tokenizer.decode(one.token_ids)
    assert len(one.token_ids) == 8 and one.finish_reason is FinishReason.LENGTH
    assert one.prompt_token_ids == tuple(b"hello")
    assert many[0].token_ids != many[1].token_ids
    assert llm.generate([], GREEDY) == []
    assert one.logprobs is None and one.prompt_logprobs is None and one.error is None


def test_usage_counts_and_times(llm):
    usage = llm.generate("count these", GREEDY).usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (11, 8)
    assert usage.prefill_seconds > 0 and usage.decode_seconds > 0


def test_a_prompt_that_cannot_run_fails_alone(llm):
    results = llm.generate(["a", "b" * 300, [99999], [], "c", None], GREEDY)
    assert [result.error is None for result in results] == [True, False, False, False, True, False]
    assert isinstance(results[1].error, ContextLengthError)
    assert "300 prompt tokens and max_tokens 8 make 308, but the context holds 256" in results[1].error.message
    assert "99999" in results[2].error.message
    assert results[1].text == "" and results[1].finish_reason is FinishReason.ERROR
    assert results[1].usage.prompt_tokens == 300
    assert results[4].token_ids == llm.generate("c", GREEDY).token_ids


@pytest.mark.parametrize(
    ("name", "value"),
    [("stop_token_ids", (7, 99999)), ("logit_bias", {99999: 1.0}), ("logprobs", 99999), ("prompt_logprobs", 99999)],
)
def test_a_parameter_beyond_the_vocabulary_is_named(llm, name, value):
    error = llm.generate("a", SamplingParams(max_tokens=1, **{name: value})).error
    assert isinstance(error, UsageError)
    assert error.message.startswith(name)
    assert "99999" in error.message


def test_max_tokens_defaults_to_the_end_of_the_context(llm):
    result = llm.generate("x" * 250, SamplingParams(temperature=0, ignore_eos=True))
    assert len(result.token_ids) == 6
    assert isinstance(llm.generate("x" * 256).error, ContextLengthError)


def test_parameters_out_of_range_are_refused_at_once(llm):
    for params in (SamplingParams(temperature=-1), SamplingParams(top_k=0), SamplingParams(stop=("",))):
        with pytest.raises(UsageError):
            llm.generate("a", params)
    with pytest.raises(UsageError, match="2 sampling parameters for 1 prompts"):
        llm.generate(["a"], [GREEDY, GREEDY])


def test_each_prompt_may_have_its_own_parameters(llm):
    short, long = llm.generate(["a", "a"], [SamplingParams(max_tokens=n, ignore_eos=True) for n in (2, 5)])
    assert (len(short.token_ids), len(long.token_ids)) == (2, 5)


def test_the_seed_decides_and_is_reported(llm):
    params = SamplingParams(max_tokens=20, temperature=1.0)
    free = llm.generate("a", params)
    again = llm.generate("a", SamplingParams(max_tokens=20, temperature=1.0, seed=free.seed))
    other = llm.generate("a", SamplingParams(max_tokens=20, temperature=1.0, seed=free.seed ^ 1))
    assert again.token_ids == free.token_ids != other.token_ids
    *_, last = llm.stream("a", params)
    streamed_again = llm.generate("a", SamplingParams(max_tokens=20, temperature=1.0, seed=last.seed))
    assert streamed_again.seed == last.seed != free.seed


def test_samples_of_one_prompt(llm):
    result = llm.generate("a" * 40, SamplingParams(max_tokens=10, n=3, seed=1, temperature=1.0))
    assert [output.index for output in result.outputs] == [0, 1, 2]
    assert len({output.token_ids for output in result.outputs}) == 3
    assert result.text == result.outputs[0].text
    assert result.usage.completion_tokens == sum(len(output.token_ids) for output in result.outputs)


def test_logprobs(llm):
    result = llm.generate("abc", SamplingParams(temperature=0, max_tokens=4, logprobs=2, prompt_logprobs=1))
    assert [entry.token_id for entry in result.logprobs] == list(result.token_ids)
    for entry in result.logprobs:
        assert entry.top[0] == (entry.token_id, pytest.approx(entry.logprob))
        assert len(entry.top) == 2
    assert len(result.prompt_logprobs) == len(result.prompt_token_ids) + 1
    assert result.prompt_logprobs[-1].top[0][0] == result.token_ids[0]


def test_score_agrees_with_generation(llm):
    prompt = tuple(b"some text")
    generated = llm.generate(prompt, SamplingParams(temperature=0, max_tokens=5, logprobs=0))
    whole = (*prompt, *generated.token_ids)
    score = llm.score(whole, top_k=3)
    assert score.token_ids == whole
    assert score.logprobs[0] is None and len(score.logprobs) == len(score.top) == len(whole)
    assert list(score.logprobs[len(prompt) :]) == [entry.logprob for entry in generated.logprobs]
    for position, token_id in enumerate(generated.token_ids, len(prompt)):
        assert next(iter(score.top[position - 1])) == token_id
    assert all(len(top) == 3 for top in score.top)
    assert np.exp(list(llm.score(whole[:4], top_k=260).top[-1].values())).sum() == pytest.approx(1, abs=1e-4)


def test_score_of_several_texts_and_of_what_cannot_be_scored(llm):
    several = llm.score([[1, 2, 3], [4, 5]])
    assert [len(score.logprobs) for score in several] == [3, 2]
    assert several[0] == llm.score([1, 2, 3])
    assert several[0].top == ({}, {}, {})
    assert llm.score([]) == []
    for wrong in ("text", [[1], "text"], [[]], [99999], list(range(200)) * 2):
        with pytest.raises(UsageError):
            llm.score(wrong)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_embeddings(llm, pooling):
    one = llm.embed("hello", pooling)
    long = "so much longer that it is computed in several steps, " * 3
    several = llm.embed([long, "hello", [104, 105]], pooling)
    assert isinstance(one, tuple) and len(one) == 32 and one == several[1]
    assert len(set(several)) == 3
    assert llm.embed([], pooling) == []
    llm.generate(long, GREEDY)
    assert llm.embed(long, pooling) == several[0], "whatever is cached"
    assert asyncio.run(llm.aembed(long, pooling)) == several[0]


def rewritten(path, new_path, changes, more=()):
    """A copy of a model with other metadata, and more tensors."""
    with GgufCheckpoint.open(path) as checkpoint:
        tensors = [
            (name, info.format, info.shape, bytes(checkpoint.data(info))) for name, info in checkpoint.tensors.items()
        ]
        write_gguf(new_path, {**checkpoint.metadata, **changes}, [*tensors, *more])
    return new_path


def test_embeddings_are_pooled_as_the_file_says(tiny_model, tmp_path):
    changes = {"llama.pooling_type": 3, "tokenizer.ggml.add_eos_token": True}
    with LLM(rewritten(tiny_model, tmp_path / "last.gguf", changes), threads=2) as llm:
        assert llm.embed("hello") == llm.embed([*b"hello", IM_END], "last") != llm.embed("hello", "mean")


def test_a_model_without_a_head_embeds_and_does_nothing_else(tiny_model, tmp_path, llm):
    path = rewritten(tiny_model, tmp_path / "bare.gguf", {"llama.has_head": False})
    with LLM(path, loader=partial(load, backend=reference_backend), max_step_tokens=64) as bare:
        assert bare.embed("hello") == llm.embed("hello")
        assert "no head" in str(bare.generate("hello").error)
        for ask in (lambda: bare.score([1, 2]), lambda: bare.rerank("which?", ["a"]), lambda: next(bare.stream("a"))):
            with pytest.raises(UsageError, match="no head") as caught:
                ask()
            assert "embeddings" in caught.value.hint


@pytest.fixture
def reranker(tiny_model, tmp_path):
    """Has a context that holds the prompt."""
    path = rewritten(tiny_model, tmp_path / "reranker.gguf", {"llama.context_length": 1024})
    with LLM(path, threads=2, max_step_tokens=64) as llm:
        yield llm


def test_reranking_asks_for_yes_and_no(reranker):
    llm = reranker
    documents = ["one", "two", "three"]
    found = llm.rerank("which?", documents, instruction="Count.")
    assert sorted(document.index for document in found) == [0, 1, 2]
    assert [document.score for document in found] == sorted((d.score for d in found), reverse=True)
    for document in found:
        yes, no = Reranker(llm.tokenizer, "which?", "Count.").requests(documents[document.index], ("a", "b"))
        logprobs = [
            sum(llm.score(request.prompt_token_ids).logprobs[request.prompt_logprobs_begin :]) for request in (yes, no)
        ]
        assert document.score == pytest.approx(1 / (1 + np.exp(logprobs[1] - logprobs[0])), rel=1e-9)
    assert llm.rerank("which?", documents, instruction="Count.", top_n=1) == found[:1]
    assert asyncio.run(llm.arerank("which?", documents, instruction="Count.")) == found
    assert llm.rerank("which?", []) == []
    with pytest.raises(UsageError):
        llm.rerank("which?", [3])
    with pytest.raises(UsageError):
        llm.rerank("which?", ["x" * 1000])


def test_numbers_at_the_ends_of_their_ranges_give_an_answer(llm):
    ends = [
        {"top_k": 10**12},
        {"temperature": 1e30},
        {"temperature": 1e-30},
        {"repetition_penalty": 1e30},
        {"repetition_penalty": 1e-30},
        {"min_p": 1e-300},
        {"top_p": 1e-300},
        {"logprobs": 260},
        {"n": 100},
    ]
    results = llm.generate(["a"] * len(ends), [SamplingParams(max_tokens=3, ignore_eos=True, **end) for end in ends])
    assert [result.error for result in results] == [None] * len(ends)
    assert len(results[-1].outputs) == 100


HEAD_ROWS = np.random.default_rng(1).normal(size=(2, 32)).astype(np.float32)
RANKING = {
    "llama.context_length": 1024,
    "llama.pooling_type": 4,
    "llama.classifier.output_labels": ["yes", "no"],
}


def classifier(weight_format=WeightFormat.F32, rows=HEAD_ROWS):
    values = rows.astype(np.float16) if weight_format is WeightFormat.F16 else rows
    if weight_format is WeightFormat.BF16:
        values = (rows.view(np.uint32) >> 16).astype(np.uint16)
    return "cls.output.weight", weight_format, rows.shape, values.tobytes()


@pytest.mark.parametrize("weight_format", [WeightFormat.F32, WeightFormat.F16, WeightFormat.BF16])
@pytest.mark.parametrize("labels", [["yes", "no"], ["no", "yes"]])
def test_a_reranker_s_classifier_judges_the_last_token_s_state(tiny_model, tmp_path, weight_format, labels):
    changes = RANKING | {"llama.classifier.output_labels": labels}
    path = rewritten(tiny_model, tmp_path / "rank.gguf", changes, [classifier(weight_format)])
    documents = ["one", "two", "three"]
    with LLM(path, threads=2, max_step_tokens=64) as llm:
        found = llm.rerank("which?", documents)
        assert asyncio.run(llm.arerank("which?", documents)) == found
        assert [document.score for document in found] == sorted((d.score for d in found), reverse=True)
        for document in found:
            yes, _ = Reranker(llm.tokenizer, "which?").requests(documents[document.index], ("a", "b"))
            state = llm.embed(yes.prompt_token_ids[: yes.prompt_logprobs_begin], "last")
            yes_logit, no_logit = HEAD_ROWS @ state if labels[0] == "yes" else HEAD_ROWS[::-1] @ state
            assert document.score == pytest.approx(1 / (1 + np.exp(no_logit - yes_logit)), rel=0.05, abs=1e-3)
        assert "no head" in str(llm.generate("hello").error), "two rows of the head are all that is left of it"


def test_a_classifier_beside_a_head_leaves_the_model_its_answers(tiny_model, tmp_path, llm):
    with GgufCheckpoint.open(tiny_model) as checkpoint:
        info = checkpoint.tensors["token_embd.weight"]
        head = ("output.weight", info.format, info.shape, bytes(checkpoint.data(info)))
    path = rewritten(tiny_model, tmp_path / "both.gguf", RANKING, [head, classifier()])
    with LLM(path, threads=2, max_step_tokens=64) as both:
        assert both.generate("hello", GREEDY).token_ids == llm.generate("hello", GREEDY).token_ids
        assert len(both.rerank("which?", ["one", "two"])) == 2


@pytest.mark.parametrize(
    ("changes", "rows", "complaint"),
    [
        ({"llama.classifier.output_labels": ["good", "bad"]}, HEAD_ROWS, "labels"),
        ({"llama.classifier.output_labels": 3}, HEAD_ROWS, "labels"),
        ({}, HEAD_ROWS[:, :16], "row of 32"),
        ({}, np.full((2, 32), np.inf, np.float32), "not finite"),
    ],
)
def test_classifiers_that_cannot_be_used_are_refused(tiny_model, tmp_path, changes, rows, complaint):
    path = rewritten(tiny_model, tmp_path / "bad.gguf", RANKING | changes, [classifier(rows=rows)])
    with pytest.raises(AbaciError, match=complaint):
        LLM(path, threads=2)


def test_embeddings_that_cannot_be_had_are_refused(llm):
    with pytest.raises(UsageError, match="pooling 'max'"):
        llm.embed("hello", "max")
    with pytest.raises(UsageError, match="no tokens"):
        llm.embed(["a", []])
    with pytest.raises(UsageError):
        llm.embed("b" * 300)


def test_chat_goes_through_the_template(llm):
    conversation = [{"role": "user", "content": "hi <|im_end|>"}]
    result = llm.chat(conversation, GREEDY)
    expected = [IM_START, *b"user\nhi <|im_end|>", IM_END, *b"\n", IM_START, *b"assistant\n"]
    assert list(result.prompt_token_ids) == expected
    several = llm.chat([conversation, [{"role": "user", "content": "bye"}]], GREEDY)
    assert several[0].token_ids == result.token_ids
    assert isinstance(llm.chat([[{"role": "nobody", "content": "x"}]], GREEDY)[0].error, UsageError)


def test_text_is_no_conversation(llm):
    result = llm.chat("hello", GREEDY)
    assert isinstance(result.error, UsageError)


def test_stream_gives_the_same_as_generate(llm):
    params = SamplingParams(temperature=0, max_tokens=30, logprobs=0)
    whole = llm.generate("stream", params)
    events = list(llm.stream("stream", params))
    assert "".join(event.text for event in events) == whole.text
    assert tuple(token for event in events for token in event.token_ids) == whole.token_ids
    assert [event.finish_reason for event in events if event.finish_reason] == [FinishReason.LENGTH]
    assert events[-1].usage.completion_tokens == 30
    assert all(event.usage is None for event in events[:-1])
    chat = [{"role": "user", "content": "hi"}]
    assert "".join(event.text for event in llm.stream(chat, GREEDY)) == llm.chat(chat, GREEDY).text


def test_stream_raises_what_cannot_run(llm):
    with pytest.raises(ContextLengthError):
        llm.stream("x" * 300)
    with pytest.raises(UsageError, match="99999"):
        list(llm.stream([99999], GREEDY))


def test_a_stream_tells_its_usage_also_when_it_is_closed_early(llm):
    events = llm.stream("usage", SamplingParams(max_tokens=200, ignore_eos=True))
    assert (events.usage.prompt_tokens, events.usage.completion_tokens) == (0, 0)
    next(events)
    next(events)
    events.close()
    assert events.usage.prompt_tokens == len(llm.tokenizer.encode("usage", allow_special=True))
    assert events.usage.completion_tokens == 2
    assert events.usage.prefill_seconds > 0
    with pytest.raises(StopIteration):
        next(events)


def test_closing_a_stream_cancels_its_request(llm):
    before = llm._model.generator.stats().generated_tokens
    events = llm.stream("forever", SamplingParams(max_tokens=240, ignore_eos=True))
    next(events)
    events.close()
    llm.generate("after", GREEDY)
    assert llm._model.generator.stats().running == 0
    assert llm._model.generator.stats().generated_tokens - before < 200


def test_the_async_twins_agree_and_sync_calls_work_inside_a_loop(llm):
    chat = [{"role": "user", "content": "hi"}]

    async def everything():
        streamed = [event async for event in llm.astream("hello", GREEDY)]
        results = await asyncio.gather(
            llm.agenerate("hello", GREEDY), llm.agenerate(["a", "b"], GREEDY), llm.achat(chat, GREEDY)
        )
        score = await llm.ascore([1, 2, 3], 1)
        return streamed, results, score, llm.generate("hello", GREEDY)

    streamed, (one, two, answer), score, inside = asyncio.run(everything())
    assert "".join(event.text for event in streamed) == one.text == inside.text == llm.generate("hello", GREEDY).text
    assert [result.token_ids for result in two] == [r.token_ids for r in llm.generate(["a", "b"], GREEDY)]
    assert answer.text == llm.chat(chat, GREEDY).text
    assert score == llm.score([1, 2, 3], 1)


def test_cancelling_a_task_cancels_its_request(llm):
    async def give_up():
        task = asyncio.create_task(llm.agenerate("long", SamplingParams(max_tokens=240, ignore_eos=True)))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return task.cancelled()

    before = llm._model.generator.stats().generated_tokens
    assert asyncio.run(give_up())
    llm.generate("after", GREEDY)
    assert llm._model.generator.stats().running == 0
    assert llm._model.generator.stats().generated_tokens - before < 200


@pytest.fixture
def keyboard_interrupts():
    """SIGINT raises KeyboardInterrupt, also where the shell that started the tests in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("keyboard_interrupts")
def test_ctrl_c_stops_the_request_and_not_the_model(reciting):
    interrupted = threading.Event()

    def script(request, sample_index):
        if request.request_id == "llm-0":
            time.sleep(0.2)  # by now the caller waits for events
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupted.wait(30)
        return b"aaa"

    llm = reciting(script)
    with pytest.raises(KeyboardInterrupt):
        llm.generate("x", SamplingParams(max_tokens=3))
    interrupted.set()
    assert ("llm-0", None) in llm._model.generator._cancelled
    assert llm.generate("y", SamplingParams(max_tokens=3)).text == "aaa"


def test_a_conversation_the_template_cannot_take_fails_alone(tiny_model):
    template = (
        "{% for m in messages %}{% if m['content'] == 'bad' %}{{ raise_exception('no') }}{% endif %}x{% endfor %}"
    )
    bomb = (
        template
        + "{% for i in range(9999999) %}{% if messages[0]['content'] == 'loop' %}{{ i }}{% endif %}{% endfor %}"
    )
    ask = [[{"role": "user", "content": content}] for content in ("bad", "good", "loop")]
    with LLM(tiny_model, loader=partial(load, backend=reference_backend), chat_template=template) as llm:
        assert [result.error is None for result in llm.chat(ask, GREEDY)] == [False, True, True]
    with LLM(tiny_model, loader=partial(load, backend=reference_backend), chat_template=bomb) as llm:
        assert all(isinstance(result.error, AbaciError) for result in llm.chat(ask, GREEDY))


def test_info_says_what_runs(llm, tiny_model):
    info = llm.info
    assert (info.name, info.path, info.architecture, info.licence) == ("tiny", tiny_model, "llama", "mit")
    assert info.context_length == CONTEXT
    assert info.kernels == {"F32": "reference"}
    assert info.num_threads >= 1 and info.cache_bytes > 0


def test_stop_strings_end_one_sample_and_cut_its_text(reciting):
    def script(request, sample_index):
        return b"one two three" if sample_index == 0 else b"1 2 3"

    result = reciting(script).generate("x", SamplingParams(stop="two", n=2, max_tokens=20))
    first, second = result.outputs
    assert (first.text, first.finish_reason) == ("one ", FinishReason.STOP)
    assert bytes(first.token_ids) == b"one two"
    assert second.text == "1 2 3"
    kept = reciting(script).generate("x", SamplingParams(stop=("two",), include_stop_str_in_output=True, max_tokens=20))
    assert kept.text == "one two"


def test_a_stop_string_cancels_the_sample_at_the_generator(reciting):
    llm = reciting(endless(ord("a")))
    result = llm.generate("x", SamplingParams(stop="aaa", max_tokens=200))
    assert (result.text, len(result.token_ids)) == ("", 3)
    assert llm._model.generator._cancelled == {("llm-0", 0)}


def test_half_a_character_is_never_streamed(reciting):
    events = list(reciting("ä€😀".encode()).stream("x", SamplingParams(max_tokens=20)))
    assert [event.text for event in events if event.text] == ["ä", "€", "😀"]


def test_an_end_token_is_counted_but_not_shown(reciting):
    result = reciting([*b"bye", IM_END, *b"more"]).generate("x", SamplingParams(max_tokens=20))
    assert (result.text, result.token_ids[-1], result.finish_reason) == ("bye", IM_END, FinishReason.STOP)


def test_what_fails_on_the_way_is_an_error_of_its_result(reciting):
    def script(request, sample_index):
        if request.prompt_token_ids == (ord("x"),):
            raise RuntimeError("broken")
        return b"fine"

    llm = reciting(script)
    bad, good = llm.generate(["x", "y"], SamplingParams(max_tokens=20))
    assert isinstance(bad.error, AbaciError) and "broken" in bad.error.message
    assert bad.finish_reason is FinishReason.ERROR
    assert good.text == "fine"
    with pytest.raises(AbaciError, match="broken"):
        list(llm.stream("x"))


def test_defaults_come_from_the_model_and_give_way_to_the_caller(reciting):
    llm = reciting(b"ok")
    llm.generate(["a", "b"], [SamplingParams(), SamplingParams(temperature=0.9, top_k=3)])
    first, second = llm._model.generator.requests
    assert (first.temperature, first.top_p, first.top_k, first.max_tokens) == (0.5, 1.0, 0, CONTEXT - 1)
    assert (second.temperature, second.top_k) == (0.9, 3)
    assert first.end_token_ids == {IM_END}
    llm.generate("a", SamplingParams(ignore_eos=True, stop_token_ids=(65,)))
    assert llm._model.generator.requests[-1].end_token_ids == {65}


def test_use_after_close_is_a_clear_error(tiny_model):
    llm = LLM(tiny_model, loader=partial(load, backend=reference_backend))
    llm.close()
    llm.close()
    with pytest.raises(EngineClosedError):
        llm.generate("a")


def test_a_model_nobody_holds_is_released(tiny_model):
    llm = LLM(tiny_model, loader=partial(load, backend=reference_backend))
    thread = llm._model.generator._thread
    del llm
    gc.collect()
    thread.join(30)
    assert not thread.is_alive()


def test_a_file_that_is_no_model_leaves_nothing_running(tmp_path):
    (tmp_path / "noise.gguf").write_bytes(b"noise" * 100)
    with pytest.raises(FileFormatError):
        LLM(tmp_path / "noise.gguf")


def test_two_models_in_one_process_work_side_by_side(tiny_model):
    """Through the compiled kernels, whose threads they share."""
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    prompts = [f"prompt {i}" for i in range(6)]
    found = {}
    with LLM(tiny_model) as first, LLM(tiny_model) as second:
        expected = [result.token_ids for result in first.generate(prompts, params)]

        def ask(name, llm):
            found[name] = [[r.token_ids for r in llm.generate(prompts, params)] for _ in range(3)]

        callers = [threading.Thread(target=ask, args=pair) for pair in (("first", first), ("second", second))]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(60)
    assert found == {"first": [expected] * 3, "second": [expected] * 3}


def test_a_cache_type_that_there_is_not_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(UsageError, match="kv_type 'q4' is not possible"):
        LLM("no such model", kv_type="q4")
