"""`/v1/rerank` over a scripted model: the wire, its limits, its errors. What a model is asked is tested elsewhere."""

import math
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from scripted_server import MODEL, ScriptedServer

from abaci.chat.reranking import YesOrNo
from abaci.generation import Pooling

DOCUMENTS = ["bad", "good", "fair"]
CHANCES = {"bad": 0.1, "good": 0.9, "fair": 0.5}


@pytest.fixture
def server(reused_server: ScriptedServer) -> ScriptedServer:
    reused_server.generator.chances_of_yes = CHANCES
    return reused_server


def post(server: ScriptedServer, path: str = "/v1/rerank", **body: Any) -> httpx.Response:
    given = {"model": MODEL, "query": "q", "documents": DOCUMENTS} | body
    return httpx.post(f"{server.url}{path}", json=given, trust_env=False)


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_the_most_relevant_come_first(server: ScriptedServer, path: str) -> None:
    answer = post(server, path).json()
    assert [result["index"] for result in answer["results"]] == [1, 2, 0]
    assert [result["relevance_score"] for result in answer["results"]] == pytest.approx([0.9, 0.5, 0.1])
    assert [result["document"]["text"] for result in answer["results"]] == ["good", "fair", "bad"]
    assert answer["model"] == MODEL and answer["id"].startswith("rerank-")
    num_tokens = sum(len(request.prompt_token_ids) for request in server.requests)
    assert answer["usage"] == {
        "prompt_tokens": num_tokens,
        "total_tokens": num_tokens,
        "prompt_tokens_details": {"cached_tokens": 6},
    }


def test_fewer_and_without_their_text(server: ScriptedServer) -> None:
    documents = [{"text": text} for text in DOCUMENTS]
    answer = post(server, top_n=1, return_documents=False, documents=documents).json()
    assert answer["results"] == [{"index": 1, "relevance_score": pytest.approx(0.9)}]


def test_more_documents_than_run_at_a_time(server: ScriptedServer) -> None:
    documents = ["bad"] * 50 + ["good"] + ["fair"] * 40
    answer = post(server, documents=documents, top_n=2).json()
    assert [result["index"] for result in answer["results"]] == [50, 51]
    assert len(server.requests) == 2 * len(documents)


def test_a_classifier_takes_one_request_for_each_document(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert post(server).status_code == 200, "which loads it"
    server.requests.clear()
    (model,) = [model for model in server.services.pool.loaded() if model.status.name == MODEL]
    classifier = YesOrNo(np.array([0.25, 9.0, -0.0625], np.float32))
    monkeypatch.setattr(model, "text", replace(model.text, classifier=classifier))
    answer = post(server).json()
    expected = 1 / (1 + math.exp(-0.5))
    assert [result["relevance_score"] for result in answer["results"]] == pytest.approx([expected] * 3)
    assert [result["index"] for result in answer["results"]] == [0, 1, 2]
    assert [request.pooling for request in server.requests] == [Pooling.LAST] * 3


def test_instruction_and_standing_reach_the_model(server: ScriptedServer) -> None:
    assert post(server, instruction="Find x.", cache_salt="s", priority=3).status_code == 200
    assert "<Instruct>: Find x.\n<Query>: q\n<Document>: bad<|im_end|>" in server.prompt(0)
    assert {(request.cache_salt.split("\n")[-1], request.priority) for request in server.requests} == {("s", 3)}


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"documents": []}, "documents"),
        ({"documents": ["x"] * 1025}, "documents"),
        ({"documents": [3]}, "documents"),
        ({"documents": "bad"}, "documents"),
        ({"query": None}, "query"),
        ({"top_n": 0}, "top_n"),
        ({"max_tokens_per_doc": 5}, "max_tokens_per_doc"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(server: ScriptedServer, body: Any, parameter: str) -> None:
    answer = post(server, **body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, parameter)
    assert server.requests == []


def test_a_document_longer_than_the_context(server: ScriptedServer) -> None:
    answer = post(server, documents=["good", "x" * 5000])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_unknown_parameters_are_told_of(server: ScriptedServer) -> None:
    assert "colour" in post(server, colour="blue").headers["x-abaci-warning"]
