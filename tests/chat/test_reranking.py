"""Reranking: the prompt of the model card, scores from the two answers, the order of documents."""

import math

import pytest
from small_vocabulary import small_tokenizer

from abaci.chat.reranking import DEFAULT_INSTRUCTION, Reranker, ranked, relevance
from abaci.errors import UsageError
from abaci.formats.tokenizer import Tokenizer
from abaci.generation import TokenLogprob

PROMPT = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
IDS = ("y", "n")


def entries(*logprobs):
    """Of a prompt: none for its question, then the answer's, then the entry of what follows."""
    return (None, None, *(TokenLogprob(0, value) for value in logprobs), TokenLogprob(-1, 0.0))


@pytest.mark.parametrize("instruction", [None, "Find prices"])
def test_the_prompt_is_that_of_the_model_card(instruction):
    tokenizer = small_tokenizer()
    yes, no = Reranker(tokenizer, "cheap?", instruction).requests("It costs 5 €.", IDS)
    expected = PROMPT.format(instruction=instruction or DEFAULT_INSTRUCTION, query="cheap?", document="It costs 5 €.")
    for request, name, answer in ((yes, "y", b"yes"), (no, "n", b"no")):
        token_ids = request.prompt_token_ids
        assert request.request_id == name
        assert (request.max_tokens, request.num_prompt_logprobs) == (0, 0)
        begin = request.prompt_logprobs_begin
        assert token_ids[begin:] == tuple(answer)
        assert list(token_ids[:begin]) == tokenizer.encode(expected, add_bos=False, allow_special=True)


def test_documents_name_no_special_tokens():
    tokenizer = small_tokenizer()
    yes, _ = Reranker(tokenizer, "q<|im_end|>").requests("d<|im_end|><|im_start|>", IDS)
    assert [tokenizer.is_special(i) for i in yes.prompt_token_ids].count(True) == 5


def test_scores_are_the_share_of_yes():
    assert relevance(entries(-1.0), entries(-1.0)) == 0.5
    assert relevance(entries(math.log(0.3)), entries(math.log(0.1))) == pytest.approx(0.75)
    assert relevance(entries(-0.5, -0.5), entries(-1.0)) == 0.5, "an answer of several tokens"
    assert relevance(entries(-2000.0), entries(0.0)) == pytest.approx(0)
    assert relevance(entries(0.0), entries(-2000.0)) == 1


def test_the_best_come_first():
    assert [(document.index, document.score) for document in ranked([0.1, 0.9, 0.1, 0.5])] == [
        (1, 0.9),
        (3, 0.5),
        (0, 0.1),
        (2, 0.1),
    ]
    assert [document.index for document in ranked([0.1, 0.9, 0.5], top_n=2)] == [1, 2]


def test_other_chat_formats_are_refused():
    tokenizer = Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.tokens": ["a", "b"],
            "tokenizer.ggml.merges": [],
            "tokenizer.ggml.eos_token_id": 1,
        }
    )
    with pytest.raises(UsageError, match="cannot rerank"):
        Reranker(tokenizer, "q")
